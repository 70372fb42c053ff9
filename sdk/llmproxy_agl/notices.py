"""Log messages of the SDK: progress of a start, and warnings, each once in a process."""

import logging
import sys

log = logging.getLogger("llmproxy_agl")

_warned: set[str] = set()


def warn_once(text: str) -> None:
    """Log *text* as a warning, once in a process."""
    if text not in _warned:
        _warned.add(text)
        log.warning(text)


def progress(text: str) -> None:
    """Log *text*; without configured logging print it: a silent wait of minutes looks like a hang."""
    if log.hasHandlers():
        log.info(text)
    else:
        print(f"llmproxy_agl: {text}", file=sys.stderr, flush=True)  # noqa: T201 - see above
