"""Watches of LLMProxies: each starts once they can be read, ends when they cannot, and stops no other."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from llmproxy_operator.errors import ClusterError, OperatorError, RefusedError, UnavailableError
from llmproxy_operator.watch import proxy_watch
from llmproxy_operator.watch.proxy_watch import CRD_MISSING, ProxyWatches
from waiting import until_async

MISSING = UnavailableError("GET LLMProxy /: the server could not find the requested resource", status=404)
FORBIDDEN = RefusedError("GET LLMProxy b/: forbidden", status=403)


class Cluster:
    """LLMProxies that can be read, or not, by namespace; and the watches that run."""

    def __init__(self) -> None:
        self.errors: dict[str, ClusterError] = {}
        self.running: list[str] = []
        self.started: list[str] = []
        self.synced: dict[str, asyncio.Event] = {}
        self.broken: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.states: list[tuple[str, bool]] = []
        self.probes = 0

    async def probe(self, api_version: str, kind: str, namespace: str) -> None:
        self.probes += 1
        if namespace in self.errors:
            raise self.errors[namespace]

    async def watch(self, namespace: str, ready: Callable[[], None]) -> None:
        self.started.append(namespace)
        self.running.append(namespace)
        try:
            ready()
            await self.broken[namespace].wait()
            raise OperatorError("the watch ended")
        finally:
            self.running.remove(namespace)

    async def wait_for_cache(self, namespace: str) -> None:
        if namespace in self.synced:
            await self.synced[namespace].wait()

    @asynccontextmanager
    async def watches(self, *namespaces: str) -> AsyncIterator[ProxyWatches]:
        made = ProxyWatches(
            self, self.watch, synced=self.wait_for_cache, on_change=lambda name, up: self.states.append((name, up))
        )
        tasks = [asyncio.ensure_future(made.run(namespace)) for namespace in namespaces]
        self.tasks = tasks
        try:
            yield made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_watch, "RETRY_S", 0.002)
    monkeypatch.setattr(proxy_watch, "PROBE_S", 0.002)


async def test_without_its_crd_nothing_is_watched_and_the_api_server_is_asked_until_it_is_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = Cluster()
    cluster.errors[""] = MISSING
    async with cluster.watches("") as watches:
        await until_async(lambda: cluster.probes > 5)
        assert (cluster.started, watches.any_up) == ([], False)
        said = [vars(item)["error"] for item in caplog.records if item.message == "llmproxies_unreadable"]
        assert said == [CRD_MISSING]  # once, not with every probe

        del cluster.errors[""]
        await until_async(lambda: watches.any_up)
        assert cluster.running == [""]
        assert watches.is_up("any")


async def test_a_crd_that_goes_ends_the_watch_and_one_that_comes_back_begins_it_anew() -> None:
    cluster = Cluster()
    async with cluster.watches("") as watches:
        await until_async(lambda: watches.any_up)

        cluster.errors[""] = MISSING
        await until_async(lambda: not watches.any_up and not cluster.running)

        del cluster.errors[""]
        await until_async(lambda: watches.any_up)
        assert cluster.started == ["", ""]


async def test_a_namespace_that_is_gone_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    cluster = Cluster()
    cluster.errors["b"] = FORBIDDEN
    async with cluster.watches("a", "b") as watches:
        await until_async(lambda: watches.is_up("a") and cluster.probes > 6)
        assert (watches.is_up("b"), cluster.running) == (False, ["a"])
        assert ("b", False) in cluster.states
        [record] = [item for item in caplog.records if item.message == "llmproxies_unreadable"]
        assert (vars(record)["namespace"], "forbidden" in vars(record)["error"]) == ("b", True)

        del cluster.errors["b"]
        await until_async(lambda: watches.is_up("b"))
        assert cluster.started == ["a", "b"]


async def test_a_namespace_that_goes_while_it_is_watched_stops_no_other() -> None:
    cluster = Cluster()
    async with cluster.watches("a", "b") as watches:
        await until_async(lambda: watches.is_up("a") and watches.is_up("b"))

        cluster.errors["b"] = FORBIDDEN
        cluster.broken["b"].set()  # as kopf ends by a watch that is refused
        await until_async(lambda: not watches.is_up("b") and cluster.running == ["a"])

        assert watches.is_up("a")
        assert not any(task.done() for task in cluster.tasks)


async def test_an_api_server_in_trouble_ends_no_watch() -> None:
    cluster = Cluster()
    async with cluster.watches("") as watches:
        await until_async(lambda: watches.any_up)

        cluster.errors[""] = UnavailableError("GET LLMProxy /: etcdserver: leader changed", status=500)
        asked = cluster.probes
        await until_async(lambda: cluster.probes > asked + 5)

        assert (watches.any_up, cluster.started) == (True, [""])


async def test_no_event_is_taken_before_the_cache_of_the_namespace_is_complete() -> None:
    cluster = Cluster()
    cluster.synced["a"] = asyncio.Event()
    async with cluster.watches("a", "b") as watches:
        await until_async(lambda: watches.is_up("b"))
        assert (cluster.started, watches.is_up("a")) == (["b"], False)

        cluster.synced["a"].set()
        await until_async(lambda: watches.is_up("a"))


async def test_a_watch_that_ends_though_it_may_read_ends_the_process() -> None:
    cluster = Cluster()
    async with cluster.watches("") as watches:
        await until_async(lambda: watches.any_up)

        cluster.broken[""].set()
        await until_async(cluster.tasks[0].done)

        assert isinstance(cluster.tasks[0].exception(), OperatorError)
