"""JSON logs of every process: one object a line on stderr, times in UTC.

Events carry ids, counts and reasons, never the content of a request or a key. Also used by the operator.
"""

import json
import logging
import sys
from datetime import UTC, datetime

_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


class JsonLogFormatter(logging.Formatter):
    """Formats a record as one line of JSON: time, level, event, its fields; the logger's name for libraries."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if not record.name.startswith("llmproxy"):
            line["logger"] = record.name
        fields = vars(record).items()
        line |= {name: value for name, value in fields if name not in _STANDARD_FIELDS and not name.startswith("_")}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def to_stderr() -> None:
    """Write every log of this process to stderr; of noisy libraries errors only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLogFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in ("uvicorn", "uvicorn.error", "asyncio"):
        logging.getLogger(name).setLevel(logging.ERROR)
