"""Retries and dead letters: order, ages, restarts, a store that is away for an hour."""

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from deliveryrig import MINUTE, FakeStore, RetryRig, a_unit
from llmproxy.shipper.delivery import circuit_breaker, retry_queue, sender
from llmproxy.shipper.delivery.http_client import DeliveryResult, Outcome, ReceiverError
from llmproxy.shipper.delivery.retry_queue import MAX_AGE_S, MAX_TRIES, RetryBatch, is_dead
from llmproxy.shipper.spool import records
from windows import Clock, VirtualLoop


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "LONE_RETRY_S", 0.001)


@pytest.mark.parametrize(
    ("tries", "age_s", "dead"),
    [
        (1, 0, False),
        (MAX_TRIES - 1, 9 * MINUTE, False),
        (MAX_TRIES, 1, True),
        (5, MAX_AGE_S, True),
        (5, MAX_AGE_S - 1, False),
        # A clock that jumped by a year does not end what was tried once or twice.
        (2, 365 * 24 * 60 * MINUTE, False),
        (2, -365 * 24 * 60 * MINUTE, False),
    ],
)
def test_a_batch_is_dead_after_ten_minutes_or_twenty_tries(tries: int, age_s: float, *, dead: bool) -> None:
    assert is_dead(RetryBatch(tries=tries, since_s=1000.0 - age_s), 1000.0) is dead


async def test_a_rollout_that_becomes_known_gets_its_calls_and_the_files_go(tmp_path: Path) -> None:
    rig = RetryRig(tmp_path)
    rig.store.unknown = {"ro"}
    await rig.refuse(*(a_unit(i, "ro") for i in range(400)))
    assert rig.retry_queue.calls == 400
    rig.store.unknown = set()
    await rig.run_until(lambda: rig.retry_queue.calls == 0)
    assert len(set(rig.store.stored)) == 1200
    assert list((tmp_path / "retry").iterdir()) == []


async def test_what_stays_unknown_ends_as_dead_letters_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = RetryRig(tmp_path)
    rig.store.unknown = {"ro"}
    await rig.refuse(a_unit(1, "ro"), a_unit(2, "ro"))
    await rig.run_until(lambda: rig.counters.dead_lettered["rollout_unknown"] == 2)
    assert ("ro", "at-1") not in rig.retry_queue
    dead = [records.decode(payload) for n in rig.dead_letters.sizes for _, payload in rig.dead_letters.walk(n)]
    assert [(d.call.call_id, d.reason, d.tries) for d in dead] == [
        (1, "rollout_unknown", 20),
        (2, "rollout_unknown", 20),
    ]
    (line,) = [r for r in caplog.records if r.message == "calls_dead_lettered"]
    assert (line.__dict__["reason"], line.__dict__["calls"]) == ("rollout_unknown", 2)


async def test_a_poison_span_is_retried_alone_and_never_blamed_while_nothing_else_is_taken(tmp_path: Path) -> None:
    rig = RetryRig(tmp_path)
    rig.store.poison = {b"<ro/1/1>"}
    await rig.refuse(a_unit(1, "ro"))
    assert sorted(set(rig.store.stored)) == [b"<ro/1/0>", b"<ro/1/2>"]
    seen = rig.store.requests
    await rig.run_until(lambda: rig.store.requests > seen + 200)
    assert not rig.counters.dead_lettered
    # As soon as the store takes others, tries count.
    seen = rig.store.requests
    feeding = asyncio.ensure_future(feed(rig))
    await rig.run_until(lambda: rig.counters.dead_lettered["http_500"] == 1)
    feeding.cancel()
    (dead,) = [records.decode(payload) for n in rig.dead_letters.sizes for _, payload in rig.dead_letters.walk(n)]
    assert dead.delivered == (0, 2)


async def feed(rig: RetryRig) -> None:
    number = 100
    while True:
        number += 1
        await rig.sender.send([a_unit(number, "other")], lambda _: None)
        await asyncio.sleep(0)


async def test_queued_calls_are_loaded_by_the_next_process(tmp_path: Path) -> None:
    rig = RetryRig(tmp_path)
    rig.store.unknown = {"ro"}
    await rig.refuse(a_unit(1, "ro"))
    again = RetryRig(tmp_path)
    again.retry_queue.load()
    assert again.retry_queue.calls == 1
    await again.run_until(lambda: again.retry_queue.calls == 0)
    assert len(again.store.stored) == 3


