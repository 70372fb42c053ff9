"""From what a watch reports to the keys of the proxies to look at. Decides one thing: whether to wake anybody.

An event says that something happened, never what to do. Only the echo of the operator's own status write is taken
out: it would wake every proxy once more for nothing.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from llmproxy_operator import names
from llmproxy_operator.queue import Key

_UNSEEN = frozenset({"managedFields", "resourceVersion"})
"""Parts of the metadata that change with every write, also with our own."""


class Doorbell:
    """Wakes proxies. Not thread-safe: call it where the queue runs."""

    def __init__(self, wake: Callable[[Key], None]) -> None:
        self._wake = wake
        self._seen: dict[Key, str] = {}
        self._status: dict[Key, Mapping[str, Any]] = {}
        self._quiet: dict[str, str] = {}

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

    def child(self, body: Mapping[str, Any]) -> None:
        """Take an event of an object that has our labels."""
        metadata = body["metadata"]
        name = (metadata.get("labels") or {}).get(names.LABEL_NAME)
        if name:
            self._wake(Key(str(metadata["namespace"]), str(name)))

    def quiet_child(self, event: str | None, body: Mapping[str, Any]) -> None:
        """Take an event of an object that has our labels, and whose status says nothing to us."""
        uid, print_now = str(body["metadata"]["uid"]), _fingerprint(body)
        known = event == "MODIFIED" and self._quiet.get(uid) == print_now
        if event == "DELETED":
            self._quiet.pop(uid, None)
        else:
            self._quiet[uid] = print_now
        if not known:
            self.child(body)


def _fingerprint(body: Mapping[str, Any]) -> str:
    metadata = {key: value for key, value in body["metadata"].items() if key not in _UNSEEN}
    text = json.dumps([metadata, body.get("spec")], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
