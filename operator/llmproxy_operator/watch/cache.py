"""The children that are there, as watches tell of them and as our own writes left them. A data structure, no I/O.

Objects are kept as text, without what no pass looks at: that is a fraction of the memory, and whoever asks gets a copy.
An event wakes a proxy only if what is kept of an object is not what was known: the echo of our own write wakes nobody.
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
_MOVING = frozenset({"HorizontalPodAutoscaler", "PodDisruptionBudget"})
"""Kinds whose status moves with the load and is nothing to us."""
_OF_DEPLOYMENTS = ("observedGeneration", "replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
"""Of their status, besides conditions that tell of a failure."""
_OF_CONTAINERS = ("name", "image", "ready", "restartCount", "lastState")
_STARTING = frozenset({"ContainerCreating", "PodInitializing"})
"""Why every container waits once."""
Place = tuple[str, str, str]
"""API version, kind, and the namespace that is watched; an empty one stands for all."""
_Slot = tuple[str, str, str, str]
"""API version, kind, namespace, and the name of the LLMProxy whose label an object has."""


@dataclass(frozen=True, slots=True)
class _Entry:
    version: int
    text: str
    slot: _Slot
    written: int
    """Which of our writes it is, 0 if a watch told of it."""


class Cache:
    """Objects of the kinds that are watched. Not thread-safe: use it where the queue runs."""

    def __init__(self, wake: Callable[[Key], None]) -> None:
        self._wake = wake
        self._entries: dict[Ref, _Entry] = {}
        self._slots: dict[_Slot, set[Ref]] = defaultdict(set)
        self._writes = 0
        self._told: dict[Place, int] = {}
        """The version up to which a watch has told of everything."""

    def get(self, target: Ref) -> Manifest | None:
        """Return an object, None if it is not known: it may be there without our labels."""
        entry = self._entries.get(target)
        return None if entry is None else _read(entry)

    def of(self, api_version: str, kind: str, namespace: str, labels: Mapping[str, str]) -> tuple[Manifest, ...]:
        """Return the objects of a namespace with these *labels*, of which one names the LLMProxy."""
        targets = self._slots.get((api_version, kind, namespace, labels[names.LABEL_NAME]), ())
        found = [_read(self._entries[target]) for target in sorted(targets)]
        return tuple(item for item in found if labels.items() <= item["metadata"]["labels"].items())

    # What we do ourselves.

    def wrote(self, live: Manifest) -> None:
        """Take the answer to a write of ours, so that the next pass sees it before any watch tells of it."""
        self._writes += 1
        target, version = ref(live), _version(live)
        known = self._entries.get(target)
        kind = (target.api_version, target.kind)
        told = max(self._told.get((*kind, ""), 0), self._told.get((*kind, target.namespace), 0))
        # One that was told of, and is not known, has been deleted since.
        if known.version < version if known is not None else told < version:
            self._keep(live, self._writes)

    def deleted(self, target: Ref) -> None:
        """Take that we deleted an object; if it is there a while longer, events will tell."""
        self._drop(target)

    # What is told.

    def event(self, place: Place, kind: str, item: Manifest) -> None:
        """Take an event of a watch of *place*: ADDED, MODIFIED or DELETED."""
        self._told[place] = _version(item)
        target, known = ref(item), self._entries.get(ref(item))
        if known is not None and _version(item) <= known.version:
            return  # told late: we know it, or newer, from our own write
        if kind == "DELETED":
            if known is not None:
                self._drop(target)
                self._ring(known.slot)
            return
        made = self._keep(item, 0)
        is_news = not _says_nothing(item) if known is None else known.text != made.text
        # A new ReplicaSet follows from our own write, and takes nothing from anybody.
        if is_news and target.kind != "ReplicaSet":
            self._ring(made.slot)

    @property
    def mark(self) -> int:
        """What `replace` wants to be told: taken before the list is asked for."""
        return self._writes

    def replace(self, place: Place, items: Iterable[Manifest], version: str, mark: int) -> None:
        """Take the whole list of a *place* instead of what was known.

        It is right also where versions went back, as after a backup was restored. Only our own writes since *mark*
        stay, for the list may be from before them.
        """
        self._told[place] = int(version or 0)
        listed = {ref(item): item for item in items}
        kind, namespace = place[:2], place[2]
        for target, known in list(self._entries.items()):
            here = (target.api_version, target.kind) == kind and namespace in {"", target.namespace}
            if here and target not in listed and known.written <= mark:
                self._drop(target)
                self._ring(known.slot)
        for target, item in listed.items():
            before = self._entries.get(target)
            if before is not None and before.written > mark and before.version >= _version(item):
                continue
            made = self._keep(item, 0)
            if before is None or before.text != made.text:
                self._ring(made.slot)

    def _keep(self, item: Manifest, written: int) -> _Entry:
        metadata = item["metadata"]
        target, owner = ref(item), (metadata.get("labels") or {}).get(names.LABEL_NAME, "")
        self._drop(target)
        slot = (target.api_version, target.kind, target.namespace, owner)
        made = self._entries[target] = _Entry(_version(item), _written(item), slot, written)
        self._slots[slot].add(target)
        return made

    def _drop(self, target: Ref) -> None:
        if (entry := self._entries.pop(target, None)) is not None:
            here = self._slots[entry.slot]
            here.discard(target)
            if not here:
                del self._slots[entry.slot]

    def _ring(self, slot: _Slot) -> None:
        _, _, namespace, owner = slot
        if owner:
            self._wake(Key(namespace, owner))


def _version(item: Manifest) -> int:
    """Versions of one kind are numbers that grow, which Kubernetes promises since 1.35 and has always kept."""
    return int(item["metadata"]["resourceVersion"])


def _read(entry: _Entry) -> Manifest:
    item: Manifest = json.loads(entry.text)
    item["metadata"]["resourceVersion"] = str(entry.version)
    return item


def _written(item: Manifest) -> str:
    kept = trimmed(item)
    metadata = {key: value for key, value in kept["metadata"].items() if key != "resourceVersion"}
    return json.dumps({**kept, "metadata": metadata}, separators=(",", ":"), ensure_ascii=False)


def trimmed(item: Manifest) -> Manifest:
    """Return what a pass may look at of an object."""
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
    fields = [entry for entry in metadata.get("managedFields") or () if entry.get("subresource") != "status"]
    rest = {key: value for key, value in item.items() if key != "status" or kind not in _MOVING}
    return {**rest, "metadata": {**metadata, "managedFields": fields}}


def _of_deployment(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers, and what fails: how a roll goes on is told by the numbers."""
    failing = [
        {key: value for key, value in condition.items() if not key.startswith("last")}
        for condition in status.get("conditions") or ()
        if (condition["type"], condition["status"]) in {("ReplicaFailure", "True"), ("Progressing", "False")}
    ]
    return {**{key: status[key] for key in _OF_DEPLOYMENTS if key in status}, "conditions": failing}


def _of_pod(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return what may tell why it does not start: that it does is told by the Deployment."""
    waits = [
        item for item in status.get("conditions") or () if (item["type"], item["status"]) == ("PodScheduled", "False")
    ]
    made: dict[str, Any] = {"conditions": waits} if waits else {}
    for kind in ("initContainerStatuses", "containerStatuses"):
        if containers := [_of_container(container) for container in status.get(kind) or ()]:
            made[kind] = containers
    return made


def _of_container(container: Mapping[str, Any]) -> dict[str, Any]:
    state = {key: value for key, value in (container.get("state") or {}).items() if key != "running"}
    if (state.get("waiting") or {}).get("reason") in _STARTING:
        state = {}
    return {**{key: container[key] for key in _OF_CONTAINERS if key in container}, "state": state}


def _says_nothing(item: Manifest) -> bool:
    """Whether a new object is a pod that follows from what we wrote, and of which there is nothing to tell yet."""
    return item["kind"] == "Pod" and not _of_pod(item.get("status") or {})


def _head(item: Manifest) -> dict[str, Any]:
    return {"apiVersion": item["apiVersion"], "kind": item["kind"]}
