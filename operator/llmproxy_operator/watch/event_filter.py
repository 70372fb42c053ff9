"""From what a watch of LLMProxies reports to the keys to look at. Decides one thing: whether to wake anybody.

An event says that something happened, never what to do. Only the echo of the operator's own status write is taken
out: it would wake every proxy once more for nothing.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from llmproxy_operator.workqueue import Key

_UNSEEN = frozenset({"managedFields", "resourceVersion"})
"""Parts of the metadata that change with every write, also with our own."""


class Doorbell:
    """Wakes proxies. Not thread-safe: call it where the queue runs."""

    def __init__(self, wake: Callable[[Key], None]) -> None:
        self._wake = wake
        self._seen: dict[Key, str] = {}
        self._status: dict[Key, Mapping[str, Any]] = {}

    def expect(self, key: Key, status: Mapping[str, Any]) -> None:
        """Remember a status that is about to be written."""
        self._status[key] = status

    def proxy(self, event: str | None, body: Mapping[str, Any]) -> None:
        """Take an event of an LLMProxy; *event* is None for one that was there when the watch began."""
        key = Key(str(body["metadata"]["namespace"]), str(body["metadata"]["name"]))
        if event == "DELETED":
            self._seen.pop(key, None)
            self._status.pop(key, None)
            self._wake(key)
            return
        print_now = _fingerprint(body)
        known = self._seen.get(key) == print_now and self._status.get(key) == body.get("status")
        self._seen[key] = print_now
        if event != "MODIFIED" or not known:
            self._wake(key)


def _fingerprint(body: Mapping[str, Any]) -> str:
    metadata = {key: value for key, value in body["metadata"].items() if key not in _UNSEEN}
    text = json.dumps([metadata, body.get("spec")], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
