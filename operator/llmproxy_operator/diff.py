"""Difference between a desired and a live object, in the sense of server-side apply. Pure.

A live object has much that nobody sent: defaults, fields of other managers, status. There is no difference if every
field that we send has our value, and no field that we once sent (by managedFields) is left that is not desired now.
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
"""Lists whose items have merge keys (listType map); all others are atomic, and their order counts."""

_ATOMIC_MAPS = frozenset({"labelSelector", "nodeSelector", "podSelector", "selector"})
"""Atomic maps: a key that somebody added is a difference."""

_MISSING = object()


def differences(desired: Manifest, live: Manifest, manager: str) -> tuple[str, ...]:
    """Return the fields that an apply by *manager* would change, as paths in a stable order; none: nothing to write."""
    owned = _owned_fields(live, manager)
    if owned is None:
        return ("metadata.managedFields",)  # without the record, obsolete fields cannot be found
    paths = {*_changed(desired, live, ()), *_obsolete(owned, desired, ())}
    return tuple(sorted(".".join(path) for path in paths))


def _owned_fields(live: Manifest, manager: str) -> Mapping[str, Any] | None:
    for entry in live["metadata"].get("managedFields") or ():
        mine = entry.get("manager") == manager and entry.get("operation") == "Apply"
        if mine and not entry.get("subresource"):
            fields: Mapping[str, Any] = entry.get("fieldsV1") or {}
            return fields
    return None


def _changed(desired: object, live: object, path: Path) -> Iterator[Path]:
    if path and path[-1] in _ATOMIC_MAPS and live is not _MISSING:
        if desired != live:
            yield path
    elif isinstance(desired, Mapping) and isinstance(live, Mapping | type(_MISSING)):
        present = live if isinstance(live, Mapping) else {}
        for key, value in desired.items():
            yield from _changed(value, present.get(key, _MISSING), (*path, key))
    elif isinstance(desired, Sequence) and not isinstance(desired, str) and (keys := _keys(path, desired)):
        for item in desired:
            yield from _changed(item, _find(live, item, keys), (*path, _label(item, keys)))
    elif live is _MISSING:
        if desired not in ([], (), None):  # the API server does not store what is empty
            yield path
    elif desired != live:
        yield path


def _obsolete(owned: Mapping[str, Any], desired: object, path: Path) -> Iterator[Path]:
    """Yield the fields of the server's record that are not desired any more."""
    for mark, below in owned.items():
        kind, _, name = mark.partition(":")
        if kind == "f":
            here = (*path, name)
            if not isinstance(desired, Mapping) or desired.get(name) is None:
                yield here
            else:
                yield from _obsolete(below, desired[name], here)
        elif kind == "k":
            identity = json.loads(name)
            here = (*path, "/".join(str(value) for value in identity.values()))
            item = _find(desired, identity, tuple(identity))
            if item is _MISSING:
                yield here
            else:
                yield from _obsolete(below, item, here)


def _keys(path: Path, items: Sequence[Any]) -> tuple[str, ...]:
    """Return the merge keys of the list at *path*, none if the list is atomic."""
    if not items or not all(isinstance(item, Mapping) for item in items):
        return ()
    for keys in _MERGE_KEYS.get(path[-1] if path else "", ()):
        if all(keys[0] in item for item in items):
            return keys
    return ()


def _find(items: object, desired: Mapping[str, Any], keys: tuple[str, ...]) -> object:
    for item in items if isinstance(items, Sequence) and not isinstance(items, str) else ():
        if isinstance(item, Mapping) and all(item.get(key) == desired.get(key) for key in keys):
            return item
    return _MISSING


def _label(item: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    return "/".join(str(item.get(key)) for key in keys)
