"""Filter of watch events of LLMProxies: each event queues its key, but for the echo of our own status write.

An event says that something happened, never what to do. Without the filter every status write would lead to one more
reconcile.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from llmproxy_operator.workqueue import Key

_VOLATILE = frozenset({"managedFields", "resourceVersion"})
"""Metadata that changes with every write, also with our own."""


class EventFilter:
    """Queues the keys of events. Not thread-safe: call it in the event loop of the queue."""

    def __init__(self, wake: Callable[[Key], None]) -> None:
        self._wake = wake
        self._fingerprints: dict[Key, str] = {}
        self._statuses: dict[Key, Mapping[str, Any]] = {}

    def expect(self, key: Key, status: Mapping[str, Any]) -> None:
        """Remember a status that is about to be written."""
        self._statuses[key] = status

    def proxy(self, event: str | None, body: Mapping[str, Any]) -> None:
        """Take an event of an LLMProxy; *event* is None for one that existed when the watch began."""
        key = Key(str(body["metadata"]["namespace"]), str(body["metadata"]["name"]))
        if event == "DELETED":
            self._fingerprints.pop(key, None)
            self._statuses.pop(key, None)
            self._wake(key)
            return
        fingerprint = _fingerprint(body)
        echo = self._fingerprints.get(key) == fingerprint and self._statuses.get(key) == body.get("status")
        self._fingerprints[key] = fingerprint
        if event != "MODIFIED" or not echo:
            self._wake(key)


def _fingerprint(body: Mapping[str, Any]) -> str:
    metadata = {key: value for key, value in body["metadata"].items() if key not in _VOLATILE}
    text = json.dumps([metadata, body.get("spec")], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
