"""Whose is an object that has the name of one that we want? Pure: judged by owner references, never by labels alone.

A label can be copied, an owner reference with our object's uid cannot be there by chance.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from llmproxy_api import API_VERSION, KIND, LLMProxy
from llmproxy_operator import names
from llmproxy_operator.manifest import Manifest, Ref, owner_uid, ref


class Standing(Enum):
    """How an object stands to one LLMProxy."""

    ABSENT = auto()
    OURS = auto()
    LEAVING = auto()
    """It is being deleted, or belongs to a deleted LLMProxy of the same name: soon it will be gone."""
    FOREIGN = auto()
    """Somebody else's: it may not be touched."""


@dataclass(frozen=True)
class Child:
    """One wanted object, and what is there in its place."""

    wanted: Manifest
    live: Manifest | None
    standing: Standing

    @property
    def ref(self) -> Ref:
        """Which object."""
        return ref(self.wanted)


def standing(live: Manifest | None, proxy: LLMProxy) -> Standing:
    """Judge *live*, which has the name of a child of *proxy*."""
    if live is None:
        return Standing.ABSENT
    if owner_uid(live) == proxy.metadata.uid:
        return Standing.LEAVING if live["metadata"].get("deletionTimestamp") else Standing.OURS
    if _former(live, proxy.metadata.name):
        return Standing.LEAVING
    return Standing.FOREIGN


def _former(live: Manifest, name: str) -> bool:
    return any(
        owner.get("controller") and (owner["apiVersion"], owner["kind"], owner["name"]) == (API_VERSION, KIND, name)
        for owner in live["metadata"].get("ownerReferences") or ()
    )


def made_by_others(live: Manifest) -> bool:
    """Whether anybody but this operator wrote the object itself, its status aside."""
    return any(
        entry.get("manager") != names.FIELD_MANAGER and not entry.get("subresource")
        for entry in live["metadata"].get("managedFields") or ()
    )


def unwanted(found: Iterable[Manifest], proxy: LLMProxy, wanted: Iterable[Manifest]) -> tuple[Manifest, ...]:
    """Return those of *found* that are children of *proxy* and not wanted, without the documents of old pods."""
    keep = {ref(item) for item in wanted}
    return tuple(
        item
        for item in found
        if standing(item, proxy) is Standing.OURS and ref(item) not in keep and not is_document(item)
    )


def is_document(item: Manifest) -> bool:
    """Whether it is a ConfigMap with a contract document, which old pods may still need."""
    labels: Mapping[str, str] = item["metadata"].get("labels") or {}
    return item["kind"] == "ConfigMap" and labels.get(names.LABEL_COMPONENT) == names.CONFIG


def is_store(item: Manifest) -> bool:
    """Whether it belongs to the store of shared limits, which old pods may still count in."""
    labels: Mapping[str, str] = item["metadata"].get("labels") or {}
    return labels.get(names.LABEL_COMPONENT) == names.LIMITS
