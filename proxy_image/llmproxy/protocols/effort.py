"""Reasoning effort: one scale for all protocols, of which servers know a part. Pure."""

_SCALE = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def bounded_effort(effort: object, highest: str) -> object:
    """Return *effort*, or *highest* where it is above: SGLang and vLLM refuse what they do not know.

    A server whose scale ends at high begins it at low. An effort off the scale is passed on as it is.
    """
    if not isinstance(effort, str) or effort not in _SCALE:
        return effort
    if effort == "minimal" and highest == "high":
        return "low"
    return _SCALE[min(_SCALE.index(effort), _SCALE.index(highest))]
