"""Cache of children, from watch events and the answers to our own writes. A data structure, no I/O.

Objects are stored as trimmed JSON text: that takes a fraction of the memory, and every reader gets a copy. An event
wakes a proxy only if it changes the trimmed object: the echo of our own write wakes nobody.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llmproxy_operator import names
from llmproxy_operator.manifest import Manifest, Ref, ref
from llmproxy_operator.workqueue import Key

_OF_REPLICASETS = ("name", "namespace", "uid", "resourceVersion", "labels", "ownerReferences", "deletionTimestamp")
_MOVING = frozenset({"PodDisruptionBudget"})
"""Kinds whose status changes with the load and is not read."""
_OF_DEPLOYMENTS = ("observedGeneration", "replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
"""Fields of their status, besides conditions that report a failure."""
_OF_CONTAINERS = ("name", "image", "ready", "restartCount", "lastState")
_STARTING = frozenset({"ContainerCreating", "PodInitializing"})
"""Reasons for which every container waits once."""
Scope = tuple[str, str, str]
"""API version, kind, and namespace of a watch; an empty namespace stands for all."""
_Index = tuple[str, str, str, str]
"""API version, kind, namespace, and the LLMProxy of an object's label."""


@dataclass(frozen=True, slots=True)
class _Entry:
    version: int
    text: str
    index: _Index
    write_number: int
    """Number of our write it comes from, 0 for a watch event."""


class Cache:
    """Objects of the watched kinds. Not thread-safe: use it in the event loop of the queue."""

    def __init__(self, wake: Callable[[Key], None]) -> None:
        self._wake = wake
        self._entries: dict[Ref, _Entry] = {}
        self._indexes: dict[_Index, set[Ref]] = defaultdict(set)
        self._writes = 0
        self._versions: dict[Scope, int] = {}
        """Version up to which each watch has reported everything."""

    def get(self, target: Ref) -> Manifest | None:
        """Return an object, None if it is not cached: it may exist without our labels."""
        entry = self._entries.get(target)
        return None if entry is None else _read(entry)

    def of(self, api_version: str, kind: str, namespace: str, labels: Mapping[str, str]) -> tuple[Manifest, ...]:
        """Return the objects of a namespace with these *labels*, of which one names the LLMProxy."""
        targets = self._indexes.get((api_version, kind, namespace, labels[names.LABEL_NAME]), ())
        items = [_read(self._entries[target]) for target in sorted(targets)]
        return tuple(item for item in items if labels.items() <= item["metadata"]["labels"].items())

    # Our own writes.

    def store_write(self, live: Manifest) -> None:
        """Store the answer to a write of ours, so that the next reconcile sees it before any watch reports it."""
        self._writes += 1
        target, version = ref(live), _version(live)
        cached = self._entries.get(target)
        kind = (target.api_version, target.kind)
        watched = max(self._versions.get((*kind, ""), 0), self._versions.get((*kind, target.namespace), 0))
        # An object of an older version than the watch's that is not cached has been deleted since.
        if cached.version < version if cached is not None else watched < version:
            self._put(live, self._writes)

    def store_delete(self, target: Ref) -> None:
        """Store that we deleted an object; if it lives a while longer, events will report it."""
        self._drop(target)

    # Watch events and lists.

    def event(self, scope: Scope, kind: str, item: Manifest) -> None:
        """Take an event of a watch of *scope*: ADDED, MODIFIED or DELETED."""
        self._versions[scope] = _version(item)
        target, cached = ref(item), self._entries.get(ref(item))
        if cached is not None and _version(item) <= cached.version:
            return  # a late event: the answer to our own write is as new
        if kind == "DELETED":
            if cached is not None:
                self._drop(target)
                self._notify(cached.index)
            return
        entry = self._put(item, 0)
        is_news = not _is_uneventful(item) if cached is None else cached.text != entry.text
        # A new ReplicaSet follows from our own write, and is not read before it goes.
        if is_news and target.kind != "ReplicaSet":
            self._notify(entry.index)

    @property
    def write_count(self) -> int:
        """Number of our writes: read it before a list is requested, and pass it to `replace`."""
        return self._writes

    def replace(self, scope: Scope, items: Iterable[Manifest], version: str, write_count: int) -> None:
        """Replace the objects of a *scope* by a list.

        The list counts also where versions went back, as after a restored backup. Only our own writes after
        *write_count* stay, for the list may be older than they are.
        """
        self._versions[scope] = int(version or 0)
        listed = {ref(item): item for item in items}
        kind, namespace = scope[:2], scope[2]
        for target, cached in list(self._entries.items()):
            here = (target.api_version, target.kind) == kind and namespace in {"", target.namespace}
            if here and target not in listed and cached.write_number <= write_count:
                self._drop(target)
                self._notify(cached.index)
        for target, item in listed.items():
            before = self._entries.get(target)
            if before is not None and before.write_number > write_count and before.version >= _version(item):
                continue
            entry = self._put(item, 0)
            if before is None or before.text != entry.text:
                self._notify(entry.index)

    def _put(self, item: Manifest, write_number: int) -> _Entry:
        metadata = item["metadata"]
        target, owner = ref(item), (metadata.get("labels") or {}).get(names.LABEL_NAME, "")
        self._drop(target)
        index = (target.api_version, target.kind, target.namespace, owner)
        entry = self._entries[target] = _Entry(_version(item), _encode(item), index, write_number)
        self._indexes[index].add(target)
        return entry

    def _drop(self, target: Ref) -> None:
        if (entry := self._entries.pop(target, None)) is not None:
            here = self._indexes[entry.index]
            here.discard(target)
            if not here:
                del self._indexes[entry.index]

    def _notify(self, index: _Index) -> None:
        _, _, namespace, owner = index
        if owner:
            self._wake(Key(namespace, owner))


