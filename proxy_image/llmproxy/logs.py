"""Logs of every process in a pod: one JSON object a line on stderr, times in UTC. Never a prompt, never a key.

What calls hold does not get here: events carry ids, counts and reasons.
"""

import json
import logging
import sys
import time

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class JsonLines(logging.Formatter):
    """One event a line, with its fields."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """Return *record* as one line."""
        at = self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}Z"
        event: dict[str, object] = {"at": at, "level": record.levelname.lower(), "event": record.getMessage()}
        event |= {name: value for name, value in vars(record).items() if name not in _OWN}
        if record.exc_info:
            event["trace"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str, ensure_ascii=False)


def to_stderr() -> None:
    """Write every log of this process to stderr; libraries say no more than what went wrong."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in ("uvicorn", "uvicorn.error", "asyncio"):
        logging.getLogger(name).setLevel(logging.ERROR)
