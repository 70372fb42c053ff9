"""More than one replica: who says how many, what a change of the number rolls, and the objects that come with it."""

from typing import Any

import pytest

from fakes.cluster import FakeCluster
from fakes.reconciling import PROXY, Operator, a_proxy, serve
from llmproxy_api import parse
from llmproxy_operator.conditions import condition
from llmproxy_operator.render import config, scaling
from llmproxy_operator.rollout_status import Rollout, min_ready_of

Manifest = dict[str, Any]


def replicas(cluster: FakeCluster) -> int | None:
    found: int | None = cluster.one("Deployment", "p")["spec"].get("replicas")
    return found


def template(cluster: FakeCluster) -> Manifest:
    found: Manifest = cluster.one("Deployment", "p")["spec"]["template"]
    return found


async def wanted(cluster: FakeCluster, operator: Operator, **spec: Any) -> None:
    """Want this, and see it served."""
    cluster.put(a_proxy(**spec))
    await operator.reconcile()
    serve(cluster)
    await operator.reconcile()


async def nothing_is_written(cluster: FakeCluster, operator: Operator) -> None:
    before = cluster.writes.copy()
    await operator.reconcile()
    await Operator(cluster).reconcile()
    assert cluster.writes == before


# Whose `replicas` is.


async def test_with_autoscaling_the_count_is_the_autoscalers(cluster: FakeCluster, operator: Operator) -> None:
    await wanted(cluster, operator, autoscaling={"minReplicas": 2, "maxReplicas": 5})
    assert replicas(cluster) == 2  # it begins with the least, not with the 1 that Kubernetes would make of nothing
    await nothing_is_written(cluster, operator)

    cluster.scale("p", 4)
    await operator.reconcile()

    assert replicas(cluster) == 4
    serve(cluster)
    await operator.reconcile()
    await nothing_is_written(cluster, operator)
    target = cluster.one("HorizontalPodAutoscaler", "p")["spec"]
    assert target["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "p"}
    assert (target["minReplicas"], target["maxReplicas"]) == (2, 5)
    [metric] = target["metrics"]
    assert metric["containerResource"]["container"] == "gateway"
    assert metric["containerResource"]["target"] == {"type": "Utilization", "averageUtilization": 70}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(4, 4, id="within the bounds it stays"),
        pytest.param(1, 2, id="below them it is raised"),
        pytest.param(0, 2, id="at none an autoscaler would do nothing for ever"),
        pytest.param(9, 6, id="above them it is lowered"),
    ],
)
async def test_switching_autoscaling_on_hands_the_count_over(
    cluster: FakeCluster, operator: Operator, before: int, after: int
) -> None:
    await wanted(cluster, operator, replicas=before)

    await wanted(cluster, operator, autoscaling={"minReplicas": 2, "maxReplicas": 6})

    assert replicas(cluster) == after
    await nothing_is_written(cluster, operator)
    cluster.scale("p", 5)
    await operator.reconcile()
    assert replicas(cluster) == 5


async def test_switching_autoscaling_off_takes_the_count_back(cluster: FakeCluster, operator: Operator) -> None:
    await wanted(cluster, operator, autoscaling={"maxReplicas": 6})
    cluster.scale("p", 5)

    await wanted(cluster, operator, replicas=3)
    assert replicas(cluster) == 3
    assert "HorizontalPodAutoscaler/p" not in cluster.kinds()
    await nothing_is_written(cluster, operator)

    await wanted(cluster, operator, autoscaling={"maxReplicas": 6})  # and on again
    assert replicas(cluster) == 3
    await wanted(cluster, operator)
    assert replicas(cluster) == 1


async def test_a_count_that_changes_at_this_very_moment_is_not_undone(cluster: FakeCluster, operator: Operator) -> None:
    await wanted(cluster, operator, replicas=4)
    proxy = parse({**a_proxy(autoscaling={"maxReplicas": 6})})
    held = scaling.replicas_handover(proxy, cluster.one("Deployment", "p"))
    assert held is not None
    cluster.scale("p", 6)

    with pytest.raises(Exception, match="resourceVersion"):
        await cluster.apply(held, force=True, manager=scaling.HOLDER)


async def test_an_autoscaled_proxy_stays_ready_while_pods_come_and_go(cluster: FakeCluster, operator: Operator) -> None:
    await wanted(cluster, operator, autoscaling={"minReplicas": 2, "maxReplicas": 6})
    cluster.scale("p", 5)
    serve(cluster, replicas=5, updatedReplicas=5, readyReplicas=2, availableReplicas=2)
    await operator.reconcile()
    assert operator.condition("Ready") == ("True", "AllReplicasReady")

    serve(cluster, replicas=5, updatedReplicas=5, readyReplicas=1, availableReplicas=1)
    await operator.reconcile()
    assert operator.condition("Ready") == ("False", "ReplicasNotReady")

    serve(cluster, replicas=6, updatedReplicas=5, readyReplicas=5, availableReplicas=5)
    await operator.reconcile()
    assert operator.condition("Ready") == ("False", "RollingOut")


