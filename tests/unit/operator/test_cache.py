"""What is known of children between passes: from watches, from lists after a gap, and from our own writes."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from fakes.cluster import FakeCluster
from llmproxy_operator import names
from llmproxy_operator.cluster import Change, Listed
from llmproxy_operator.errors import RefusedError, UnavailableError
from llmproxy_operator.manifest import Ref, ref
from llmproxy_operator.watch import informer
from llmproxy_operator.watch.cache import Cache
from llmproxy_operator.watch.cached_cluster import CachedCluster
from llmproxy_operator.watch.informer import Informer
from llmproxy_operator.workqueue import Key

Manifest = dict[str, Any]
KEY = Key("n", "p")
SERVICES = ("v1", "Service", "")
MINE = {names.LABEL_NAME: "p"}


def a_child(version: int, name: str = "p", kind: str = "Service", **more: Any) -> Manifest:
    metadata = {"name": name, "namespace": "n", "labels": names.labels("p", names.GATEWAY)}
    metadata |= {"resourceVersion": str(version), **more.pop("metadata", {})}
    return {"apiVersion": more.pop("api", "v1"), "kind": kind, "metadata": metadata, **more}


@pytest.fixture
def woken() -> list[Key]:
    return []


@pytest.fixture
def cache(woken: list[Key]) -> Cache:
    return Cache(woken.append)


def known(cache: Cache) -> dict[str, str]:
    found = cache.of("v1", "Service", "n", MINE)
    return {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in found}


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
    cache.wrote(a_child(8, spec={"a": 1}))
    assert known(cache) == {"p": "8"}

    cache.event(SERVICES, "MODIFIED", a_child(7))  # told late
    cache.event(SERVICES, "MODIFIED", a_child(8, spec={"a": 1}))
    assert (known(cache), woken) == ({"p": "8"}, [])

    cache.event(SERVICES, "MODIFIED", a_child(9, spec={"a": 2}))
    assert (known(cache), woken) == ({"p": "9"}, [KEY])


def test_an_object_whose_deletion_was_told_before_the_answer_to_our_write_stays_gone(cache: Cache) -> None:
    cache.event(SERVICES, "ADDED", a_child(5))
    cache.event(SERVICES, "DELETED", a_child(6))

    cache.wrote(a_child(5))
    assert known(cache) == {}

    cache.wrote(a_child(7))
    assert known(cache) == {"p": "7"}


def test_a_deletion_wakes_unless_it_was_ours(cache: Cache, woken: list[Key]) -> None:
    for name in ("mine", "theirs"):
        cache.event(SERVICES, "ADDED", a_child(5, name))
    woken.clear()

    cache.deleted(ref(a_child(5, "mine")))
    cache.event(SERVICES, "DELETED", a_child(6, "mine"))
    assert woken == []
    cache.event(SERVICES, "DELETED", a_child(7, "theirs"))
    assert (known(cache), woken) == ({}, [KEY])


def waiting(reason: str) -> Manifest:
    """Return the status of a pod whose container waits."""
    return {"containerStatuses": [{"name": "gateway", "ready": False, "state": {"waiting": {"reason": reason}}}]}


def conditions(kind: str, status: str) -> Manifest:
    return {"conditions": [{"type": kind, "status": status, "reason": "R", "lastUpdateTime": "2026-01-01T00:00:00Z"}]}


SCHEDULED, UNSCHEDULABLE = conditions("PodScheduled", "True"), conditions("PodScheduled", "False")
PROGRESS, OVERDUE = conditions("Progressing", "True"), conditions("Progressing", "False")


@pytest.mark.parametrize(
    ("kind", "change", "wakes"),
    [
        pytest.param(("autoscaling/v2", "HorizontalPodAutoscaler"), {"status": {"a": 2}}, False, id="load"),
        pytest.param(("autoscaling/v2", "HorizontalPodAutoscaler"), {"spec": {"a": 2}}, True, id="bounds"),
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
def test_what_no_pass_looks_at_wakes_nobody(
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

    cache.replace(SERVICES, [a_child(8, "changed", spec={"a": 1}), a_child(5, "same")], "9", cache.mark)

    assert known(cache) == {"changed": "8", "same": "5"}
    assert woken == [KEY, KEY]  # for the one that is gone, and the one that changed
    assert cache.get(Ref("v1", "ConfigMap", "n", "other")) is not None


def test_a_list_that_was_asked_for_before_our_write_does_not_take_it_back(cache: Cache) -> None:
    cache.event(SERVICES, "ADDED", a_child(5, "old"))
    mark = cache.mark
    cache.wrote(a_child(9, "old"))
    cache.wrote(a_child(10, "new"))

    cache.replace(SERVICES, [a_child(5, "old")], "8", mark)
    assert known(cache) == {"old": "9", "new": "10"}

    cache.replace(SERVICES, [a_child(9, "old")], "12", cache.mark)
    assert known(cache) == {"old": "9"}


def test_a_list_is_right_after_a_backup_was_restored_and_versions_went_back(cache: Cache) -> None:
    cache.wrote(a_child(500, spec={"a": 2}))

    cache.replace(SERVICES, [a_child(50, spec={"a": 1})], "60", cache.mark)
    cache.event(SERVICES, "MODIFIED", a_child(61, spec={"a": 3}))

    assert known(cache) == {"p": "61"}


async def test_a_name_that_the_cache_does_not_know_is_asked_for(cache: Cache) -> None:
    cluster = FakeCluster()
    cached = CachedCluster(cluster, cache)
    cluster.put({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "p", "namespace": "n"}})

    found = await cached.get(Ref("v1", "Service", "n", "p"))

    assert found is not None
    assert found["metadata"].get("labels") is None
    assert await cached.get(Ref("v1", "Service", "n", "q")) is None
    assert await cached.list("v1", "Service", "n", MINE) == ()


async def test_what_was_applied_and_deleted_is_known_without_a_question(cache: Cache) -> None:
    cluster = FakeCluster()
    cached = CachedCluster(cluster, cache)
    manifest = a_child(1)
    del manifest["metadata"]["resourceVersion"]
    applied = await cached.apply(manifest, force=False)
    cluster.failures[Ref("v1", "Service", "n", "p")] = UnavailableError("it is asked")

    found = await cached.get(Ref("v1", "Service", "n", "p"))
    assert found is not None
    assert found["metadata"]["uid"] == applied.live["metadata"]["uid"]

    cluster.failures.clear()
    await cached.delete(ref(found), uid=found["metadata"]["uid"])
    assert await cached.list("v1", "Service", "n", MINE) == ()


Step = list[Change | Exception]


class Played:
    """An API server with Services only: lists and watches as a test has written them down."""

    def __init__(self, lists: list[Listed | Exception], watches: list[Step]) -> None:
        self.lists, self.watches = lists, watches
        self.since: list[str] = []
        self.done = asyncio.Event()

    async def collect(self, api_version: str, kind: str, namespace: str, labels: dict[str, str]) -> Listed:
        if kind != "Service":
            return Listed((), "")
        found = self.lists.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def watch(
        self, api_version: str, kind: str, namespace: str, labels: dict[str, str], *, since: str, for_s: float
    ) -> AsyncGenerator[Change]:
        self.since.append(since)
        if not self.watches:
            self.done.set()
            await asyncio.Event().wait()
        for step in self.watches.pop(0):
            if isinstance(step, Exception):
                raise step
            yield step


Follow = Callable[[list[Listed | Exception], list[Step]], Any]


@pytest.fixture
def follow(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> Follow:
    monkeypatch.setattr(informer, "FIRST_BACKOFF_S", 0.001)

    async def run(lists: list[Listed | Exception], watches: list[Step]) -> Played:
        played = Played(lists, watches)
        made = Informer(played, cache, namespaces=(), jitter=lambda: 0.0)
        task = asyncio.create_task(made.run())
        await asyncio.wait_for(made.synced(), 10)
        await asyncio.wait_for(played.done.wait(), 10)
        task.cancel()
        return played

    return run


async def test_a_watch_that_breaks_goes_on_where_it_was(cache: Cache, follow: Follow) -> None:
    broken = UnavailableError("cut")
    bookmark = Change("BOOKMARK", {"metadata": {"resourceVersion": "20"}})
    watches: list[Step] = [[Change("ADDED", a_child(11, "b")), broken], [bookmark], [broken]]

    played = await follow([Listed((a_child(9, "a"),), "10")], watches)

    assert played.since == ["10", "11", "20", "20"]
    assert known(cache) == {"a": "9", "b": "11"}


async def test_where_the_past_is_not_known_any_more_there_is_another_list(cache: Cache, follow: Follow) -> None:
    lists: list[Listed | Exception] = [
        Listed((a_child(9, "gone"), a_child(8, "stays")), "10"),
        UnavailableError("not now", status=503),
        Listed((a_child(8, "stays"),), "30"),
    ]

    played = await follow(lists, [[UnavailableError("too old", status=410)]])

    assert played.since == ["10", "30"]
    assert known(cache) == {"stays": "8"}


async def test_a_right_that_is_missing_is_said_and_asked_for_again(
    cache: Cache, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    refused = RefusedError("LIST Service /: forbidden", status=403)

    await follow([refused, refused, Listed((a_child(9, "a"),), "10")], [])

    assert known(cache) == {"a": "9"}
    assert [r.__dict__["error"] for r in caplog.records if r.message == "watch_broken"] == ["LIST Service /: forbidden"]
