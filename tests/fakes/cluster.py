"""A cluster in memory that keeps the promises of an API server which the operator relies on.

Server-side apply with a record of who owns which field, resourceVersions that stay when nothing changes, generations,
uids, the status subresource, and owner references that take children along. No controllers: a test plays them.
"""

import copy
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from llmproxy_operator import names
from llmproxy_operator.cluster import ApplyResult
from llmproxy_operator.errors import ClusterError, ConflictError, UnavailableError
from llmproxy_operator.manifest import Manifest, Ref, ref

LIST_KEYS = {
    "containers": ("name",),
    "env": ("name",),
    "imagePullSecrets": ("name",),
    "initContainers": ("name",),
    "ownerReferences": ("uid",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
    "conditions": ("type",),
}
Path = tuple[str, ...]


def list_keys(name: str, items: list[Any]) -> tuple[str, ...]:
    """Return what tells the items of a list apart, nothing if the list is one value."""
    if name == "ports":
        return ("containerPort", "protocol") if "containerPort" in items[0] else ("port", "protocol")
    return LIST_KEYS.get(name, ())


def fields(value: object, name: str = "") -> dict[str, Any]:
    """Return *value* in the form of the API server's fieldsV1."""
    if isinstance(value, Mapping):
        return {f"f:{key}": fields(item, key) for key, item in value.items()}
    if isinstance(value, list) and value and (keys := list_keys(name, value)):
        made: dict[str, Any] = {}
        for item in value:
            identity = json.dumps({key: item[key] for key in keys}, separators=(",", ":"))
            made[f"k:{identity}"] = {".": {}, **fields(item)}
        return made
    return {}


class FakeCluster:
    """Implements `llmproxy_operator.cluster.Cluster`."""

    def __init__(self) -> None:
        self.objects: dict[Ref, Manifest] = {}
        self.writes: Counter[str] = Counter()
        self.failures: dict[Ref, ClusterError] = {}
        """Requests about these objects fail so."""
        self.write_failures: dict[str, ClusterError] = {}
        """Writes of these kinds fail so."""
        self.fail_after: int | None = None
        """So many writes are done; then the process is as good as killed."""
        self.served = True
        """Kinds that are no part of Kubernetes are known."""
        self._versions = itertools.count(1)
        self._uids = itertools.count(1)

    # What tests do.

    def put(self, manifest: Manifest, manager: str = "kubectl") -> Manifest:
        """Make or change an object as somebody else."""
        return self._apply(manifest, manager).live

    def remove(self, target: Ref) -> None:
        """Delete an object and, as the garbage collector would, what it owns."""
        uid = self.objects.pop(target)["metadata"]["uid"]
        for item in list(self.objects.values()):
            owners = item["metadata"].get("ownerReferences") or ()
            if not any(owner["uid"] == uid for owner in owners):
                continue
            left = [owner for owner in owners if owner["uid"] != uid and self._is_there(owner["uid"])]
            if left:  # the garbage collector takes out the owners that are gone
                item["metadata"]["ownerReferences"] = left
            else:
                self.remove(ref(item))

    def _is_there(self, uid: str) -> bool:
        return any(item["metadata"]["uid"] == uid for item in self.objects.values())

    def kinds(self) -> list[str]:
        """Return what there is, as sorted `Kind/name`."""
        return sorted(f"{target.kind}/{target.name}" for target in self.objects)

    def one(self, kind: str, name: str) -> Manifest:
        """Return one object."""
        return next(item for target, item in self.objects.items() if (target.kind, target.name) == (kind, name))

    def set_status(self, kind: str, name: str, status: dict[str, Any]) -> None:
        """Write a status as a controller."""
        item = self.one(kind, name)
        item["status"] = status
        item["metadata"]["resourceVersion"] = str(next(self._versions))

    def scale(self, name: str, count: int, manager: str = "kube-controller-manager") -> None:
        """Write a Deployment's `replicas` by its subresource, as an autoscaler or `kubectl scale` does."""
        item = self.one("Deployment", name)
        path = ("spec", "replicas")
        entries = item["metadata"]["managedFields"]
        if item["spec"].get("replicas") != count:
            for entry in entries:
                _disown(entry["fieldsV1"], path)
            mine = {"manager": manager, "operation": "Update", "subresource": "scale"}
            entries.append({**mine, "fieldsV1": {"f:spec": {"f:replicas": {}}}})
            item["spec"]["replicas"] = count
            item["metadata"]["generation"] += 1
            item["metadata"]["resourceVersion"] = str(next(self._versions))

    # What the operator does.

    async def get(self, target: Ref, *, allow_stale: bool = False) -> Manifest | None:
        self._may_fail(target)
        return copy.deepcopy(self.objects.get(target))

    async def list(
        self, api_version: str, kind: str, namespace: str, labels: Mapping[str, str], *, uncached: bool = False
    ) -> tuple[Manifest, ...]:
        return tuple(
            copy.deepcopy(item)
            for target, item in self.objects.items()
            if (target.api_version, target.kind, target.namespace) == (api_version, kind, namespace)
            and labels.items() <= (item["metadata"].get("labels") or {}).items()
        )

    async def serves(self, api_version: str, kind: str) -> bool:
        return self.served

    async def apply(self, manifest: Manifest, *, force: bool, manager: str = names.FIELD_MANAGER) -> ApplyResult:
        self._count("apply", ref(manifest))
        live = self.objects.get(ref(manifest))
        for mark in ("uid", "resourceVersion"):
            asked = manifest["metadata"].get(mark)
            if asked is not None and (live is None or live["metadata"][mark] != asked):
                raise ConflictError(f"{ref(manifest)}: {mark} mismatch", status=409)
        if live is not None and (taken := self._taken(manifest, live, manager)):
            if not force:
                raise ConflictError(f"{ref(manifest)}: fields of others", status=409)
            for entry in live["metadata"]["managedFields"]:
                if entry["manager"] != manager:
                    for path in taken:
                        _disown(entry["fieldsV1"], path)
        return self._apply(manifest, manager)

    async def apply_status(self, manifest: Manifest) -> Manifest:
        self._count("apply_status", ref(manifest))
        live = self.objects.get(ref(manifest))
        if live is None or live["metadata"]["uid"] != manifest["metadata"]["uid"]:
            raise ConflictError(f"{ref(manifest)}: gone", status=409)
        if live.get("status") != manifest["status"]:
            live["status"] = copy.deepcopy(manifest["status"])
            live["metadata"]["resourceVersion"] = str(next(self._versions))
        return copy.deepcopy(live)

    async def delete(self, target: Ref, *, uid: str) -> None:
        self._count("delete", target)
        if target in self.objects and self.objects[target]["metadata"]["uid"] == uid:
            self.remove(target)

    async def create(self, manifest: Manifest) -> Manifest:
        self._count("create", ref(manifest))
        if ref(manifest) in self.objects:
            raise ConflictError(f"{ref(manifest)} is there", status=409)
        return self._apply(manifest, names.FIELD_MANAGER).live

    async def replace(self, manifest: Manifest) -> Manifest:
        self._count("replace", ref(manifest))
        live = self.objects.get(ref(manifest))
        if live is None or live["metadata"]["resourceVersion"] != manifest["metadata"]["resourceVersion"]:
            raise ConflictError(f"{ref(manifest)} was changed", status=409)
        made = copy.deepcopy(manifest)
        made["metadata"]["resourceVersion"] = str(next(self._versions))
        self.objects[ref(manifest)] = made
        return copy.deepcopy(made)

    async def merge(self, target: Ref, change: Mapping[str, Any]) -> Manifest:
        self._count("merge", target)
        _merge_patch(self.objects[target], change)
        return copy.deepcopy(self.objects[target])

    # How it is done.

    def _may_fail(self, target: Ref) -> None:
        if target in self.failures:
            raise self.failures[target]

    def _count(self, verb: str, target: Ref) -> None:
        self._may_fail(target)
        if target.kind in self.write_failures:
            raise self.write_failures[target.kind]
        if self.fail_after is not None:
            if self.fail_after == 0:
                raise UnavailableError("the process was killed here")
            self.fail_after -= 1
        self.writes[f"{verb} {target.kind}"] += 1

    def _apply(self, manifest: Manifest, manager: str) -> ApplyResult:
        target = ref(manifest)
        live, created = self.objects.get(target), target not in self.objects
        made = copy.deepcopy(live) if live is not None else _new(manifest, f"uid-{next(self._uids)}")
        sent = _sent(manifest)
        entries = made["metadata"]["managedFields"]
        mine: Manifest = next((e for e in entries if e["manager"] == manager and e["operation"] == "Apply"), {})
        kept = fields(sent)
        for entry in entries:
            if entry is not mine:
                _union(kept, entry["fieldsV1"])  # what somebody else owns too is left there
        _remove(made, mine.get("fieldsV1", {}), kept)
        _merge(made, sent)
        if not mine:
            mine = {"manager": manager, "operation": "Apply"}
            entries.append(mine)
        mine["fieldsV1"] = fields(sent)
        made["metadata"]["managedFields"] = [entry for entry in entries if entry["fieldsV1"]]
        if live is None or _content(made) != _content(live):
            made["metadata"]["resourceVersion"] = str(next(self._versions))
            changed = live is None or made.get("spec") != live.get("spec")
            made["metadata"]["generation"] = made["metadata"].get("generation", 0) + (1 if changed else 0)
        self.objects[target] = made
        return ApplyResult(copy.deepcopy(made), created)

    def _taken(self, manifest: Manifest, live: Manifest, manager: str) -> tuple[Path, ...]:
        """Return the fields that somebody else owns and that are sent with another value."""
        others = [e["fieldsV1"] for e in live["metadata"]["managedFields"] if e["manager"] != manager]
        theirs = {path for other in others for path in _leaves(other)}
        sent = _leaves(fields(_sent(manifest)))
        return tuple(path for path in sent if path in theirs and _at(live, path) != _at(manifest, path))


def _new(manifest: Manifest, uid: str) -> Manifest:
    metadata = {key: manifest["metadata"][key] for key in ("name", "namespace")}
    metadata |= {"uid": uid, "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": []}
    return {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"], "metadata": metadata}


def _sent(manifest: Manifest) -> Manifest:
    """Return the part of an applied object that its sender owns."""
    metadata = {
        k: v for k, v in manifest["metadata"].items() if k not in {"name", "namespace", "uid", "resourceVersion"}
    }
    rest = {k: v for k, v in manifest.items() if k not in {"apiVersion", "kind", "metadata", "status"}}
    return copy.deepcopy({**({"metadata": metadata} if metadata else {}), **rest})


def _content(item: Manifest) -> Manifest:
    metadata = {k: v for k, v in item["metadata"].items() if k not in {"resourceVersion", "generation"}}
    return {**item, "metadata": metadata}


def _merge(live: Any, sent: Mapping[str, Any]) -> None:
    for key, value in sent.items():
        if isinstance(value, Mapping):
            there = live.setdefault(key, {})
            _merge(there, value)
        elif isinstance(value, list) and value and (keys := list_keys(key, value)):
            items = live.setdefault(key, [])
            for item in value:
                same = next((i for i in items if all(i.get(k) == item.get(k) for k in keys)), None)
                if same is None:
                    items.append(copy.deepcopy(item))
                else:
                    _merge(same, item)
        else:
            live[key] = copy.deepcopy(value)


def _merge_patch(live: Any, change: Mapping[str, Any]) -> None:
    for key, value in change.items():
        if isinstance(value, Mapping) and isinstance(live.get(key), dict):
            _merge_patch(live[key], value)
        else:
            live[key] = copy.deepcopy(value)


def _remove(live: Any, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Take out of *live* what was sent before and is not any more."""
    for mark, below in old.items():
        kind, _, name = mark.partition(":")
        if kind == "f" and isinstance(live, dict) and name in live:
            _remove(live[name], below, new.get(mark, {}))
            if mark not in new and (not below or not live[name]):
                del live[name]
        elif kind == "k" and isinstance(live, list):
            identity = json.loads(name)
            for item in [i for i in live if identity.items() <= i.items()]:
                if mark not in new:
                    live.remove(item)
                else:
                    _remove(item, below, new[mark])


def _union(tree: dict[str, Any], other: Mapping[str, Any]) -> None:
    for mark, below in other.items():
        _union(tree.setdefault(mark, {}), below)


def _disown(tree: dict[str, Any], path: Path) -> None:
    mark = f"f:{path[0]}"
    if len(path) == 1:
        tree.pop(mark, None)
    elif mark in tree:
        _disown(tree[mark], path[1:])
        if not tree[mark]:
            del tree[mark]


def _leaves(tree: Mapping[str, Any], path: Path = ()) -> Iterator[Path]:
    for mark, below in tree.items():
        if mark.startswith("f:") and not below:
            yield (*path, mark[2:])
        elif mark.startswith("f:"):
            yield from _leaves(below, (*path, mark[2:]))


def _at(value: Any, path: Path) -> object:
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value
