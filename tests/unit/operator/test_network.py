"""NetworkPolicies: who may call, and what may be called."""

from typing import Any

import pytest

from fakes.reconciling import a_proxy
from llmproxy_api import parse
from llmproxy_operator import names
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
