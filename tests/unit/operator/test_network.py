"""NetworkPolicies: who may call, and what may be called."""

from typing import Any

import pytest

from fakes.cluster import FakeCluster
from fakes.reconciling import PROXY, Operator, a_proxy, serve
from llmproxy_api import SpecError, parse
from llmproxy_operator import names
from llmproxy_operator.manifest import Ref
from llmproxy_operator.render.network import HBONE, network_policy

Manifest = dict[str, Any]
ANYWHERE: list[Manifest] = [{"namespaceSelector": {}}]
OWN: Manifest = {"podSelector": {}}


def named(namespace: str) -> Manifest:
    return {"matchLabels": {"kubernetes.io/metadata.name": namespace}}


def among(namespace: str) -> Manifest:
    expression = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": [namespace]}
    return {"namespaceSelector": {"matchExpressions": [expression]}}


def callers(policy: Manifest, port: int) -> list[Manifest]:
    [rule] = [rule for rule in policy["spec"]["ingress"] if rule["ports"] == [{"port": port, "protocol": "TCP"}]]
    found: list[Manifest] = rule["from"]
    return found


def policy_of(**spec: Any) -> Manifest | None:
    return network_policy(parse(a_proxy(**spec)))


@pytest.mark.parametrize("access", [None, {}, {"apiKeys": {"secretRef": {"name": "keys"}}}])
def test_without_namespaces_and_egress_there_is_no_policy(access: Manifest | None) -> None:
    assert policy_of(access=access) is None


@pytest.mark.parametrize(
    ("namespaces", "may_call"),
    [
        pytest.param([], [OWN], id="own only"),
        pytest.param(["*"], ANYWHERE, id="all"),
        pytest.param(
            ["b", "a"],
            [
                OWN,
                {
                    "namespaceSelector": {
                        "matchExpressions": [
                            {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["a", "b"]}
                        ]
                    }
                },
            ],
            id="named",
        ),
    ],
)
def test_a_policy_lets_in_who_is_named_to_the_port_that_serves(namespaces: list[str], may_call: list[Manifest]) -> None:
    policy = policy_of(access={"namespaces": namespaces})

    assert policy is not None
    assert callers(policy, names.PORT_HTTP) == may_call
    assert callers(policy, names.PORT_ADMIN) == [OWN]
    assert callers(policy, HBONE) == may_call
    assert callers(policy, names.PORT_CONTROL) == [{"podSelector": {}}]
    assert callers(policy, names.PORT_PEERS) == [{"podSelector": {"matchLabels": names.selector_labels("p")}}]
    assert policy["spec"]["podSelector"] == {"matchLabels": names.selector_labels("p")}
    assert policy["spec"]["policyTypes"] == ["Ingress"]


def test_egress_is_what_is_listed_and_what_every_proxy_needs() -> None:
    policy = policy_of(access={"egress": [{"cidr": "10.0.0.0/8", "ports": [443, 8000]}, {"cidr": "fd00::/8"}]})

    assert policy is not None
    own = [
        {
            "to": [{"podSelector": {"matchLabels": selector}}],
            "ports": [{"port": number, "protocol": "TCP"} for number in (port, HBONE)],
        }
        for selector, port in (
            (names.selector_labels("p"), names.PORT_PEERS),
            (names.limits_selector_labels("p"), names.PORT_LIMITS),
        )
    ]
    assert policy["spec"] == {
        "podSelector": {"matchLabels": names.selector_labels("p")},
        "policyTypes": ["Egress"],  # of callers nothing is said: all may call
        "egress": [
            {"ports": [{"port": port, "protocol": name} for port in (53, 5353) for name in ("UDP", "TCP")]},
            *own,
            {
                "to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
                "ports": [{"port": 443, "protocol": "TCP"}, {"port": 8000, "protocol": "TCP"}],
            },
            {"to": [{"ipBlock": {"cidr": "fd00::/8"}}]},
        ],
    }


