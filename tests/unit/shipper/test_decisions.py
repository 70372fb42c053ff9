"""What is decided about the store's answers: pure functions, and the sender on a store of plain Python."""

import asyncio
import contextlib
import dataclasses
import random
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

import spanrig
from llmproxy import shipping_protocol
from llmproxy.shipper.delivery import builders, circuit_breaker, retry_queue, sender
from llmproxy.shipper.delivery.batches import Unit, by_group, smaller
from llmproxy.shipper.delivery.circuit_breaker import Gate, backoff_s
from llmproxy.shipper.delivery.journal import Begun, Journal
from llmproxy.shipper.delivery.lightning_store import Answer, Outcome, Standing, Store, StoreError, outcome_of
from llmproxy.shipper.delivery.retry_queue import MAX_AGE_S, MAX_TRIES, Letters, Lot, Parked, is_dead
from llmproxy.shipper.delivery.sender import Sender
from llmproxy.shipper.delivery.sequencer import Sequencer
from llmproxy.shipper.metrics import Counts
from llmproxy.shipper.spool import records
from llmproxy.shipper.spool.segments import Place, Segments
from windows import Clock, VirtualLoop


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Outcome.ACCEPTED),
        (201, Outcome.ACCEPTED),
        (500, Outcome.REFUSED),
        (400, Outcome.REFUSED),
        (413, Outcome.REFUSED),
        (422, Outcome.REFUSED),
        (404, Outcome.UNAVAILABLE),
        (401, Outcome.UNAVAILABLE),
        (429, Outcome.UNAVAILABLE),
        (502, Outcome.UNAVAILABLE),
        (503, Outcome.UNAVAILABLE),
        (504, Outcome.UNAVAILABLE),
        (302, Outcome.UNAVAILABLE),
    ],
)
def test_only_what_may_be_the_batchs_fault_is_a_refusal(status: int, outcome: Outcome) -> None:
    assert outcome_of(status) is outcome


def test_waits_double_up_to_a_bound_and_vary() -> None:
    rand = random.Random(1)
    for failures, whole in ((1, 0.05), (2, 0.1), (5, 0.8), (7, 2.0), (1000, 2.0)):
        waits = [backoff_s(failures, rand) for _ in range(50)]
        assert whole / 2 <= min(waits) < max(waits) <= whole


MINUTE = 60.0


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
def test_a_lot_is_dead_after_ten_minutes_or_twenty_tries(tries: int, age_s: float, *, dead: bool) -> None:
    assert is_dead(Lot(tries=tries, since_s=1000.0 - age_s), 1000.0) is dead


def a_unit(call_id: int, rollout: str, spans: list[bytes] | None = None) -> Unit:
    record = records.Record("gw", 1, spanrig.a_call(call_id, rollout))
    names = spans or [f"<{rollout}/{call_id}/{i}>".encode() for i in range(3)]
    return Unit(Place(1, call_id, 1), record, names)


def test_batches_are_cut_by_group_and_then_in_halves() -> None:
    units = [a_unit(i, f"ro-{i % 3}") for i in range(7)]
    assert [[u.record.call.call_id for u in g] for g in by_group(units)] == [[0, 3, 6], [1, 4], [2, 5]]
    assert [len(part) for part in smaller(units)] == [3, 4]
    assert [len(part) for part in smaller(units[:1])] == [1]


def test_only_spans_that_are_not_there_are_sent_again() -> None:
    unit = a_unit(1, "ro")
    unit.delivered = {0, 2}
    assert (unit.left, unit.body) == ([1], b"<ro/1/1>")


class Shelf(Store):
    """A store that refuses what it is told to, and remembers each request."""

    def __init__(self) -> None:
        super().__init__("http://nowhere")
        self.poison: set[bytes] = set()
        self.unknown: set[str] = set()
        self.sick = 0
        self.stored: list[bytes] = []
        self.requests = 0
        self.next_ids: list[str] = []
        self.down = False

    async def post(self, batch: bytes) -> Answer:
        self.requests += 1
        await asyncio.sleep(0)
        if self.sick:
            self.sick -= 1
            return Answer(Outcome.UNAVAILABLE, "http_503")
        spans = [part + b">" for part in batch.split(b">")[:-1]]
        for span in spans:
            if span in self.poison or span[1:].split(b"/")[0].decode() in self.unknown:
                return Answer(Outcome.REFUSED, "http_500")
            self.stored.append(span)
        return Answer(Outcome.ACCEPTED, "http_200")

    async def standing(self, rollout_id: str, attempt_id: str) -> Standing:
        return Standing.UNKNOWN if rollout_id in self.unknown else Standing.KNOWN

    async def next_id(self, rollout_id: str, attempt_id: str) -> int:
        await asyncio.sleep(0)
        if self.down:
            raise StoreError("connect")
        self.next_ids.append(rollout_id)
        return len(self.next_ids)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "PATIENCE_S", 0.001)


