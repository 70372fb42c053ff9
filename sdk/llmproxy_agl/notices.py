"""Says how a start comes on, and what is accepted and has no meaning here, each such thing once in a process."""

import logging
import sys

log = logging.getLogger("llmproxy_agl")

_said: set[str] = set()


def once(text: str) -> None:
    """Log *text* as a warning, if it has not been said before."""
    if text not in _said:
        _said.add(text)
        log.warning(text)


def progress(text: str) -> None:
    """Log *text*; print it where nobody has set logging up, for a wait of minutes without a word looks like a hang."""
    if log.hasHandlers():
        log.info(text)
    else:
        print(f"llmproxy_agl: {text}", file=sys.stderr, flush=True)  # noqa: T201 - see above
