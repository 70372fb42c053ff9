"""JSON lines on stderr, one event a line. What calls hold never gets here: events carry ids, counts and reasons."""

import json
import logging

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonLines(logging.Formatter):
    """One event with its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        event = {"at": self.formatTime(record), "level": record.levelname.lower(), "event": record.getMessage()}
        event |= {name: value for name, value in vars(record).items() if name not in _OWN}
        if record.exc_info:
            event["trace"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)


def to_stderr() -> None:
    """Log there from now on."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
