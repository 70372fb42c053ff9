"""Builders: from a record to a delivery unit, for a store with a sequence id, for a collector without one.

A record without an id needs a request to the store before it can be encoded. `build_as_ready` sends these requests: the
ids of one rollout one after the other, those of several rollouts at the same time; ready units are yielded meanwhile.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from llmproxy.shipper.delivery.batches import DeliveryUnit
from llmproxy.shipper.delivery.circuit_breaker import CircuitBreaker
from llmproxy.shipper.delivery.http_client import ReceiverError
from llmproxy.shipper.delivery.sequencer import Sequencer
from llmproxy.shipper.metrics import ShipperCounters
from llmproxy.shipper.spool import records
from llmproxy.shipper.spool.segments import Place

MAX_ROLLOUTS = 16
"""Rollouts whose ids are taken at the same time."""
MAX_IDS_PER_TURN = 8
"""Ids of one rollout that are taken before its calls are sent; a kill in between costs asking for them again."""
BATCH_WINDOW_S = 0.003
"""Time that the first record with an id may wait for others of its batch."""

PlacedRecord = tuple[Place, records.SpoolRecord]


class SpanEncoder(Protocol):
    """Encoder of a record as spans."""

    def encode(self, record: records.SpoolRecord) -> list[bytes]:
        """Return each span of *record* as a batch of its own."""
        ...


class UnitBuilder(Protocol):
    """Builder of delivery units for one destination."""

    @property
    def counters(self) -> ShipperCounters:
        """Counters of the destination."""
        ...

    def build_now(self, place: Place, record: records.SpoolRecord) -> DeliveryUnit | None:
        """Return the unit of *record*, None if that takes a request to the store first."""
        ...

    async def build(self, place: Place, record: records.SpoolRecord) -> DeliveryUnit:
        """Return the unit of *record*."""
        ...


class OtlpBuilder:
    """Builder for a collector: the span of a record, without a sequence id of the store."""

    def __init__(self, encoder: SpanEncoder, counters: ShipperCounters) -> None:
        self._encoder = encoder
        self.counters = counters

    def build_now(self, place: Place, record: records.SpoolRecord) -> DeliveryUnit:
        """Return the unit of *record*."""
        return DeliveryUnit(place, record, self._encoder.encode(record), set(record.delivered))

    async def build(self, place: Place, record: records.SpoolRecord) -> DeliveryUnit:
        """Return the unit of *record*."""
        return self.build_now(place, record)


class StoreBuilder:
    """Builder for a LightningStore: the sequence id of a record, then its spans."""

    def __init__(
        self, sequencer: Sequencer, breaker: CircuitBreaker, encoder: SpanEncoder, counters: ShipperCounters
    ) -> None:
        self._sequencer = sequencer
        self._breaker = breaker
        self._encoder = encoder
        self.counters = counters

    def build_now(self, place: Place, record: records.SpoolRecord) -> DeliveryUnit | None:
        """Return the unit of *record* if its sequence id is known."""
        sequenced = self._sequencer.with_known_id(record)
        return None if sequenced is None else self._unit(place, sequenced)

    async def build(self, place: Place, record: records.SpoolRecord) -> DeliveryUnit:
        """Return the unit of *record*; wait for the store to give an id."""
        return self._unit(place, await self._with_id(record))

    def _unit(self, place: Place, record: records.SpoolRecord) -> DeliveryUnit:
        return DeliveryUnit(place, record, self._encoder.encode(record), set(record.delivered))

    async def _with_id(self, record: records.SpoolRecord) -> records.SpoolRecord:
        sequenced = await self._sequencer.with_pending_id(record)
        while sequenced is None:
            async with self._breaker.permit():
                try:
                    sequenced = await self._sequencer.with_late_id(record)
                except ReceiverError as exc:
                    self.counters.failures[str(exc)] += 1
                    self._breaker.record_failure(str(exc), exc.advice)
                else:
                    self._breaker.record_success()
        return sequenced


async def build_as_ready(
    builder: UnitBuilder, late: Sequence[PlacedRecord]
) -> AsyncGenerator[list[DeliveryUnit], None]:
    """Yield the units of records without an id, as the store gives ids."""
    queues: dict[tuple[str, str], deque[PlacedRecord]] = {}
    for item in late:
        queues.setdefault(item[1].group, deque()).append(item)
    turns = deque(queues.values())
    running: dict[asyncio.Task[list[DeliveryUnit]], deque[PlacedRecord]] = {}
    try:
        while turns or running:
            while turns and len(running) < MAX_ROLLOUTS:
                queue = turns.popleft()
                running[asyncio.ensure_future(_build_turn(builder, queue))] = queue
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            done, _ = await asyncio.wait(running, timeout=BATCH_WINDOW_S)
            units = []
            for task in done:
                queue = running.pop(task)
                units += task.result()
                if queue:
                    turns.append(queue)
            yield units
    finally:
        for task in running:
            task.cancel()


async def _build_turn(builder: UnitBuilder, queue: deque[PlacedRecord]) -> list[DeliveryUnit]:
    return [await builder.build(*queue.popleft()) for _ in range(min(MAX_IDS_PER_TURN, len(queue)))]
