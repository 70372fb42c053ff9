"""NetworkPolicy of a proxy's pods; rendered only if the resource says so. The cluster's network must enforce it."""

from collections.abc import Iterable
from typing import Any

from llmproxy_api import LLMProxy
from llmproxy_api.access import EVERYWHERE, Destination
from llmproxy_operator import names
from llmproxy_operator.manifest import Manifest, owned

_NAMESPACE_NAME = "kubernetes.io/metadata.name"
"""Label that the API server sets on each namespace; nobody else can."""
_OWN: dict[str, Any] = {"podSelector": {}}
"""Every pod of the proxy's own namespace."""
_DNS = (53, 5353)
"""Ports of DNS servers: policies apply after the Service's DNAT, and the pods of OpenShift's DNS listen on 5353."""
HBONE = 15008
"""Port of the tunnel of Istio's ambient mode: there all traffic between pods of the mesh arrives at it."""


def network_policy(proxy: LLMProxy, scrapers: tuple[str, ...] = ()) -> Manifest | None:
    """Return the policy of *proxy*, None if it restricts nothing.

    *scrapers* are the namespaces that may read metrics if the resource names none.
    """
    access = proxy.spec.access
    if access is None or (access.namespaces is None and access.egress is None):
        return None
    name = proxy.metadata.name
    spec: dict[str, Any] = {"podSelector": {"matchLabels": names.selector_labels(name)}, "policyTypes": []}
    if access.namespaces is not None:
        spec["policyTypes"].append("Ingress")
        own = access.metrics_namespaces
        spec["ingress"] = _ingress(name, access.namespaces, scrapers if own is None else own)
    if access.egress is not None:
        spec["policyTypes"].append("Egress")
        spec["egress"] = _egress(name, access.egress)
    head = owned(proxy, "networking.k8s.io/v1", "NetworkPolicy", names.policy(name), names.labels(name, names.POLICY))
    return {**head, "spec": spec}


def _ingress(name: str, namespaces: tuple[str, ...], scrapers: tuple[str, ...]) -> list[dict[str, Any]]:
    everybody = (EVERYWHERE,) if EVERYWHERE in {*namespaces, *scrapers} else (*namespaces, *scrapers)
    return [
        _rule(_callers(namespaces), names.PORT_HTTP),
        # Probes come from the node, which no policy keeps out.
        _rule(_callers(scrapers), names.PORT_ADMIN),
        _rule([_OWN], names.PORT_CONTROL),  # trainers of this namespace; the port requires a token too
        _rule([{"podSelector": {"matchLabels": names.selector_labels(name)}}], names.PORT_PEERS),
        _rule(_callers(everybody), HBONE),
    ]


def _egress(name: str, destinations: tuple[Destination, ...]) -> list[dict[str, Any]]:
    """Return the rules of egress: what every proxy needs, and the *destinations* of its author."""
    peers = {"podSelector": {"matchLabels": names.selector_labels(name)}}
    store = {"podSelector": {"matchLabels": names.limits_selector_labels(name)}}
    return [
        {"ports": [{"port": port, "protocol": protocol} for port in _DNS for protocol in ("UDP", "TCP")]},
        {"to": [peers], "ports": [tcp(names.PORT_PEERS), tcp(HBONE)]},
        {"to": [store], "ports": [tcp(names.PORT_LIMITS), tcp(HBONE)]},
        *(_destination(item) for item in destinations),
    ]


def _destination(item: Destination) -> dict[str, Any]:
    if item.cidr is not None:
        to: dict[str, Any] = {"ipBlock": {"cidr": item.cidr}}
    else:
        to = {}
        if item.namespace is not None:
            labels = {} if item.namespace == EVERYWHERE else {"matchLabels": {_NAMESPACE_NAME: item.namespace}}
            to["namespaceSelector"] = labels
        if item.pod_labels is not None or item.namespace is None:
            to["podSelector"] = {"matchLabels": dict(item.pod_labels or {})}
    if item.ports is None:
        return {"to": [to]}
    # Pods of an ambient mesh are reached through its tunnel.
    tunnel = [] if item.cidr is not None else [tcp(HBONE)]
    return {"to": [to], "ports": [*(tcp(port) for port in item.ports), *tunnel]}


def _callers(namespaces: tuple[str, ...]) -> list[dict[str, Any]]:
    if EVERYWHERE in namespaces:
        return [{"namespaceSelector": {}}]
    if not namespaces:
        return [_OWN]
    expression = {"key": _NAMESPACE_NAME, "operator": "In", "values": sorted(namespaces)}
    return [_OWN, {"namespaceSelector": {"matchExpressions": [expression]}}]


def _rule(callers: list[dict[str, Any]], port: int) -> dict[str, Any]:
    return {"from": callers, "ports": [tcp(port)]}


def tcp(port: int) -> dict[str, Any]:
    """Return a port of a rule."""
    return {"port": port, "protocol": "TCP"}


def with_pod_owners(policy: Manifest, pods: Iterable[Manifest]) -> Manifest:
    """Return *policy* with *pods* as further owners: the garbage collector deletes it after the last of them.

    With the LLMProxy as its only owner it would go at once, while pods finish calls for up to `spec.drainTimeout`.
    """
    owners = [
        {"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
        for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["uid"]))
    ]
    metadata = policy["metadata"]
    return {**policy, "metadata": {**metadata, "ownerReferences": [*metadata["ownerReferences"], *owners]}}
