"""The PodMonitor, and other objects that a proxy has only if it asks for them."""

from typing import Any

import pytest

from fakes.cluster import FakeCluster
from fakes.reconciling import PROXY, Operator, a_proxy, serve
from llmproxy_operator.conditions import condition

Manifest = dict[str, Any]
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
    await operator.reconcile()
    serve(cluster)
    await operator.reconcile()
    template = cluster.one("Deployment", "p")["spec"]["template"]

    cluster.put(a_proxy(**option))
    await operator.reconcile()
    assert child in cluster.kinds()
    assert operator.condition("Ready") == ("True", "AllReplicasReady")
    assert cluster.one("Deployment", "p")["spec"]["template"] == template  # no pod is rolled for it
    before = cluster.writes.copy()
    await operator.reconcile()
    await Operator(cluster).reconcile()
    assert cluster.writes == before

    cluster.put(a_proxy())
    await operator.reconcile()
    assert child not in cluster.kinds()


@pytest.mark.parametrize(("option", "child"), OPTIONS)
async def test_an_option_whose_object_is_somebody_elses_stops_the_reconcile(option: Manifest, child: str) -> None:
    cluster = FakeCluster()
    version = "networking.k8s.io/v1" if child.startswith("N") else "monitoring.coreos.com/v1"
    theirs = {"apiVersion": version, "kind": child.removesuffix("/p"), "metadata": {"name": "p", "namespace": "n"}}
    cluster.put({**theirs, "spec": {"x": 1}})
    operator = Operator(cluster)
    cluster.put(a_proxy(**option))

    await operator.reconcile()

    assert operator.condition("Stalled") == ("True", "NameConflict")


async def test_without_the_prometheus_operator_all_else_is_made_and_the_status_says_what_lacks() -> None:
    cluster = FakeCluster()
    cluster.served = False
    operator = Operator(cluster)
    cluster.put(a_proxy(monitoring={"podMonitor": True}, rateLimits={"rpm": 5}))
    await operator.reconcile()
    assert operator.condition("Reconciling") == ("True", "RollingOut")
    serve(cluster)

    again_s = await operator.reconcile()

    assert operator.condition("Stalled") == ("True", "PodMonitorUnavailable")
    assert operator.condition("Available")[0] == "True"
    assert cluster.objects[PROXY]["status"]["limits"]["rpm"] == 5
    assert "podMonitor: false" in condition(cluster.objects[PROXY]["status"], "Stalled")["message"]
    assert again_s == 20

    cluster.served = True
    await operator.reconcile()
    assert operator.condition("Ready")[0] == "True"
    assert "PodMonitor/p" in cluster.kinds()