def _version(item: Manifest) -> int:
    """Return the version as a number: those of one kind grow, which Kubernetes promises since 1.35."""
    return int(item["metadata"]["resourceVersion"])


def _read(entry: _Entry) -> Manifest:
    item: Manifest = json.loads(entry.text)
    item["metadata"]["resourceVersion"] = str(entry.version)
    return item


def _encode(item: Manifest) -> str:
    small = trimmed(item)
    metadata = {key: value for key, value in small["metadata"].items() if key != "resourceVersion"}
    return json.dumps({**small, "metadata": metadata}, separators=(",", ":"), ensure_ascii=False)


def trimmed(item: Manifest) -> Manifest:
    """Return the fields of an object that a reconcile may read."""
    kind, metadata = item["kind"], item["metadata"]
    if kind == "ReplicaSet":
        volumes = item["spec"]["template"]["spec"].get("volumes") or []
        few = {key: metadata[key] for key in _OF_REPLICASETS if key in metadata}
        return {**_head(item), "metadata": few, "spec": {"template": {"spec": {"volumes": volumes}}}}
    if kind == "Pod":
        rest = {key: value for key, value in metadata.items() if key not in {"managedFields", "generation"}}
        return {**_head(item), "metadata": rest, "status": _of_pod(item.get("status") or {})}
    if kind == "Deployment" and "status" in item:
        item = {**item, "status": _of_deployment(item["status"])}
    if kind == "HorizontalPodAutoscaler" and "status" in item:
        conditions = _inactive(item["status"])
        item = {key: value for key, value in item.items() if key != "status"}
        item |= {"status": {"conditions": conditions}} if conditions else {}
    fields = [entry for entry in metadata.get("managedFields") or () if entry.get("subresource") != "status"]
    rest = {key: value for key, value in item.items() if key != "status" or kind not in _MOVING}
    return {**rest, "metadata": {**metadata, "managedFields": fields}}


def _of_deployment(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers and the failing conditions: the numbers show the progress of a roll."""
    failing = [
        {key: value for key, value in condition.items() if not key.startswith("last")}
        for condition in status.get("conditions") or ()
        if (condition["type"], condition["status"]) in {("ReplicaFailure", "True"), ("Progressing", "False")}
    ]
    return {**{key: status[key] for key in _OF_DEPLOYMENTS if key in status}, "conditions": failing}


def _inactive(status: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the condition that an autoscaler does not scale: its numbers change with the load and are not read."""
    return [
        {key: value for key, value in condition.items() if not key.startswith("last")}
        for condition in status.get("conditions") or ()
        if (condition["type"], condition["status"]) == ("ScalingActive", "False")
    ]


def _of_pod(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that may say why a pod does not start; the Deployment says that it did."""
    unscheduled = [
        item for item in status.get("conditions") or () if (item["type"], item["status"]) == ("PodScheduled", "False")
    ]
    fields: dict[str, Any] = {"conditions": unscheduled} if unscheduled else {}
    for kind in ("initContainerStatuses", "containerStatuses"):
        if containers := [_of_container(container) for container in status.get(kind) or ()]:
            fields[kind] = containers
    return fields


def _of_container(container: Mapping[str, Any]) -> dict[str, Any]:
    state = {key: value for key, value in (container.get("state") or {}).items() if key != "running"}
    if (state.get("waiting") or {}).get("reason") in _STARTING:
        state = {}
    return {**{key: container[key] for key in _OF_CONTAINERS if key in container}, "state": state}


def _is_uneventful(item: Manifest) -> bool:
    """Return whether a new object is a pod that follows from our own write and has no problem yet."""
    return item["kind"] == "Pod" and not _of_pod(item.get("status") or {})


def _head(item: Manifest) -> dict[str, Any]:
    return {"apiVersion": item["apiVersion"], "kind": item["kind"]}