async def send(store: Shelf, units: list[Unit]) -> tuple[set[int], dict[int, str]]:
    """Return which calls were stored, and which were refused and why."""
    stored: list[int] = []
    refusals = await Sender(store, Gate(), Counts()).send(
        units, lambda some: stored.extend(u.record.call.call_id for u in some)
    )
    assert len(stored) == len(set(stored))
    return set(stored), {r.unit.record.call.call_id: r.why for r in refusals}


async def test_a_good_batch_is_one_request() -> None:
    store = Shelf()
    assert await send(store, [a_unit(i, f"ro-{i}") for i in range(50)]) == (set(range(50)), {})
    assert store.requests == 1


async def test_an_unknown_rollout_costs_the_others_nothing() -> None:
    store = Shelf()
    store.unknown = {"ro-3"}
    stored, refused = await send(store, [a_unit(i, f"ro-{i % 10}") for i in range(100)])
    assert refused == dict.fromkeys(range(3, 100, 10), "rollout_unknown")
    assert stored == set(range(100)) - set(refused)
    assert store.requests == 11


async def test_one_bad_call_among_many_is_found_in_few_requests_and_its_good_spans_are_kept() -> None:
    store = Shelf()
    store.poison = {b"<ro/77/1>"}
    units = [a_unit(i, "ro") for i in range(128)]
    stored, refused = await send(store, units)
    assert refused == {77: "http_500"}
    assert stored == set(range(128)) - {77}
    assert units[77].delivered == {0, 2}
    assert store.requests < 30


async def test_a_store_that_is_away_is_waited_for_and_nothing_is_blamed() -> None:
    store = Shelf()
    store.sick = 3
    assert await send(store, [a_unit(1, "ro")]) == ({1}, {})
    assert store.requests == 4


async def test_a_call_refused_alone_while_nothing_else_is_taken_is_not_blamed() -> None:
    store = Shelf()
    store.poison = {b"<ro/1/0>", b"<ro/1/1>", b"<ro/1/2>"}
    (refusal,) = await Sender(store, Gate(), Counts()).send([a_unit(1, "ro")], lambda _: None)
    assert not refusal.counts


class Yard:
    """Parked calls on a shelf."""

    def __init__(self, folder: Path) -> None:
        self.store, self.counts = Shelf(), Counts()
        self.sender = Sender(self.store, Gate(), self.counts)
        letters = Letters(Segments(folder / "dead", segment_bytes=2000), 5000, self.counts)
        self.letters = letters.segments
        self.parked = Parked(Segments(folder / "parked"), letters, self.sender, make_unit, self.counts)

    async def refuse(self, *units: Unit) -> None:
        self.parked.add(await self.sender.send(list(units), lambda _: None))

    async def run_until(self, holds: Callable[[], bool]) -> None:
        task = asyncio.ensure_future(self.parked.run())
        deadline = time.monotonic() + 10
        while not holds():
            assert time.monotonic() < deadline
            self.parked.hurry()
            await asyncio.sleep(0.001)
        task.cancel()


async def make_unit(place: Place, record: records.Record) -> Unit:
    made = a_unit(record.call.call_id, record.call.rollout_id)
    return Unit(place, record, made.spans, set(record.delivered))


async def test_a_rollout_that_becomes_known_gets_its_calls_and_the_files_go(tmp_path: Path) -> None:
    yard = Yard(tmp_path)
    yard.store.unknown = {"ro"}
    await yard.refuse(*(a_unit(i, "ro") for i in range(400)))
    assert yard.parked.calls == 400
    yard.store.unknown = set()
    await yard.run_until(lambda: yard.parked.calls == 0)
    assert len(set(yard.store.stored)) == 1200
    assert list((tmp_path / "parked").iterdir()) == []


