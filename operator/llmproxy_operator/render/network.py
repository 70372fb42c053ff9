"""NetworkPolicy of a proxy's pods; rendered only if the resource says so. The cluster's network must enforce it."""

from typing import Any

from llmproxy_api import LLMProxy
from llmproxy_api.access import EVERYWHERE, Destination
from llmproxy_operator import names
from llmproxy_operator.manifest import Manifest, owned

_NAMESPACE_NAME = "kubernetes.io/metadata.name"
"""Label that the API server sets on each namespace; nobody else can."""
_OWN: dict[str, Any] = {"podSelector": {}}
"""Every pod of the proxy's own namespace."""
_DNS = 53


def network_policy(proxy: LLMProxy) -> Manifest | None:
    """Return the policy of *proxy*, None if it restricts nothing."""
    access = proxy.spec.access
    if access is None or (access.namespaces is None and access.egress is None):
        return None
    name = proxy.metadata.name
    spec: dict[str, Any] = {"podSelector": {"matchLabels": names.selector_labels(name)}, "policyTypes": []}
    if access.namespaces is not None:
        spec["policyTypes"].append("Ingress")
        spec["ingress"] = _ingress(name, access.namespaces)
    if access.egress is not None:
        spec["policyTypes"].append("Egress")
        spec["egress"] = _egress(name, access.egress)
    head = owned(proxy, "networking.k8s.io/v1", "NetworkPolicy", names.policy(name), names.labels(name, names.POLICY))
    return {**head, "spec": spec}


def _ingress(name: str, namespaces: tuple[str, ...]) -> list[dict[str, Any]]:
    return [
        _rule(_callers(namespaces), names.PORT_HTTP),
        # Health and metrics are read-only, and a Prometheus may be in any namespace.
        _rule([{"namespaceSelector": {}}], names.PORT_ADMIN),
        _rule([_OWN], names.PORT_CONTROL),  # trainers of this namespace; the port requires a token too
        _rule([{"podSelector": {"matchLabels": names.selector_labels(name)}}], names.PORT_PEERS),
    ]


def _egress(name: str, destinations: tuple[Destination, ...]) -> list[dict[str, Any]]:
    """Return the rules of egress: what every proxy needs, and the *destinations* of its author."""
    peers = {"podSelector": {"matchLabels": names.selector_labels(name)}}
    store = {"podSelector": {"matchLabels": names.limits_selector_labels(name)}}
    return [
        {"ports": [{"port": _DNS, "protocol": "UDP"}, {"port": _DNS, "protocol": "TCP"}]},
        {"to": [peers], "ports": [_tcp(names.PORT_PEERS)]},
        {"to": [store], "ports": [_tcp(names.PORT_LIMITS)]},
        *(_destination(item) for item in destinations),
    ]


def _destination(item: Destination) -> dict[str, Any]:
    to = {"to": [{"ipBlock": {"cidr": item.cidr}}]}
    return to if item.ports is None else {**to, "ports": [_tcp(port) for port in item.ports]}


def _callers(namespaces: tuple[str, ...]) -> list[dict[str, Any]]:
    if EVERYWHERE in namespaces:
        return [{"namespaceSelector": {}}]
    if not namespaces:
        return [_OWN]
    expression = {"key": _NAMESPACE_NAME, "operator": "In", "values": sorted(namespaces)}
    return [_OWN, {"namespaceSelector": {"matchExpressions": [expression]}}]


def _rule(callers: list[dict[str, Any]], port: int) -> dict[str, Any]:
    return {"from": callers, "ports": [_tcp(port)]}


def _tcp(port: int) -> dict[str, Any]:
    return {"port": port, "protocol": "TCP"}
