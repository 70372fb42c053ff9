"""Says what is accepted and has no meaning here, each thing once in a process."""

import logging

log = logging.getLogger("llmproxy_agl")

_said: set[str] = set()


def once(text: str) -> None:
    """Log *text* as a warning, if it has not been said before."""
    if text not in _said:
        _said.add(text)
        log.warning(text)
