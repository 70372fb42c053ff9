"""A proxy `p` in the namespace `n` and its children, as watches bring them and as the cache knows them."""

from typing import Any

from llmproxy_operator import names
from llmproxy_operator.watch.cache import Cache

Manifest = dict[str, Any]
MINE = {names.LABEL_NAME: "p"}


def a_raw_proxy(uid: str = "u", **metadata: Any) -> Manifest:
    deployments = [{"model": "hosted_vllm/echo", "apiBase": "http://echo:8000/v1"}]
    return {
        "apiVersion": "llmproxy.dev/v1alpha1",
        "kind": "LLMProxy",
        "metadata": {"name": "p", "namespace": "n", "uid": uid, "generation": 1, "resourceVersion": "1", **metadata},
        "spec": {"models": [{"name": "echo", "deployments": deployments}]},
    }


def a_child(version: int, name: str = "p", kind: str = "Service", **more: Any) -> Manifest:
    metadata = {"name": name, "namespace": "n", "labels": names.labels("p", names.GATEWAY)}
    metadata |= {"resourceVersion": str(version), **more.pop("metadata", {})}
    return {"apiVersion": more.pop("api", "v1"), "kind": kind, "metadata": metadata, **more}


def known(cache: Cache) -> dict[str, str]:
    found = cache.of("v1", "Service", "n", MINE)
    return {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in found}