def test_callers_and_egress_are_one_policy_and_each_may_be_switched_off() -> None:
    both = policy_of(access={"namespaces": ["a"], "egress": []})
    callers_only = policy_of(access={"namespaces": ["a"]})

    assert both is not None
    assert callers_only is not None
    assert both["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert len(both["spec"]["egress"]) == 3
    assert callers_only["spec"].get("egress") is None
    assert both["spec"]["ingress"] == callers_only["spec"]["ingress"]


@pytest.mark.parametrize(
    ("destination", "to"),
    [
        pytest.param({"namespace": "vllm"}, {"namespaceSelector": named("vllm")}, id="all of a namespace"),
        pytest.param(
            {"namespace": "vllm", "podLabels": {"app": "vllm"}},
            {"namespaceSelector": named("vllm"), "podSelector": {"matchLabels": {"app": "vllm"}}},
            id="some of it",
        ),
        pytest.param({"podLabels": {"app": "a"}}, {"podSelector": {"matchLabels": {"app": "a"}}}, id="of its own"),
        pytest.param({"namespace": "*"}, {"namespaceSelector": {}}, id="every pod"),
    ],
)
def test_pods_are_named_by_namespace_and_labels_where_a_network_matches_none_by_address(
    destination: Manifest, to: Manifest
) -> None:
    policy = policy_of(access={"egress": [{**destination, "ports": [8000]}, destination]})

    assert policy is not None
    ports = [{"port": 8000, "protocol": "TCP"}, {"port": HBONE, "protocol": "TCP"}]
    assert policy["spec"]["egress"][3:] == [{"to": [to], "ports": ports}, {"to": [to]}]


@pytest.mark.parametrize("destination", [{}, {"ports": [1]}, {"cidr": "10.0.0.0/8", "namespace": "a"}])
def test_a_destination_is_addresses_or_pods(destination: Manifest) -> None:
    with pytest.raises(SpecError, match="must have either cidr, or namespace or podLabels"):
        policy_of(access={"egress": [destination]})


@pytest.mark.parametrize(
    ("own", "scrapers", "expected"),
    [
        pytest.param({}, (), [OWN], id="nobody but its own"),
        pytest.param({}, ("monitoring",), [OWN, among("monitoring")], id="those of the installation"),
        pytest.param({"metricsNamespaces": ["m"]}, ("monitoring",), [OWN, among("m")], id="those of the resource"),
        pytest.param({"metricsNamespaces": ["*"]}, (), ANYWHERE, id="all"),
    ],
)
def test_metrics_are_for_those_who_scrape(own: Manifest, scrapers: tuple[str, ...], expected: list[Manifest]) -> None:
    policy = network_policy(parse(a_proxy(access={"namespaces": [], **own})), scrapers)

    assert policy is not None
    assert callers(policy, names.PORT_ADMIN) == expected
    assert callers(policy, names.PORT_HTTP) == [OWN]


async def test_a_policy_outlives_the_last_pod(cluster: FakeCluster, operator: Operator) -> None:
    cluster.put(a_proxy(access={"namespaces": []}))
    await operator.reconcile()
    labels = cluster.one("Deployment", "p")["spec"]["template"]["metadata"]["labels"]
    for name in ("p-1", "p-2"):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n", "labels": labels}}
        cluster.put(pod, "kube-controller-manager")
    serve(cluster)
    await operator.reconcile()
    before = cluster.writes.copy()
    await operator.reconcile()
    await Operator(cluster).reconcile()
    assert cluster.writes == before

    cluster.remove(PROXY)
    assert "NetworkPolicy/p" in cluster.kinds()
    assert "Service/p" not in cluster.kinds()
    cluster.remove(Ref("v1", "Pod", "n", "p-1"))
    assert "NetworkPolicy/p" in cluster.kinds()
    cluster.remove(Ref("v1", "Pod", "n", "p-2"))
    assert "NetworkPolicy/p" not in cluster.kinds()


async def test_a_pod_that_is_gone_owns_a_policy_no_longer(cluster: FakeCluster, operator: Operator) -> None:
    cluster.put(a_proxy(access={"namespaces": []}))
    await operator.reconcile()
    labels = cluster.one("Deployment", "p")["spec"]["template"]["metadata"]["labels"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p-1", "namespace": "n", "labels": labels}}
    cluster.put(pod, "kube-controller-manager")
    await operator.reconcile()
    assert len(cluster.one("NetworkPolicy", "p")["metadata"]["ownerReferences"]) == 2

    cluster.objects.pop(Ref("v1", "Pod", "n", "p-1"))
    await operator.reconcile()

    [owner] = cluster.one("NetworkPolicy", "p")["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["controller"]) == ("LLMProxy", True)
