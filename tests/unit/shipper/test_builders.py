"""Units of records without a sequence id."""

import asyncio
import contextlib
from pathlib import Path

import msgspec

import spanrig
from deliveryrig import FakeStore
from llmproxy.shipper.delivery import builders
from llmproxy.shipper.delivery.circuit_breaker import CircuitBreaker
from llmproxy.shipper.delivery.journal import Journal
from llmproxy.shipper.delivery.sequencer import Sequencer
from llmproxy.shipper.metrics import ShipperCounters
from llmproxy.shipper.spool import records
from llmproxy.shipper.spool.segments import Place
from windows import Clock, VirtualLoop


class SlowStore(FakeStore):
    """A store that takes a while for each id, and never gives one for `ro-stuck`."""

    async def next_id(self, rollout_id: str, attempt_id: str) -> int:
        await asyncio.sleep(3600.0 if rollout_id == "ro-stuck" else 0.05)
        return await super().next_id(rollout_id, attempt_id)


def test_late_ids_hold_up_neither_those_that_have_theirs_nor_other_rollouts(tmp_path: Path) -> None:
    clock, counters = Clock(), ShipperCounters()

    async def deliver() -> tuple[list[list[int]], float]:
        store = SlowStore()
        builder = builders.StoreBuilder(
            Sequencer(store, Journal(tmp_path / "j"), counters), CircuitBreaker(), SpanEncoder(), counters
        )
        waiting = [records.SpoolRecord("gw", 0, spanrig.a_call(i, f"ro-{i % 40}")) for i in range(160)]
        waiting.append(records.SpoolRecord("gw", 0, spanrig.a_call(160, "ro-stuck")))
        assert builder.build_now(Place(1, 0, 1), waiting[0]) is None
        assert builder.build_now(Place(1, 0, 1), msgspec.structs.replace(waiting[0], sequence_id=7)) is not None
        made: list[list[int]] = []
        parts = builders.build_as_ready(builder, [(Place(1, i, 1), record) for i, record in enumerate(waiting)])
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
    assert counters.sequenced_late == 160


class SpanEncoder:
    """Makes one span of a record, whatever it holds."""

    def encode(self, record: records.SpoolRecord) -> list[bytes]:
        return [str(record.sequence_id).encode()]


async def test_an_id_that_is_given_says_that_the_store_works(tmp_path: Path) -> None:
    breaker, counters = CircuitBreaker(), ShipperCounters()
    builder = builders.StoreBuilder(
        Sequencer(FakeStore(), Journal(tmp_path / "j"), counters), breaker, SpanEncoder(), counters
    )
    breaker.record_failure("http_503")
    await builder.build(Place(1, 0, 1), records.SpoolRecord("gw", 0, spanrig.a_call(1, "ro")))
    assert breaker.healthy
