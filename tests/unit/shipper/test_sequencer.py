"""Sequence ids at arrival and late ones."""

import asyncio
from pathlib import Path

import pytest

import spanrig
from deliveryrig import FakeStore
from llmproxy import shipping_protocol
from llmproxy.shipper.delivery.http_client import ReceiverError
from llmproxy.shipper.delivery.journal import Journal
from llmproxy.shipper.delivery.sequencer import Sequencer
from llmproxy.shipper.metrics import ShipperCounters
from llmproxy.shipper.spool import records


def an_arrival(call_id: int, rollout: str) -> shipping_protocol.Arrival:
    return shipping_protocol.Arrival(call_id, rollout, "at-1", 1)


async def test_ids_of_a_rollout_are_taken_in_the_order_of_arrival(tmp_path: Path) -> None:
    store = FakeStore()
    sequencer = Sequencer(store, Journal(tmp_path / "j"), ShipperCounters())
    for i in range(30):
        sequencer.on_arrival("gw", an_arrival(i, f"ro-{i % 2}"))
    found = []
    for i in reversed(range(30)):
        record = await sequencer.with_pending_id(records.SpoolRecord("gw", 0, spanrig.a_call(i, f"ro-{i % 2}")))
        assert record is not None
        found.append(record.sequence_id)
    found.reverse()
    assert len(set(found)) == 30
    assert found[0::2] == sorted(found[0::2])
    assert found[1::2] == sorted(found[1::2])


async def test_a_store_that_is_away_means_a_late_id_and_a_count(tmp_path: Path) -> None:
    store, counters = FakeStore(), ShipperCounters()
    store.down = True
    journal = Journal(tmp_path / "j")
    sequencer = Sequencer(store, journal, counters)
    sequencer.on_arrival("gw", an_arrival(1, "ro"))
    await asyncio.sleep(0.01)
    call = spanrig.a_call(1, "ro")
    assert sequencer.id_at_end("gw", call) == 0
    record = records.SpoolRecord("gw", 0, call)
    assert (sequencer.with_known_id(record), await sequencer.with_pending_id(record)) == (None, None)
    with pytest.raises(ReceiverError):
        await sequencer.with_late_id(record)
    store.down = False
    assert (await sequencer.with_late_id(record)).late
    assert counters.sequenced_late == 1


async def test_an_id_taken_at_arrival_survives_the_process(tmp_path: Path) -> None:
    store = FakeStore()
    sequencer = Sequencer(store, Journal(tmp_path / "j"), ShipperCounters())
    sequencer.on_arrival("gw", an_arrival(1, "ro"))
    await asyncio.sleep(0.01)
    again = Sequencer(store, Journal(tmp_path / "j"), ShipperCounters())
    assert again.id_at_end("gw", spanrig.a_call(1, "ro")) == 1
    assert store.next_ids == ["ro"]