async def test_what_stays_unknown_ends_as_dead_letters_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    yard = Yard(tmp_path)
    yard.store.unknown = {"ro"}
    await yard.refuse(a_unit(1, "ro"), a_unit(2, "ro"))
    await yard.run_until(lambda: yard.counts.dead_lettered["rollout_unknown"] == 2)
    assert ("ro", "at-1") not in yard.parked
    dead = [records.decode(payload) for n in yard.letters.sizes for _, payload in yard.letters.walk(n)]
    assert [(d.call.call_id, d.reason, d.tries) for d in dead] == [
        (1, "rollout_unknown", 20),
        (2, "rollout_unknown", 20),
    ]
    (line,) = [r for r in caplog.records if r.message == "calls_dead_lettered"]
    assert (line.__dict__["reason"], line.__dict__["calls"]) == ("rollout_unknown", 2)


async def test_a_poison_span_is_parked_alone_and_never_blamed_while_nothing_else_is_taken(tmp_path: Path) -> None:
    yard = Yard(tmp_path)
    yard.store.poison = {b"<ro/1/1>"}
    await yard.refuse(a_unit(1, "ro"))
    assert sorted(set(yard.store.stored)) == [b"<ro/1/0>", b"<ro/1/2>"]
    seen = yard.store.requests
    await yard.run_until(lambda: yard.store.requests > seen + 200)
    assert not yard.counts.dead_lettered
    # As soon as the store takes others, tries count.
    seen = yard.store.requests
    feeding = asyncio.ensure_future(feed(yard))
    await yard.run_until(lambda: yard.counts.dead_lettered["http_500"] == 1)
    feeding.cancel()
    (dead,) = [records.decode(payload) for n in yard.letters.sizes for _, payload in yard.letters.walk(n)]
    assert dead.delivered == (0, 2)


async def feed(yard: Yard) -> None:
    number = 100
    while True:
        number += 1
        await yard.sender.send([a_unit(number, "other")], lambda _: None)
        await asyncio.sleep(0)


async def test_parked_calls_are_found_again_by_the_next_process(tmp_path: Path) -> None:
    yard = Yard(tmp_path)
    yard.store.unknown = {"ro"}
    await yard.refuse(a_unit(1, "ro"))
    again = Yard(tmp_path)
    again.parked.load()
    assert again.parked.calls == 1
    await again.run_until(lambda: again.parked.calls == 0)
    assert len(again.store.stored) == 3


async def test_an_age_counts_over_a_restart_but_not_a_clock_that_was_put_back(tmp_path: Path) -> None:
    yard = Yard(tmp_path)
    yard.store.unknown = {"early", "future"}
    (early,) = await yard.sender.send([a_unit(1, "early")], lambda _: None)
    (future,) = await yard.sender.send([a_unit(2, "future")], lambda _: None)
    for refusal, moved_s in ((early, -1000), (future, 1000)):
        since_ns = time.time_ns() + moved_s * 10**9
        record = msgspec.structs.replace(refusal.unit.record, since_ns=since_ns)
        yard.parked.add([refusal._replace(unit=dataclasses.replace(refusal.unit, record=record))])
    again = Yard(tmp_path)
    again.store.unknown = {"early", "future"}
    again.parked.load()
    await again.run_until(lambda: again.counts.dead_lettered["rollout_unknown"] == 1)
    (dead,) = [records.decode(payload) for n in again.letters.sizes for _, payload in again.letters.walk(n)]
    assert (dead.call.rollout_id, dead.tries) == ("early", retry_queue.MIN_TRIES)
    assert again.parked.calls == 1


async def test_the_oldest_dead_letters_make_room(tmp_path: Path) -> None:
    yard = Yard(tmp_path)
    yard.store.unknown = {"ro"}
    for i in range(30):
        await yard.refuse(a_unit(i, "ro"))
    await yard.run_until(lambda: yard.counts.dead_lettered["rollout_unknown"] == 30)
    await yard.refuse(*(a_unit(i, "ro") for i in range(30, 40)))
    await yard.run_until(lambda: yard.counts.dead_lettered["rollout_unknown"] == 40)
    assert yard.counts.removed_letters_bytes > 0
    dead = [
        records.decode(payload).call.call_id for n in sorted(yard.letters.sizes) for _, payload in yard.letters.walk(n)
    ]
    assert dead[-1] == 39
    assert 0 not in dead