def test_how_many_are_enough() -> None:
    assert min_ready_of({}) is None
    assert min_ready_of({"autoscaling": {"maxReplicas": 3}}) == 1
    assert min_ready_of({"autoscaling": {"maxReplicas": 3, "minReplicas": 2}}) == 2
    assert not Rollout(3, 3, 3, 3, 3, current=False, min_ready=1).complete
    assert Rollout(0, 0, 0, 0, 0, current=True, min_ready=1).complete  # somebody scaled the Deployment to none


# What rolls.


async def test_a_change_of_the_number_rolls_nothing(cluster: FakeCluster, operator: Operator) -> None:
    await wanted(cluster, operator, replicas=2, rateLimits={"rpm": 60})
    before = template(cluster)

    for count in (3, 2):
        await wanted(cluster, operator, replicas=count, rateLimits={"rpm": 60})
        assert replicas(cluster) == count
        assert template(cluster) == before


@pytest.mark.parametrize(
    ("spec", "pods"),
    [
        ({"replicas": 2}, 4),
        ({"replicas": 3}, 4),
        ({"replicas": 7}, 8),
        ({"replicas": 8}, 16),
        ({"replicas": 64}, 65),
        ({"autoscaling": {"maxReplicas": 5}}, 6),
    ],
)
def test_a_pod_that_never_met_the_others_takes_no_more_than_its_part(spec: Manifest, pods: int) -> None:
    made = config.document(parse(a_proxy(rateLimits={"rpm": 60}, **spec)))

    assert made.shared_limits is not None
    assert made.shared_limits.max_pods == pods


async def test_without_limits_one_replica_and_many_are_the_same_to_a_pod(
    cluster: FakeCluster, operator: Operator
) -> None:
    await wanted(cluster, operator)
    before = template(cluster)

    await wanted(cluster, operator, replicas=5)

    assert template(cluster) == before
    assert cluster.objects[PROXY]["status"]["limits"] == {"mode": "Local"}


# Who may be away, and where pods go.


@pytest.mark.parametrize(
    ("spec", "away"),
    [
        ({}, None),
        ({"disruptionBudget": {"maxUnavailable": 1}}, 1),
        ({"replicas": 2}, 1),
        ({"replicas": 9, "disruptionBudget": {"maxUnavailable": 3}}, 3),
        ({"autoscaling": {"maxReplicas": 2}}, 1),
    ],
)
def test_a_budget_is_there_where_more_than_one_may_serve(spec: Manifest, away: int | None) -> None:
    made = scaling.disruption_budget(parse(a_proxy(**spec)))

    assert (made and made["spec"]["maxUnavailable"]) == away
    if made is not None:
        assert made["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


async def test_pods_prefer_other_nodes_and_zones_unless_told_otherwise(
    cluster: FakeCluster, operator: Operator
) -> None:
    await wanted(cluster, operator, replicas=2)
    constraints = template(cluster)["spec"]["topologySpreadConstraints"]
    assert {(c["topologyKey"], c["whenUnsatisfiable"]) for c in constraints} == {
        ("kubernetes.io/hostname", "ScheduleAnyway"),
        ("topology.kubernetes.io/zone", "ScheduleAnyway"),
    }
    await nothing_is_written(cluster, operator)

    await wanted(cluster, operator, replicas=2, pod={"topologySpread": False})

    assert "topologySpreadConstraints" not in template(cluster)["spec"]


async def test_an_autoscaler_that_has_no_metrics_is_in_the_message_of_a_ready_proxy(
    cluster: FakeCluster, operator: Operator
) -> None:
    await wanted(cluster, operator, autoscaling={"maxReplicas": 3})
    assert "autoscaler" not in condition(cluster.objects[PROXY]["status"], "Ready")["message"]
    missing = {"type": "ScalingActive", "status": "False", "reason": "FailedGet", "message": "no metrics returned"}
    cluster.set_status("HorizontalPodAutoscaler", "p", {"conditions": [missing], "currentReplicas": 1})

    await operator.reconcile()

    ready = condition(cluster.objects[PROXY]["status"], "Ready")
    assert (ready["status"], ready["reason"]) == ("True", "AllReplicasReady")
    assert ready["message"].endswith("; the autoscaler does not scale: no metrics returned")
    cluster.set_status("HorizontalPodAutoscaler", "p", {"conditions": [{**missing, "status": "True"}]})
    await operator.reconcile()
    assert "autoscaler" not in condition(cluster.objects[PROXY]["status"], "Ready")["message"]
