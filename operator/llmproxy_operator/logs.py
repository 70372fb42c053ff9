"""Logging of the operator: JSON lines on stderr."""

import logging
import sys

from llmproxy.logs import JsonLogFormatter


def configure(level: str) -> None:
    """Log to stderr: the operator's loggers from *level*, those of libraries from WARNING."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLogFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("llmproxy_operator").setLevel(level)
