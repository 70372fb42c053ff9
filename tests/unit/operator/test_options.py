"""Objects that a proxy has only if it asks for them: who may call, and who finds the metrics."""

from typing import Any

import pytest

from fakes.cluster import FakeCluster
from fakes.passes import PROXY, Operator, a_proxy, serve
from llmproxy_api import parse
from llmproxy_operator import names
from llmproxy_operator.conditions import condition
from llmproxy_operator.render.containers import amounts
from llmproxy_operator.render.network import network_policy

Manifest = dict[str, Any]
ANYWHERE: list[Manifest] = [{"namespaceSelector": {}}]
OWN: Manifest = {"podSelector": {}}


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
    assert callers(policy, names.PORT_ADMIN) == ANYWHERE
    assert callers(policy, names.PORT_CONTROL) == [{"podSelector": {}}]
    assert callers(policy, names.PORT_PEERS) == [{"podSelector": {"matchLabels": names.selector_labels("p")}}]
    assert policy["spec"]["podSelector"] == {"matchLabels": names.selector_labels("p")}
    assert policy["spec"]["policyTypes"] == ["Ingress"]


def test_egress_is_what_is_listed_and_what_every_proxy_needs() -> None:
    policy = policy_of(access={"egress": [{"cidr": "10.0.0.0/8", "ports": [443, 8000]}, {"cidr": "fd00::/8"}]})

    assert policy is not None
    own = [
        {"to": [{"podSelector": {"matchLabels": selector}}], "ports": [{"port": port, "protocol": "TCP"}]}
        for selector, port in (
            (names.selector_labels("p"), names.PORT_PEERS),
            (names.limits_selector_labels("p"), names.PORT_LIMITS),
        )
    ]
    assert policy["spec"] == {
        "podSelector": {"matchLabels": names.selector_labels("p")},
        "policyTypes": ["Egress"],  # of callers nothing is said: all may call
        "egress": [
            {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]},
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


OPTIONS = [
    pytest.param({"access": {"egress": [{"cidr": "10.0.0.0/8"}]}}, "NetworkPolicy/p", id="egress"),
    pytest.param({"access": {"namespaces": ["a"]}}, "NetworkPolicy/p", id="access"),
    pytest.param({"monitoring": {"podMonitor": True, "labels": {"release": "x"}}}, "PodMonitor/p", id="monitoring"),
]


@pytest.mark.parametrize(("option", "child"), OPTIONS)
async def test_an_option_that_is_switched_off_takes_its_object_along(option: Manifest, child: str) -> None:
    cluster = FakeCluster()
    operator = Operator(cluster)
    cluster.put(a_proxy())
    await operator.passes()
    serve(cluster)
    await operator.passes()
    template = cluster.one("Deployment", "p")["spec"]["template"]

    cluster.put(a_proxy(**option))
    await operator.passes()
    assert child in cluster.kinds()
    assert operator.condition("Ready") == ("True", "AllReplicasReady")
    assert cluster.one("Deployment", "p")["spec"]["template"] == template  # no pod is rolled for it
    before = cluster.writes.copy()
    await operator.passes()
    await Operator(cluster).passes()
    assert cluster.writes == before

    cluster.put(a_proxy())
    await operator.passes()
    assert child not in cluster.kinds()


@pytest.mark.parametrize(("option", "child"), OPTIONS)
async def test_an_option_whose_object_is_somebody_elses_stops_the_pass(option: Manifest, child: str) -> None:
    cluster = FakeCluster()
    version = "networking.k8s.io/v1" if child.startswith("N") else "monitoring.coreos.com/v1"
    theirs = {"apiVersion": version, "kind": child.removesuffix("/p"), "metadata": {"name": "p", "namespace": "n"}}
    cluster.put({**theirs, "spec": {"x": 1}})
    operator = Operator(cluster)
    cluster.put(a_proxy(**option))

    await operator.passes()

    assert operator.condition("Stalled") == ("True", "NameConflict")


async def test_without_the_prometheus_operator_all_else_is_made_and_the_status_says_what_lacks() -> None:
    cluster = FakeCluster()
    cluster.served = False
    operator = Operator(cluster)
    cluster.put(a_proxy(monitoring={"podMonitor": True}, rateLimits={"rpm": 5}))
    await operator.passes()
    assert operator.condition("Reconciling") == ("True", "RollingOut")
    serve(cluster)

    again_s = await operator.passes()

    assert operator.condition("Stalled") == ("True", "PodMonitorUnavailable")
    assert operator.condition("Available")[0] == "True"
    assert cluster.objects[PROXY]["status"]["limits"]["rpm"] == 5
    assert "podMonitor: false" in condition(cluster.objects[PROXY]["status"], "Stalled")["message"]
    assert again_s == 20

    cluster.served = True
    await operator.passes()
    assert operator.condition("Ready")[0] == "True"
    assert "PodMonitor/p" in cluster.kinds()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}),
        (
            {"limits": {"memory": "512Mi"}},
            {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "512Mi"}},
        ),
        ({"requests": {"memory": "4Gi"}}, {"requests": {"cpu": "100m", "memory": "4Gi"}, "limits": {"memory": "4Gi"}}),
        (
            {"limits": {"cpu": "50m"}},
            {"requests": {"cpu": "50m", "memory": "1Gi"}, "limits": {"cpu": "50m", "memory": "2Gi"}},
        ),
    ],
)
def test_defaults_do_not_contradict_what_is_given(given: Manifest, expected: Manifest) -> None:
    proxy = parse(a_proxy(resources=given))
    defaults = {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}

    assert amounts(proxy.spec.resources, defaults) == expected
