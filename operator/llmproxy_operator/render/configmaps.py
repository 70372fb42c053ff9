"""ConfigMaps: one immutable object per contract document, and the environment for pods of trainers."""

from collections.abc import Iterable

from llmproxy_api import LLMProxy
from llmproxy_operator import names
from llmproxy_operator.manifest import Manifest, owned
from llmproxy_operator.render.config import document_hash

CONFIG_FILE = "config.json"
NO_KEY = "none-needed"
"""Placeholder: SDKs refuse to start without a key; the proxy needs none."""


def config_map(proxy: LLMProxy, document: str) -> Manifest:
    """Return the ConfigMap with the contract *document*.

    Its name has the document's hash and it is immutable, so a pod of an older template that restarts in the middle of
    a failing roll reads the document that it was created for.
    """
    name = proxy.metadata.name
    return {
        **owned(
            proxy, "v1", "ConfigMap", names.config(name, document_hash(document)), names.labels(name, names.CONFIG)
        ),
        "immutable": True,
        "data": {CONFIG_FILE: document},
    }


def endpoint_config_map(proxy: LLMProxy) -> Manifest:
    """Return the ConfigMap for `envFrom` of pods that call the proxy."""
    name = proxy.metadata.name
    url = names.endpoint_url(name, proxy.metadata.namespace)
    return {
        **owned(proxy, "v1", "ConfigMap", names.endpoint(name), names.labels(name, names.ENDPOINT)),
        "data": {
            "ANTHROPIC_BASE_URL": url,
            "LLMPROXY_ENDPOINT": url,
            "OPENAI_API_KEY": NO_KEY,
            "OPENAI_BASE_URL": f"{url}/v1",
        },
    }


def stale_configs(
    configmaps: Iterable[Manifest], users: Iterable[Manifest], *, keep: Iterable[str] = ()
) -> tuple[str, ...]:
    """Return the names of those of *configmaps* (of one proxy) that may be deleted.

    *users* are the ReplicaSets of the proxy, and its Deployment, whose newest ReplicaSet may not exist yet. ConfigMaps
    that one of them mounts stay, as do those in *keep*.
    """
    used = {name for user in users for name in _mounted(user)} | set(keep)
    return tuple(
        sorted(
            item["metadata"]["name"]
            for item in configmaps
            if item["metadata"].get("labels", {}).get(names.LABEL_COMPONENT) == names.CONFIG
            and item["metadata"]["name"] not in used
        )
    )


def _mounted(user: Manifest) -> Iterable[str]:
    for volume in user["spec"]["template"]["spec"].get("volumes") or ():
        if "configMap" in volume:
            yield volume["configMap"]["name"]