async def test_an_age_counts_over_a_restart_but_not_a_clock_that_was_put_back(tmp_path: Path) -> None:
    rig = RetryRig(tmp_path)
    rig.store.unknown = {"early", "future"}
    (early,) = await rig.sender.send([a_unit(1, "early")], lambda _: None)
    (future,) = await rig.sender.send([a_unit(2, "future")], lambda _: None)
    for refusal, moved_s in ((early, -1000), (future, 1000)):
        since_ns = time.time_ns() + moved_s * 10**9
        record = msgspec.structs.replace(refusal.unit.record, since_ns=since_ns)
        rig.retry_queue.add([refusal._replace(unit=dataclasses.replace(refusal.unit, record=record))])
    again = RetryRig(tmp_path)
    again.store.unknown = {"early", "future"}
    again.retry_queue.load()
    await again.run_until(lambda: again.counters.dead_lettered["rollout_unknown"] == 1)
    (dead,) = [records.decode(payload) for n in again.dead_letters.sizes for _, payload in again.dead_letters.walk(n)]
    assert (dead.call.rollout_id, dead.tries) == ("early", retry_queue.MIN_TRIES)
    assert again.retry_queue.calls == 1


async def test_the_oldest_dead_letters_make_room(tmp_path: Path) -> None:
    rig = RetryRig(tmp_path)
    rig.store.unknown = {"ro"}
    for i in range(30):
        await rig.refuse(a_unit(i, "ro"))
    await rig.run_until(lambda: rig.counters.dead_lettered["rollout_unknown"] == 30)
    await rig.refuse(*(a_unit(i, "ro") for i in range(30, 40)))
    await rig.run_until(lambda: rig.counters.dead_lettered["rollout_unknown"] == 40)
    assert rig.counters.evicted_dead_letter_bytes > 0
    dead = [
        records.decode(payload).call.call_id
        for n in sorted(rig.dead_letters.sizes)
        for _, payload in rig.dead_letters.walk(n)
    ]
    assert dead[-1] == 39
    assert 0 not in dead


class AbsentStore(FakeStore):
    """A store that is gone until *clock* says so; with *hangs_s* each request takes that long to fail."""

    def __init__(self, clock: Clock, seconds: float, hangs_s: float) -> None:
        super().__init__()
        self.clock, self.back_s, self.hangs_s = clock, clock.now + seconds, hangs_s
        self.most_at_once = self.at_once = 0

    async def post(self, batch: bytes, spans: int) -> DeliveryResult:
        if self.clock.now >= self.back_s:
            return await super().post(batch, spans)
        await self.fail()
        return DeliveryResult(Outcome.UNAVAILABLE, "timeout")

    async def missing_rollouts(self, rollout_ids: Sequence[str]) -> set[str]:
        if self.clock.now >= self.back_s:
            return await super().missing_rollouts(rollout_ids)
        await self.fail()
        raise ReceiverError("timeout")

    async def fail(self) -> None:
        self.requests += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(self.hangs_s)
        self.at_once -= 1


@pytest.mark.parametrize("hangs_s", [0.0, 20.0], ids=["gone", "hangs"])
def test_an_hour_without_a_store_is_asked_for_once_a_second_at_most_and_its_return_seen_in_two(
    tmp_path: Path, hangs_s: float
) -> None:
    clock = Clock()

    async def hour() -> tuple[RetryRig, AbsentStore, list[float]]:
        rig = RetryRig(tmp_path)
        rig.store.unknown = {"ro-unknown"}
        await rig.refuse(a_unit(1, "ro-unknown"))
        away = AbsentStore(clock, 3600.0, hangs_s)
        rig.sender._receiver = away
        retry_task = asyncio.ensure_future(rig.retry_queue.run())
        ended: list[float] = []
        sending = [rig.sender.send([a_unit(i, f"ro-{i}")], lambda _: ended.append(clock.now)) for i in range(2, 6)]
        assert await asyncio.gather(*sending) == [[]] * 4
        while rig.retry_queue.calls:  # noqa: ASYNC110 - no time passes
            await asyncio.sleep(0.1)
        retry_task.cancel()
        return rig, away, ended

    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        rig, away, ended = runner.run(hour())
    assert max(ended) - away.back_s <= circuit_breaker.MAX_DELAY_S + hangs_s + 0.1
    # The retry queue waited as well: an hour without a store is nobody's fault, and no try.
    assert clock.now - away.back_s <= circuit_breaker.MAX_DELAY_S + hangs_s + retry_queue.MAX_S
    assert not rig.counters.dead_lettered
    failed = sum(rig.counters.failures.values())
    assert (
        3600 / (circuit_breaker.MAX_DELAY_S + hangs_s) * 0.9
        < failed
        < 3600 / (circuit_breaker.MAX_DELAY_S / 2 + hangs_s) + 20
    )
    assert away.most_at_once <= 5  # before it was known to be gone; afterwards there is one probe at a time


