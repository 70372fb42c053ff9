"""The NetworkPolicy that says who may call; made only if the resource says so, and only as good as the network is."""

from typing import Any

from llmproxy_api import LLMProxy
from llmproxy_api.access import EVERYWHERE
from llmproxy_operator import names
from llmproxy_operator.manifest import Manifest, owned

_NAMESPACE_NAME = "kubernetes.io/metadata.name"
"""Kubernetes labels each namespace so; nobody else can."""
_OWN: dict[str, Any] = {"podSelector": {}}
"""Every pod of the proxy's own namespace."""


def network_policy(proxy: LLMProxy) -> Manifest | None:
    """Return the policy of *proxy*, None if everybody may call."""
    access = proxy.spec.access
    if access is None or access.namespaces is None:
        return None
    name = proxy.metadata.name
    selector = {"matchLabels": names.selector_labels(name)}
    head = owned(proxy, "networking.k8s.io/v1", "NetworkPolicy", names.policy(name), names.labels(name, names.POLICY))
    return {
        **head,
        "spec": {
            "podSelector": selector,
            "policyTypes": ["Ingress"],
            "ingress": [
                _rule(_callers(access.namespaces), names.PORT_HTTP),
                # Health and metrics can only be read, and a Prometheus may be in any namespace.
                _rule([{"namespaceSelector": {}}], names.PORT_ADMIN),
                _rule([_OWN], names.PORT_CONTROL),  # trainers of this namespace; the port asks for a token besides
                _rule([{"podSelector": selector}], names.PORT_PEERS),
            ],
        },
    }


def _callers(namespaces: tuple[str, ...]) -> list[dict[str, Any]]:
    if EVERYWHERE in namespaces:
        return [{"namespaceSelector": {}}]
    if not namespaces:
        return [_OWN]
    expression = {"key": _NAMESPACE_NAME, "operator": "In", "values": sorted(namespaces)}
    return [_OWN, {"namespaceSelector": {"matchExpressions": [expression]}}]


def _rule(callers: list[dict[str, Any]], port: int) -> dict[str, Any]:
    return {"from": callers, "ports": [{"port": port, "protocol": "TCP"}]}
