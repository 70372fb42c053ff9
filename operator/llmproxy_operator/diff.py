"""Does a live object differ from what is wanted of it, in the sense of server-side apply?

Pure. A live object has much that nobody sent: defaults, other people's fields, status. It is as wanted if every field
that we send has our value, and no field that we once sent (the server keeps a record) is left that we no longer want.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmproxy_operator.manifest import Manifest

Path = tuple[str, ...]

_MERGE_KEYS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "containers": (("name",),),
    "env": (("name",),),
    "imagePullSecrets": (("name",),),
    "initContainers": (("name",),),
    "ownerReferences": (("uid",),),
    "ports": (("containerPort", "protocol"), ("port", "protocol")),
    "topologySpreadConstraints": (("topologyKey", "whenUnsatisfiable"),),
    "volumeMounts": (("mountPath",),),
    "volumes": (("name",),),
}
"""Lists whose items the API server tells apart by fields; in others the order counts and the list is one value."""

_ONE_VALUE = frozenset({"labelSelector", "nodeSelector", "podSelector", "selector"})
"""Maps that the API server takes as one value: a key that somebody added is a difference."""

_MISSING = object()


def differences(wanted: Manifest, live: Manifest, manager: str) -> tuple[str, ...]:
    """Return the fields that an apply by *manager* would change, as paths in a stable order; none: nothing to write."""
    owned = _owned_fields(live, manager)
    if owned is None:
        return ("metadata.managedFields",)  # without the record, what was left behind cannot be seen
    found = {*_changed(wanted, live, ()), *_left(owned, wanted, ())}
    return tuple(sorted(".".join(path) for path in found))


def _owned_fields(live: Manifest, manager: str) -> Mapping[str, Any] | None:
    for entry in live["metadata"].get("managedFields") or ():
        mine = entry.get("manager") == manager and entry.get("operation") == "Apply"
        if mine and not entry.get("subresource"):
            fields: Mapping[str, Any] = entry.get("fieldsV1") or {}
            return fields
    return None


def _changed(wanted: object, live: object, path: Path) -> Iterator[Path]:
    if path and path[-1] in _ONE_VALUE and live is not _MISSING:
        if wanted != live:
            yield path
    elif isinstance(wanted, Mapping) and isinstance(live, Mapping | type(_MISSING)):
        there = live if isinstance(live, Mapping) else {}
        for key, value in wanted.items():
            yield from _changed(value, there.get(key, _MISSING), (*path, key))
    elif isinstance(wanted, Sequence) and not isinstance(wanted, str) and (keys := _keys(path, wanted)):
        for item in wanted:
            yield from _changed(item, _find(live, item, keys), (*path, _label(item, keys)))
    elif live is _MISSING:
        if wanted not in ([], (), None):  # the API server does not store what is empty
            yield path
    elif wanted != live:
        yield path


def _left(owned: Mapping[str, Any], wanted: object, path: Path) -> Iterator[Path]:
    """Yield the fields of the server's record that are not wanted any more."""
    for mark, below in owned.items():
        kind, _, name = mark.partition(":")
        if kind == "f":
            here = (*path, name)
            if not isinstance(wanted, Mapping) or wanted.get(name) is None:
                yield here
            else:
                yield from _left(below, wanted[name], here)
        elif kind == "k":
            identity = json.loads(name)
            here = (*path, "/".join(str(value) for value in identity.values()))
            item = _find(wanted, identity, tuple(identity))
            if item is _MISSING:
                yield here
            else:
                yield from _left(below, item, here)


def _keys(path: Path, items: Sequence[Any]) -> tuple[str, ...]:
    """Return the fields that tell the items of the list at *path* apart, none if the list is one value."""
    if not items or not all(isinstance(item, Mapping) for item in items):
        return ()
    for keys in _MERGE_KEYS.get(path[-1] if path else "", ()):
        if all(keys[0] in item for item in items):
            return keys
    return ()


def _find(items: object, wanted: Mapping[str, Any], keys: tuple[str, ...]) -> object:
    for item in items if isinstance(items, Sequence) and not isinstance(items, str) else ():
        if isinstance(item, Mapping) and all(item.get(key) == wanted.get(key) for key in keys):
            return item
    return _MISSING


def _label(item: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    return "/".join(str(item.get(key)) for key in keys)