def test_the_bounds_are_those_that_the_docs_say() -> None:
    assert (retry_queue.MAX_TRIES, retry_queue.MAX_AGE_S) == (20, 10 * MINUTE)


async def test_the_queue_has_a_bound_and_its_oldest_calls_become_dead_letters(tmp_path: Path) -> None:
    rig = RetryRig(tmp_path, max_bytes=20_000, dead_letter_bytes=1 << 20)
    rig.store.unknown = {f"ro-{i}" for i in range(100)}
    for i in range(100):
        await rig.refuse(a_unit(i, f"ro-{i}"))
        assert rig.retry_queue.segments.size <= 20_000
    evicted = rig.counters.dead_lettered["retry_queue_full"]
    assert 0 < evicted < 100
    assert rig.retry_queue.calls == 100 - evicted
    assert rig.dead() == list(range(evicted))
    assert ("ro-0", "at-1") not in rig.retry_queue
    assert ("ro-99", "at-1") in rig.retry_queue
    again = RetryRig(tmp_path, max_bytes=20_000)
    again.retry_queue.load()
    assert again.retry_queue.calls == 100 - evicted


async def test_a_rollout_has_a_share_of_the_queue_and_others_keep_theirs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = RetryRig(tmp_path, max_rollout_bytes=8_000, dead_letter_bytes=1 << 20)
    rig.store.unknown = {"ro-other", "ro-junk"}
    await rig.refuse(a_unit(1000, "ro-other"))
    for i in range(100):
        await rig.refuse(a_unit(i, "ro-junk"))
    evicted = rig.counters.dead_lettered["rollout_retry_limit"]
    assert 80 < evicted < 100
    assert rig.dead() == list(range(evicted))
    assert rig.retry_queue.calls == 101 - evicted
    assert len([r for r in caplog.records if r.message == "calls_dead_lettered"]) == 1  # not one a call
    rig.store.unknown = set()
    await rig.run_until(lambda: rig.retry_queue.calls == 0)
    assert len(set(rig.store.stored)) == 3 * (101 - evicted)


async def test_calls_that_are_evicted_while_they_are_retried_cost_nothing_else(tmp_path: Path) -> None:
    rig = RetryRig(tmp_path, max_bytes=20_000, dead_letter_bytes=1 << 20)
    rig.store.unknown = {"ro", "ro-junk"}
    await rig.refuse(*(a_unit(i, "ro") for i in range(5)))
    rig.store.unknown = {"ro-junk"}
    task = asyncio.ensure_future(rig.run_until(lambda: ("ro", "at-1") not in rig.retry_queue))
    await asyncio.sleep(0)
    for i in range(100, 200):
        await rig.refuse(a_unit(i, "ro-junk"))
    await task
    rig.store.unknown = {"ro"}
    await rig.refuse(a_unit(6, "ro"))
    assert ("ro", "at-1") in rig.retry_queue


async def test_many_unknown_rollouts_cost_one_search_for_fifty_of_them(tmp_path: Path) -> None:
    rig = RetryRig(tmp_path)
    rig.store.unknown = {f"ro-{i}" for i in range(100)}
    for i in range(100):
        await rig.refuse(a_unit(i, f"ro-{i}"))
    rig.store.requests = rig.store.searches = 0
    rig.retry_queue.retry_now()
    task = asyncio.ensure_future(rig.retry_queue.run())
    await asyncio.sleep(0.2)
    task.cancel()
    assert (rig.store.requests, rig.store.searches) == (0, 2)


async def test_damage_of_the_queue_is_counted_when_it_is_loaded(tmp_path: Path) -> None:
    rig = RetryRig(tmp_path)
    rig.store.unknown = {"ro"}
    await rig.refuse(*(a_unit(i, "ro") for i in range(5)))
    (path,) = (tmp_path / "retry").glob("*.seg")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    again = RetryRig(tmp_path)
    again.retry_queue.load()
    assert again.retry_queue.calls == 4
    assert again.counters.damaged_bytes > 300


async def test_damage_of_dead_letters_is_counted_when_a_process_starts(tmp_path: Path) -> None:
    rig = RetryRig(tmp_path)
    rig.store.unknown = {"ro"}
    await rig.refuse(a_unit(1, "ro"), a_unit(2, "ro"))
    await rig.run_until(lambda: rig.counters.dead_lettered["rollout_unknown"] == 2)
    (path,) = (tmp_path / "dead").glob("*.seg")
    data = bytearray(path.read_bytes())
    data[-5] ^= 0xFF
    path.write_bytes(bytes(data))
    again = RetryRig(tmp_path)
    again.dead_letter_queue.load()
    assert again.counters.damaged_bytes > 300
