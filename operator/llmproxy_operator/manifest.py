"""A Kubernetes object as plain data, and the few facts that every one has."""

from typing import Any, NamedTuple

from llmproxy_api import API_VERSION, KIND, LLMProxy

Manifest = dict[str, Any]
"""An object as it is sent to the API server."""


class Ref(NamedTuple):
    """Which object."""

    api_version: str
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


def ref(manifest: Manifest) -> Ref:
    """Return which object *manifest* is."""
    metadata = manifest["metadata"]
    return Ref(manifest["apiVersion"], manifest["kind"], metadata.get("namespace", ""), metadata["name"])


def owned(proxy: LLMProxy, api_version: str, kind: str, name: str, labels: dict[str, str]) -> Manifest:
    """Return the head of a child of *proxy*: it goes when the proxy goes."""
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
