"""Ownership of an object that has the name of one of our children. Pure: judged by owner references first.

A label can be copied; an owner reference with the uid of our LLMProxy, or the record of an apply by our field manager,
cannot be there by chance.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from llmproxy_api import API_VERSION, KIND, LLMProxy
from llmproxy_operator import names
from llmproxy_operator.manifest import Manifest, Ref, owner_uid, ref


class Ownership(Enum):
    """Relation of an object to one LLMProxy."""

    ABSENT = auto()
    OURS = auto()
    ORPHANED = auto()
    """Ours without an owner, as backup tools restore it: the next apply adopts it."""
    LEAVING = auto()
    """It is being deleted, or belongs to a deleted LLMProxy of the same name: soon it will be gone."""
    FOREIGN = auto()
    """Somebody else's: it must not be touched."""


@dataclass(frozen=True)
class Child:
    """One desired object, and the live object of its name."""

    desired: Manifest
    live: Manifest | None
    ownership: Ownership

    @property
    def ref(self) -> Ref:
        """Reference of the object."""
        return ref(self.desired)


def ownership_of(live: Manifest | None, proxy: LLMProxy) -> Ownership:
    """Return the ownership of *live*, which has the name of a child of *proxy*."""
    if live is None:
        return Ownership.ABSENT
    if owner_uid(live) == proxy.metadata.uid:
        return Ownership.LEAVING if live["metadata"].get("deletionTimestamp") else Ownership.OURS
    if _is_of_predecessor(live, proxy.metadata.name):
        return Ownership.LEAVING
    if _is_orphan(live, proxy.metadata.name):
        return Ownership.LEAVING if live["metadata"].get("deletionTimestamp") else Ownership.ORPHANED
    return Ownership.FOREIGN


def _is_of_predecessor(live: Manifest, name: str) -> bool:
    return any(
        owner.get("controller") and (owner["apiVersion"], owner["kind"], owner["name"]) == (API_VERSION, KIND, name)
        for owner in live["metadata"].get("ownerReferences") or ()
    )


def _is_orphan(live: Manifest, name: str) -> bool:
    """Return whether nobody controls *live*, its labels name the proxy, and our field manager applied it."""
    metadata = live["metadata"]
    labels = metadata.get("labels") or {}
    controlled = any(owner.get("controller") for owner in metadata.get("ownerReferences") or ())
    named = (labels.get(names.LABEL_NAME), labels.get(names.LABEL_MANAGED_BY)) == (name, names.FIELD_MANAGER)
    applied = any(
        (entry.get("manager"), entry.get("operation")) == (names.FIELD_MANAGER, "Apply")
        for entry in metadata.get("managedFields") or ()
    )
    return named and applied and not controlled


def is_ours(live: Manifest, proxy: LLMProxy) -> bool:
    """Return whether *live* is a child of *proxy*, with or without its owner reference."""
    return ownership_of(live, proxy) in {Ownership.OURS, Ownership.ORPHANED}


def has_other_managers(live: Manifest) -> bool:
    """Return whether anybody but this operator wrote the object itself, its status aside."""
    return any(
        entry.get("manager") != names.FIELD_MANAGER and not entry.get("subresource")
        for entry in live["metadata"].get("managedFields") or ()
    )


def obsolete(live: Iterable[Manifest], proxy: LLMProxy, desired: Iterable[Manifest]) -> tuple[Manifest, ...]:
    """Return those of *live* that are children of *proxy* and not desired, without the documents of old pods."""
    keep = {ref(item) for item in desired}
    return tuple(item for item in live if is_ours(item, proxy) and ref(item) not in keep and not is_document(item))


def is_document(item: Manifest) -> bool:
    """Return whether *item* is a ConfigMap with a contract document, which old pods may still need."""
    labels: Mapping[str, str] = item["metadata"].get("labels") or {}
    return item["kind"] == "ConfigMap" and labels.get(names.LABEL_COMPONENT) == names.CONFIG


def is_store(item: Manifest) -> bool:
    """Return whether *item* belongs to the store of shared limits, which old pods may still use."""
    labels: Mapping[str, str] = item["metadata"].get("labels") or {}
    return labels.get(names.LABEL_COMPONENT) == names.LIMITS
