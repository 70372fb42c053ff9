"""Kubernetes objects as plain data: references, owner references."""

from typing import Any, NamedTuple

from llmproxy_api import API_VERSION, KIND, LLMProxy

Manifest = dict[str, Any]
"""An object in the form that the API server takes."""


class Ref(NamedTuple):
    """Reference to an object."""

    api_version: str
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


def ref(manifest: Manifest) -> Ref:
    """Return the reference to *manifest*."""
    metadata = manifest["metadata"]
    return Ref(manifest["apiVersion"], manifest["kind"], metadata.get("namespace", ""), metadata["name"])


def owned(proxy: LLMProxy, api_version: str, kind: str, name: str, labels: dict[str, str]) -> Manifest:
    """Return the head of a child of *proxy*, with the owner reference that deletes it with the proxy."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": proxy.metadata.namespace,
            "labels": labels,
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": KIND,
                    "name": proxy.metadata.name,
                    "uid": proxy.metadata.uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
    }


def owner_uid(manifest: Manifest) -> str | None:
    """Return the uid of the LLMProxy that controls an object, None if none does."""
    for reference in manifest["metadata"].get("ownerReferences") or ():
        if reference.get("controller") and reference["kind"] == KIND and reference["apiVersion"] == API_VERSION:
            uid: str = reference["uid"]
            return uid
    return None
