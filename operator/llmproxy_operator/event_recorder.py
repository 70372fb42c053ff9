"""Kubernetes Events about LLMProxies, for `kubectl describe`: one per reason, with a count and the newest message.

The status before a reconcile says what is already known, so a restart of the operator records nothing anew. An Event
that cannot be written is logged and dropped: the status has the same message.
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
from llmproxy_operator.reasons import Reason

log = logging.getLogger(__name__)

MAX_CACHED = 2000
MIN_INTERVAL_S = 60
"""Minimum interval of writes per LLMProxy and reason; changes in between are counted."""
_HTTP_404 = 404
"""HTTP status for an Event that expired: API servers keep them for an hour."""
_WARNINGS = frozenset({Reason.API_SERVER_UNAVAILABLE})
"""Reasons in progress that are worth a Warning."""
_STEPS = frozenset({Reason.ROLLING_OUT, Reason.REPLICAS_NOT_READY})
"""Reasons that follow each other in every roll: only the first one is recorded."""
MAX_MESSAGE_CHARS = 1000
"""Kubernetes takes 1024 bytes."""


_Identity = tuple[str, str, str]
"""The uid of an LLMProxy, type and reason of an Event."""


@dataclass
class _RecordedEvent:
    event: Ref
    at: datetime
    count: int


class EventRecorder:
    """Writes Events."""

    def __init__(self, cluster: Cluster, *, instance: str, now: Callable[[], datetime]) -> None:
        """*instance* is the pod that reports."""
        self._cluster = cluster
        self._instance = instance
        self._now = now
        self._recorded: OrderedDict[_Identity, _RecordedEvent] = OrderedDict()

    async def record(self, raw: Manifest, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Write an Event about the change between two statuses of *raw*, if it is worth one."""
        change = _change(before, after)
        if change is None:
            return
        kind, reason, message = change
        # Without the message: the last lines of a log hold times, and would make each Event another.
        identity = (str(raw["metadata"]["uid"]), kind, reason)
        recorded, now = self._recorded.get(identity), self._now()
        try:
            if recorded is None:
                await self._create(raw, identity, message, now)
                return
            recorded.count += 1
            if (now - recorded.at).total_seconds() >= MIN_INTERVAL_S:
                recorded.at = now
                await self._update(raw, identity, message, recorded)
        except ClusterError as exc:
            log.warning("event_not_written", extra={"reason": reason, "error": str(exc)})

    async def _update(self, raw: Manifest, identity: _Identity, message: str, recorded: _RecordedEvent) -> None:
        change = {"count": recorded.count, "lastTimestamp": _timestamp(recorded.at), "message": message}
        try:
            await self._cluster.merge(recorded.event, change)
        except ClusterError as exc:
            if exc.status != _HTTP_404:
                raise
            await self._create(raw, identity, message, recorded.at)

    async def _create(self, raw: Manifest, identity: _Identity, message: str, now: datetime) -> None:
        metadata = raw["metadata"]
        digest = hashlib.sha256("\0".join((*identity, self._instance, _timestamp(now))).encode()).hexdigest()[:16]
        event = Ref("v1", "Event", metadata["namespace"], f"{metadata['name']}.{digest}")
        self._recorded[identity] = _RecordedEvent(event, now, 1)
        while len(self._recorded) > MAX_CACHED:
            self._recorded.popitem(last=False)
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
                "firstTimestamp": _timestamp(now),
                "lastTimestamp": _timestamp(now),
                "reportingComponent": names.FIELD_MANAGER,
                "reportingInstance": self._instance,
                "source": {"component": names.FIELD_MANAGER},
            }
        )


def _timestamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _change(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Return type, reason and message of the change, None if it is not worth an Event."""
    for kind, condition_type in (("Warning", STALLED), ("Normal", READY), ("Normal", RECONCILING)):
        new, old = condition(after, condition_type), condition(before, condition_type)
        if new.get("status") == "True":
            unchanged = (old.get("status"), old.get("reason")) == ("True", new["reason"])
            if unchanged or new["reason"] == Reason.CREATED:
                return None
            # The steps of a new LLMProxy, and of a roll that an Event already reports, are no news.
            expected = not before.get("conditions") or old.get("status") == "True"
            if kind == "Normal" and expected and new["reason"] in _STEPS:
                return None
            severity = "Warning" if new["reason"] in _WARNINGS else kind
            return severity, str(new["reason"]), str(new["message"])[:MAX_MESSAGE_CHARS]
    return None
