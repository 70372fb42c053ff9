"""Kubernetes Events about LLMProxies, for `kubectl describe`: one per reason, which counts and has the newest words.

The status that was there before a pass says what is already known, so a restart of the operator announces nothing
anew. An Event that cannot be written is logged and forgotten: the status has the same words.
"""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from llmproxy_operator import names
from llmproxy_operator.cluster import Cluster
from llmproxy_operator.conditions import READY, RECONCILING, STALLED, condition
from llmproxy_operator.errors import ClusterError
from llmproxy_operator.manifest import Manifest, Ref

log = logging.getLogger(__name__)

MAX_REMEMBERED = 2000
MIN_INTERVAL_S = 60
"""A proxy that goes to and fro is told of so often at most, for each reason; what happens in between is counted."""
_GONE = 404
"""HTTP's number for an Event whose time is over: API servers keep them for an hour."""
_STEPS = frozenset({"RollingOut", "ReplicasNotReady"})
"""Reasons that follow each other in every roll: the first one is told of."""
MAX_NOTE_CHARS = 1000
"""Kubernetes takes 1024 bytes."""


_Identity = tuple[str, str, str]
"""The uid of an LLMProxy, type and reason of an Event."""


@dataclass
class _Told:
    event: Ref
    at: datetime
    count: int


class Announcer:
    """Writes Events."""

    def __init__(self, cluster: Cluster, *, instance: str, now: Callable[[], datetime]) -> None:
        """*instance* is the pod that speaks."""
        self._cluster = cluster
        self._instance = instance
        self._now = now
        self._told: OrderedDict[_Identity, _Told] = OrderedDict()

    async def announce(self, raw: Manifest, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Tell of what changed between two statuses of *raw*, if it is worth an Event."""
        news = _news(before, after)
        if news is None:
            return
        kind, reason, message = news
        # Without the message: the last lines of a log hold times, and would make each Event another.
        identity = (str(raw["metadata"]["uid"]), kind, reason)
        told, now = self._told.get(identity), self._now()
        try:
            if told is None:
                await self._first(raw, identity, message, now)
                return
            told.count += 1
            if (now - told.at).total_seconds() >= MIN_INTERVAL_S:
                told.at = now
                await self._again(raw, identity, message, told)
        except ClusterError as exc:
            log.warning("event_not_written", extra={"reason": reason, "error": str(exc)})

    async def _again(self, raw: Manifest, identity: _Identity, message: str, told: _Told) -> None:
        change = {"count": told.count, "lastTimestamp": _written(told.at), "message": message}
        try:
            await self._cluster.merge(told.event, change)
        except ClusterError as exc:
            if exc.status != _GONE:
                raise
            await self._first(raw, identity, message, told.at)

    async def _first(self, raw: Manifest, identity: _Identity, message: str, now: datetime) -> None:
        metadata = raw["metadata"]
        digest = hashlib.sha256("\0".join((*identity, self._instance, _written(now))).encode()).hexdigest()[:16]
        event = Ref("v1", "Event", metadata["namespace"], f"{metadata['name']}.{digest}")
        self._told[identity] = _Told(event, now, 1)
        while len(self._told) > MAX_REMEMBERED:
            self._told.popitem(last=False)
        await self._cluster.create(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": event.name, "namespace": event.namespace},
                "involvedObject": {
                    "apiVersion": raw["apiVersion"],
                    "kind": raw["kind"],
                    **{key: metadata[key] for key in ("name", "namespace", "uid", "resourceVersion")},
                },
                "type": identity[1],
                "reason": identity[2],
                "message": message,
                "action": "Reconcile",
                "count": 1,
                "firstTimestamp": _written(now),
                "lastTimestamp": _written(now),
                "reportingComponent": names.FIELD_MANAGER,
                "reportingInstance": self._instance,
                "source": {"component": names.FIELD_MANAGER},
            }
        )


def _written(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _news(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Return type, reason and message, None if nothing changed that a person would want to be told."""
    for kind, condition_type in (("Warning", STALLED), ("Normal", READY), ("Normal", RECONCILING)):
        now, was = condition(after, condition_type), condition(before, condition_type)
        if now.get("status") == "True":
            if (was.get("status"), was.get("reason")) == ("True", now["reason"]) or now["reason"] == "Created":
                return None
            # That a new one is being made nobody needs to be told.
            on_the_way = not before.get("conditions") or was.get("status") == "True"
            if kind == "Normal" and on_the_way and now["reason"] in _STEPS:
                return None
            return kind, str(now["reason"]), str(now["message"])[:MAX_NOTE_CHARS]
    return None