class Away(Shelf):
    """A store that is gone until *clock* says so; with *hangs_s* each request takes that long to fail."""

    def __init__(self, clock: Clock, seconds: float, hangs_s: float) -> None:
        super().__init__()
        self.clock, self.back_s, self.hangs_s = clock, clock.now + seconds, hangs_s
        self.most_at_once = self.at_once = 0

    async def post(self, batch: bytes) -> Answer:
        if self.clock.now >= self.back_s:
            return await super().post(batch)
        self.requests += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(self.hangs_s)
        self.at_once -= 1
        return Answer(Outcome.UNAVAILABLE, "timeout")


@pytest.mark.parametrize("hangs_s", [0.0, 20.0], ids=["gone", "hangs"])
def test_an_hour_without_a_store_is_asked_for_once_a_second_at_most_and_its_return_seen_in_two(
    tmp_path: Path, hangs_s: float
) -> None:
    clock = Clock()

    async def hour() -> tuple[Yard, Away, list[float]]:
        yard = Yard(tmp_path)
        yard.store.unknown = {"ro-unknown"}
        await yard.refuse(a_unit(1, "ro-unknown"))
        away = Away(clock, 3600.0, hangs_s)
        yard.sender._target = away
        parked_task = asyncio.ensure_future(yard.parked.run())
        ended: list[float] = []
        sending = [yard.sender.send([a_unit(i, f"ro-{i}")], lambda _: ended.append(clock.now)) for i in range(2, 6)]
        assert await asyncio.gather(*sending) == [[]] * 4
        while yard.parked.calls:  # noqa: ASYNC110 - no time passes
            await asyncio.sleep(0.1)
        parked_task.cancel()
        return yard, away, ended

    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        yard, away, ended = runner.run(hour())
    assert max(ended) - away.back_s <= circuit_breaker.MAX_DELAY_S + hangs_s + 0.1
    # What was parked waited as well: an hour without a store is nobody's fault, and no try.
    assert clock.now - away.back_s <= circuit_breaker.MAX_DELAY_S + hangs_s + retry_queue.MAX_S
    assert not yard.counts.dead_lettered
    failed = sum(yard.counts.failures.values())
    assert (
        3600 / (circuit_breaker.MAX_DELAY_S + hangs_s) * 0.9
        < failed
        < 3600 / (circuit_breaker.MAX_DELAY_S / 2 + hangs_s) + 20
    )
    assert away.most_at_once <= 5  # before it was known to be gone; afterwards there is one probe at a time


def an_arrival(call_id: int, rollout: str) -> shipping_protocol.Arrival:
    return shipping_protocol.Arrival(call_id, rollout, "at-1", 1)


async def test_ids_of_a_rollout_are_taken_in_the_order_of_arrival(tmp_path: Path) -> None:
    store = Shelf()
    sequencer = Sequencer(store, Journal(tmp_path / "j"), Counts())
    for i in range(30):
        sequencer.arrived("gw", an_arrival(i, f"ro-{i % 2}"))
    found = []
    for i in reversed(range(30)):
        record = await sequencer.awaited(records.Record("gw", 0, spanrig.a_call(i, f"ro-{i % 2}")))
        assert record is not None
        found.append(record.sequence_id)
    found.reverse()
    assert len(set(found)) == 30
    assert found[0::2] == sorted(found[0::2])
    assert found[1::2] == sorted(found[1::2])


async def test_a_store_that_is_away_means_a_late_id_and_a_count(tmp_path: Path) -> None:
    store, counts = Shelf(), Counts()
    store.down = True
    journal = Journal(tmp_path / "j")
    sequencer = Sequencer(store, journal, counts)
    sequencer.arrived("gw", an_arrival(1, "ro"))
    await asyncio.sleep(0.01)
    call = spanrig.a_call(1, "ro")
    assert sequencer.known("gw", call) == 0
    record = records.Record("gw", 0, call)
    assert (sequencer.numbered(record), await sequencer.awaited(record)) == (None, None)
    with pytest.raises(StoreError):
        await sequencer.late(record)
    store.down = False
    assert (await sequencer.late(record)).late
    assert counts.sequenced_late == 1


class Slow(Shelf):
    """A store that takes a while for each id, and never gives one for `ro-stuck`."""

    async def next_id(self, rollout_id: str, attempt_id: str) -> int:
        await asyncio.sleep(3600.0 if rollout_id == "ro-stuck" else 0.05)
        return await super().next_id(rollout_id, attempt_id)


