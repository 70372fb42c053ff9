"""The cache of children: watch events, lists after a gap, and our own writes."""

from typing import Any

import pytest

from fakes.children import MINE, a_child, known
from llmproxy_operator.manifest import Ref, ref
from llmproxy_operator.watch.cache import Cache
from llmproxy_operator.workqueue import Key

Manifest = dict[str, Any]
KEY = Key("n", "p")
SERVICES = ("v1", "Service", "")


def test_an_event_is_known_and_wakes_the_proxy_of_its_label(cache: Cache, woken: list[Key]) -> None:
    cache.event(SERVICES, "ADDED", a_child(5, spec={"a": 1}))

    assert cache.get(Ref("v1", "Service", "n", "p")) == a_child(5, spec={"a": 1}, metadata={"managedFields": []})
    assert cache.get(Ref("v1", "Service", "n", "q")) is None
    assert (known(cache), woken) == ({"p": "5"}, [KEY])
    cache.event(SERVICES, "MODIFIED", {**a_child(6), "metadata": {**a_child(6)["metadata"], "labels": {}}})
    assert (known(cache), woken) == ({}, [KEY])  # without the label it is nobody's


def test_whoever_asks_gets_a_copy(cache: Cache) -> None:
    cache.event(SERVICES, "ADDED", a_child(5, spec={"a": 1}))

    cache.of("v1", "Service", "n", MINE)[0]["spec"]["a"] = 2

    assert cache.of("v1", "Service", "n", MINE)[0]["spec"] == {"a": 1}


def test_our_own_write_is_known_at_once_and_its_echo_wakes_nobody(cache: Cache, woken: list[Key]) -> None:
    cache.event(SERVICES, "ADDED", a_child(5))
    woken.clear()
    cache.store_write(a_child(8, spec={"a": 1}))
    assert known(cache) == {"p": "8"}

    cache.event(SERVICES, "MODIFIED", a_child(7))  # told late
    cache.event(SERVICES, "MODIFIED", a_child(8, spec={"a": 1}))
    assert (known(cache), woken) == ({"p": "8"}, [])

    cache.event(SERVICES, "MODIFIED", a_child(9, spec={"a": 2}))
    assert (known(cache), woken) == ({"p": "9"}, [KEY])


def test_an_object_whose_deletion_was_told_before_the_answer_to_our_write_stays_gone(cache: Cache) -> None:
    cache.event(SERVICES, "ADDED", a_child(5))
    cache.event(SERVICES, "DELETED", a_child(6))

    cache.store_write(a_child(5))
    assert known(cache) == {}

    cache.store_write(a_child(7))
    assert known(cache) == {"p": "7"}


def test_a_deletion_wakes_unless_it_was_ours(cache: Cache, woken: list[Key]) -> None:
    for name in ("mine", "theirs"):
        cache.event(SERVICES, "ADDED", a_child(5, name))
    woken.clear()

    cache.store_delete(ref(a_child(5, "mine")))
    cache.event(SERVICES, "DELETED", a_child(6, "mine"))
    assert woken == []
    cache.event(SERVICES, "DELETED", a_child(7, "theirs"))
    assert (known(cache), woken) == ({}, [KEY])


def waiting(reason: str) -> Manifest:
    """Return the status of a pod whose container waits."""
    return {"containerStatuses": [{"name": "gateway", "ready": False, "state": {"waiting": {"reason": reason}}}]}


def conditions(kind: str, status: str) -> Manifest:
    return {"conditions": [{"type": kind, "status": status, "reason": "R", "lastUpdateTime": "2026-01-01T00:00:00Z"}]}


INACTIVE = {
    "type": "ScalingActive",
    "status": "False",
    "reason": "FailedGetContainerResourceMetric",
    "message": "none",
}
SCHEDULED, UNSCHEDULABLE = conditions("PodScheduled", "True"), conditions("PodScheduled", "False")
PROGRESS, OVERDUE = conditions("Progressing", "True"), conditions("Progressing", "False")


