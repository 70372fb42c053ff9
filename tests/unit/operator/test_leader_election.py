"""Leader election: at most one leader, and soon another when it ends or is cut off."""

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest

from fakes.cluster import FakeCluster
from llmproxy_operator.errors import LeaseLostError, UnavailableError
from llmproxy_operator.leader_election import LeaderElector, LeaseTiming
from llmproxy_operator.manifest import Ref

LEASE = Ref("coordination.k8s.io/v1", "Lease", "n", "operator")
QUICK = LeaseTiming(duration_s=0.6, renew_deadline_s=0.3, retry_s=0.02)


def a_candidate(cluster: FakeCluster, name: str) -> LeaderElector:
    return LeaderElector(
        cluster, LEASE, identity=name, clock=time.monotonic, now=lambda: datetime.now(UTC), timing=QUICK
    )


def spec(cluster: FakeCluster) -> dict[str, Any]:
    found: dict[str, Any] = cluster.objects[LEASE]["spec"]
    return found


async def test_the_first_makes_the_lease_and_the_second_waits() -> None:
    cluster = FakeCluster()
    first, second = a_candidate(cluster, "a"), a_candidate(cluster, "b")
    await first.acquire()
    keeping = asyncio.create_task(first.renew())

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.5):  # far longer than the lease lasts
            await second.acquire()

    assert spec(cluster)["holderIdentity"] == "a"
    assert second.holder == "a"
    keeping.cancel()


async def test_a_lease_that_is_given_back_is_taken_at_once() -> None:
    cluster = FakeCluster()
    first, second = a_candidate(cluster, "a"), a_candidate(cluster, "b")
    await first.acquire()

    await first.release()
    async with asyncio.timeout(5):
        await second.acquire()

    assert spec(cluster)["holderIdentity"] == "b"
    assert spec(cluster)["leaseTransitions"] == 1


async def test_a_lease_that_nobody_renews_is_taken_over() -> None:
    cluster = FakeCluster()
    await a_candidate(cluster, "a").acquire()  # and dies

    second = a_candidate(cluster, "b")
    async with asyncio.timeout(10):
        await second.acquire()

    assert spec(cluster)["holderIdentity"] == "b"


async def test_who_finds_another_holder_gives_up() -> None:
    cluster = FakeCluster()
    first = a_candidate(cluster, "a")
    await first.acquire()
    spec(cluster)["holderIdentity"] = "b"

    with pytest.raises(LeaseLostError, match="is held by 'b' now"):
        async with asyncio.timeout(5):
            await first.renew()


async def test_who_cannot_renew_gives_up_before_another_may_take_over() -> None:
    cluster = FakeCluster()
    first, second = a_candidate(cluster, "a"), a_candidate(cluster, "b")
    await first.acquire()
    cut_off = FakeCluster()
    cut_off.failures[LEASE] = UnavailableError("no answer")
    first._cluster = cut_off
    ended: dict[str, float] = {}

    async def keep() -> None:
        with suppress(LeaseLostError):
            await first.renew()
        ended["a"] = time.monotonic()

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(keep())
        await second.acquire()
        ended["b"] = time.monotonic()

    assert ended["a"] < ended["b"]


async def test_who_stood_still_may_not_write_any_more() -> None:
    now_s = 100.0
    election = LeaderElector(
        FakeCluster(), LEASE, identity="a", clock=lambda: now_s, now=lambda: datetime.now(UTC), timing=QUICK
    )
    with pytest.raises(LeaseLostError):
        election.check()
    await election.acquire()
    now_s += 0.29
    election.check()
    now_s += 0.02
    with pytest.raises(LeaseLostError, match="could not be renewed"):
        election.check()


async def test_trouble_of_the_api_server_is_sat_out() -> None:
    cluster = FakeCluster()
    candidate = a_candidate(cluster, "a")
    cluster.failures[LEASE] = UnavailableError("no answer")
    acquiring = asyncio.create_task(candidate.acquire())
    await asyncio.sleep(0.1)

    del cluster.failures[LEASE]

    async with asyncio.timeout(5):
        await acquiring
    assert spec(cluster)["holderIdentity"] == "a"


async def test_of_many_that_begin_together_one_wins() -> None:
    cluster = FakeCluster()
    candidates = [a_candidate(cluster, f"c{number}") for number in range(8)]
    tasks = [asyncio.create_task(candidate.acquire()) for candidate in candidates]

    await asyncio.sleep(0.2)

    assert sum(task.done() for task in tasks) == 1
    for task in tasks:
        task.cancel()