def test_late_ids_hold_up_neither_those_that_have_theirs_nor_other_rollouts(tmp_path: Path) -> None:
    clock, counts = Clock(), Counts()

    async def deliver() -> tuple[list[list[int]], float]:
        store = Slow()
        maker = builders.UnitMaker(Sequencer(store, Journal(tmp_path / "j"), counts), Gate(), Encodes(), counts)
        waiting = [records.Record("gw", 0, spanrig.a_call(i, f"ro-{i % 40}")) for i in range(160)]
        waiting.append(records.Record("gw", 0, spanrig.a_call(160, "ro-stuck")))
        assert maker.make_now(Place(1, 0, 1), waiting[0]) is None
        assert maker.make_now(Place(1, 0, 1), msgspec.structs.replace(waiting[0], sequence_id=7)) is not None
        made: list[list[int]] = []
        parts = builders.as_made(maker, [(Place(1, i, 1), record) for i, record in enumerate(waiting)])
        async with contextlib.aclosing(parts):
            async for units in parts:
                made.append([unit.record.call.call_id for unit in units])
                if sum(map(len, made)) == 160:
                    break
        return made, clock.now

    began = clock.now
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        made, ended = runner.run(deliver())
    found = [call_id for part in made for call_id in part]
    assert sorted(found) == list(range(160))
    for rollout in range(40):  # in the order of arrival
        assert [i for i in found if i % 40 == rollout] == list(range(rollout, 160, 40))
    assert ended - began < 1.0  # one after the other they took 8 s
    assert len(made) < 10  # and still went together
    assert counts.sequenced_late == 160


class Encodes:
    """Makes one span of a record, whatever it holds."""

    def encode(self, record: records.Record) -> list[bytes]:
        return [str(record.sequence_id).encode()]


async def test_failures_of_one_moment_are_one_failure() -> None:
    gate_ = Gate(random.Random(1))
    for _ in range(60):
        gate_.failed("http_503")
    began = asyncio.get_running_loop().time()
    async with gate_.passing():
        assert asyncio.get_running_loop().time() - began < circuit_breaker.MAX_DELAY_S / 2
    gate_.works()
    assert gate_.healthy


async def test_an_id_that_is_given_says_that_the_store_works(tmp_path: Path) -> None:
    gate_, counts = Gate(), Counts()
    maker = builders.UnitMaker(Sequencer(Shelf(), Journal(tmp_path / "j"), counts), gate_, Encodes(), counts)
    gate_.failed("http_503")
    await maker.make(Place(1, 0, 1), records.Record("gw", 0, spanrig.a_call(1, "ro")))
    assert gate_.healthy


async def test_an_id_taken_at_arrival_survives_the_process(tmp_path: Path) -> None:
    store = Shelf()
    sequencer = Sequencer(store, Journal(tmp_path / "j"), Counts())
    sequencer.arrived("gw", an_arrival(1, "ro"))
    await asyncio.sleep(0.01)
    again = Sequencer(store, Journal(tmp_path / "j"), Counts())
    assert again.known("gw", spanrig.a_call(1, "ro")) == 1
    assert store.next_ids == ["ro"]


def test_the_journal_is_read_after_a_cut_at_any_byte(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    for i in range(3):
        journal.begin(Begun("gw", i, "ro", "at", 1, i))
    journal.end([("gw", 1)])
    whole = (tmp_path / "j").read_bytes()
    journal.close()
    for length in range(len(whole) + 1):
        (tmp_path / "k").write_bytes(whole[:length])
        found = Journal(tmp_path / "k")
        assert set(found.begun) <= {("gw", 0), ("gw", 1), ("gw", 2)}
        found.close()
    assert set(found.begun) == {("gw", 0), ("gw", 2)}


def test_the_journal_is_written_anew_when_it_is_mostly_of_the_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmproxy.shipper.delivery.journal.MAX_BYTES", 5000)
    journal = Journal(tmp_path / "j")
    for i in range(1000):
        journal.begin(Begun("gw", i, "ro", "at", 1, i))
        if i:
            journal.end([("gw", i)])
    assert (tmp_path / "j").stat().st_size < 6000
    journal.close()
    assert list(Journal(tmp_path / "j").begun) == [("gw", 0)]


def test_the_bounds_are_those_that_the_docs_say() -> None:
    assert (retry_queue.MAX_TRIES, retry_queue.MAX_AGE_S) == (20, 10 * MINUTE)