@pytest.mark.parametrize(
    ("kind", "change", "wakes"),
    [
        pytest.param(("autoscaling/v2", "HorizontalPodAutoscaler"), {"status": {"a": 2}}, False, id="load"),
        pytest.param(("autoscaling/v2", "HorizontalPodAutoscaler"), {"spec": {"a": 2}}, True, id="bounds"),
        pytest.param(
            ("autoscaling/v2", "HorizontalPodAutoscaler"), {"status": {"conditions": [INACTIVE]}}, True, id="no metrics"
        ),
        pytest.param(("apps/v1", "Deployment"), {"status": {"replicas": 2}}, True, id="pods of a Deployment"),
        pytest.param(("v1", "Pod"), {"spec": {"nodeName": "a"}}, False, id="where a pod runs"),
        pytest.param(("v1", "Pod"), {"status": {"phase": "Running"}}, False, id="a pod's phase"),
        pytest.param(("v1", "Pod"), {"status": SCHEDULED}, False, id="a pod that has a node"),
        pytest.param(("v1", "Pod"), {"status": UNSCHEDULABLE}, True, id="a pod that no node takes"),
        pytest.param(("v1", "Pod"), {"status": waiting("ErrImagePull")}, True, id="a container that cannot start"),
        pytest.param(("apps/v1", "Deployment"), {"status": PROGRESS}, False, id="how a roll goes on"),
        pytest.param(("apps/v1", "Deployment"), {"status": OVERDUE}, True, id="a roll that does not"),
        pytest.param(("apps/v1", "Deployment"), {}, False, id="only a version"),
    ],
)
def test_what_no_reconcile_reads_wakes_nobody(
    cache: Cache, woken: list[Key], kind: tuple[str, str], change: Manifest, *, wakes: bool
) -> None:
    place = (*kind, "")
    item = a_child(5, kind=kind[1], api=kind[0], spec={"a": 1}, status={"a": 1})
    cache.event(place, "ADDED", item)
    woken.clear()

    moved = {**item, **change, "metadata": {**item["metadata"], "resourceVersion": "6"}}
    cache.event(place, "MODIFIED", moved)

    assert woken == ([KEY] if wakes else [])


@pytest.mark.parametrize(
    ("status", "wakes"),
    [
        pytest.param({"phase": "Pending"}, False, id="just made"),
        pytest.param(waiting("ErrImagePull"), True, id="failing when it is first seen"),
    ],
)
def test_a_new_pod_wakes_only_if_it_says_something(
    cache: Cache, woken: list[Key], status: Manifest, *, wakes: bool
) -> None:
    cache.event(("v1", "Pod", ""), "ADDED", a_child(5, kind="Pod", spec={}, status=status))

    assert woken == ([KEY] if wakes else [])


def test_a_pod_that_only_starts_wakes_nobody(cache: Cache, woken: list[Key]) -> None:
    running = {"containerStatuses": [{"name": "gateway", "ready": False, "state": {"running": {"startedAt": "t"}}}]}
    cache.event(("v1", "Pod", ""), "ADDED", a_child(5, kind="Pod", spec={}, status=waiting("ContainerCreating")))
    woken.clear()

    cache.event(("v1", "Pod", ""), "MODIFIED", a_child(6, kind="Pod", spec={}, status=running))

    assert woken == []


def test_of_a_replicaset_only_its_end_wakes_and_only_its_volumes_are_kept(cache: Cache, woken: list[Key]) -> None:
    volumes = [{"name": "config", "configMap": {"name": "p-config-1"}}]
    spec = {"replicas": 1, "template": {"spec": {"containers": [], "volumes": volumes}}}
    item = a_child(5, kind="ReplicaSet", api="apps/v1", spec=spec)
    place = ("apps/v1", "ReplicaSet", "")

    cache.event(place, "ADDED", item)
    assert woken == []
    assert cache.of("apps/v1", "ReplicaSet", "n", MINE)[0]["spec"] == {"template": {"spec": {"volumes": volumes}}}
    cache.event(place, "DELETED", {**item, "metadata": {**item["metadata"], "resourceVersion": "6"}})
    assert woken == [KEY]


def test_a_list_tells_of_what_was_missed(cache: Cache, woken: list[Key]) -> None:
    for name in ("gone", "changed", "same"):
        cache.event(SERVICES, "ADDED", a_child(5, name))
    cache.event(("v1", "ConfigMap", ""), "ADDED", a_child(5, "other", "ConfigMap"))
    woken.clear()

    cache.replace(SERVICES, [a_child(8, "changed", spec={"a": 1}), a_child(5, "same")], "9", cache.write_count)

    assert known(cache) == {"changed": "8", "same": "5"}
    assert woken == [KEY, KEY]  # for the one that is gone, and the one that changed
    assert cache.get(Ref("v1", "ConfigMap", "n", "other")) is not None


def test_a_list_that_was_asked_for_before_our_write_does_not_take_it_back(cache: Cache) -> None:
    cache.event(SERVICES, "ADDED", a_child(5, "old"))
    mark = cache.write_count
    cache.store_write(a_child(9, "old"))
    cache.store_write(a_child(10, "new"))

    cache.replace(SERVICES, [a_child(5, "old")], "8", mark)
    assert known(cache) == {"old": "9", "new": "10"}

    cache.replace(SERVICES, [a_child(9, "old")], "12", cache.write_count)
    assert known(cache) == {"old": "9"}


def test_a_list_is_right_after_a_backup_was_restored_and_versions_went_back(cache: Cache) -> None:
    cache.store_write(a_child(500, spec={"a": 2}))

    cache.replace(SERVICES, [a_child(50, spec={"a": 1})], "60", cache.write_count)
    cache.event(SERVICES, "MODIFIED", a_child(61, spec={"a": 3}))

    assert known(cache) == {"p": "61"}
