"""Reasons of an answer's end, each in the words of the other API. Pure."""

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_KINDS = {
    **dict.fromkeys(("stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "completed"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "model_length", "max_length"), "length"),
    **dict.fromkeys(("tool_calls", "tool_use", "tool_call"), "tool_calls"),
    **dict.fromkeys(("content_filter", "safety", "refusal"), "content_filter"),
    "function_call": "function_call",
}
_STOP = {"length": "max_tokens", "content_filter": "refusal", "tool_calls": "tool_use", "function_call": "tool_use"}


def openai_finish(finish: str | None) -> str | None:
    """Return a chat completion's `finish_reason` in OpenAI's words, None for one that is no end of an answer.

    Servers abort answers, as for an update of the weights (`abort`), or write reasons of their own: an answer with an
    end that nobody knows is not taken for a whole one. An empty reason is none; some servers leave it out at the end.
    """
    return _KINDS.get(finish.lower()) if finish else "stop"


def finish_reason(stop_reason: str | None) -> str:
    """Return OpenAI's reason."""
    return _FINISH.get(stop_reason or "", "stop")


def stop_reason(finish: str | None, matched: object, *, called: bool, refused: bool = False) -> tuple[str, str | None]:
    """Return Anthropic's reason and the stop sequence that ended the answer.

    *matched* is vLLM's `stop_reason`, a string for one of the request's stop sequences; OpenAI does not say. A tool
    call counts whatever the reason is: servers answer "stop" when the call was forced by `tool_choice`.
    """
    if called and finish not in {"length", "content_filter"}:
        return "tool_use", None
    if refused:
        return "refusal", None
    if finish == "stop" and isinstance(matched, str) and matched:
        return "stop_sequence", matched
    return _STOP.get(finish or "", "end_turn"), None
