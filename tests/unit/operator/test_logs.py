"""Log lines as JSON."""

import json
import logging

from llmproxy.logs import JsonLogFormatter


def test_a_log_line_is_an_event_with_fields() -> None:
    record = logging.LogRecord("llmproxy_operator.x", logging.WARNING, "", 0, "reconcile_failed", None, None)
    record.proxy = "n/p"

    line = json.loads(JsonLogFormatter().format(record))

    assert (line["level"], line["event"], line["proxy"]) == ("warning", "reconcile_failed", "n/p")
