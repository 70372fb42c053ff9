"""Make of a record what is sent: for a store its sequence id and then its spans, for a collector its span.

A record without an id is made late, since the store is asked first. Nobody waits for those: `as_made` gives what is
there so far, the ids of one rollout taken one after the other and those of others meanwhile.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from llmproxy.shipper.delivery.batches import Unit
from llmproxy.shipper.delivery.circuit_breaker import Gate
from llmproxy.shipper.delivery.lightning_store import StoreError
from llmproxy.shipper.delivery.sequencer import Sequencer
from llmproxy.shipper.metrics import Counts
from llmproxy.shipper.spool import records
from llmproxy.shipper.spool.segments import Place

LATE_AT_ONCE = 16
"""Rollouts whose ids are taken at the same time."""
LATE_IN_TURN = 8
"""Ids of one rollout that are taken before its calls are sent; a kill in between costs asking for them again."""
GATHER_S = 0.003
"""How long the first that has its id may wait for others to go with it."""

Placed = tuple[Place, records.Record]


class Encodes(Protocol):
    """What makes spans of a record."""

    def encode(self, record: records.Record) -> list[bytes]:
        """Return each of its spans as a batch."""
        ...


class Maker(Protocol):
    """What makes of a record what is sent."""

    @property
    def counts(self) -> Counts:
        """The numbers of where it goes."""
        ...

    def make_now(self, place: Place, record: records.Record) -> Unit | None:
        """Return its unit, None if something must be asked first."""
        ...

    async def make(self, place: Place, record: records.Record) -> Unit:
        """Return its unit."""
        ...


class PlainMaker:
    """Makes what a collector is sent of a record: its span."""

    def __init__(self, encoder: Encodes, counts: Counts) -> None:
        self._encoder = encoder
        self.counts = counts

    def make_now(self, place: Place, record: records.Record) -> Unit:
        """Return the unit of *record*."""
        return Unit(place, record, self._encoder.encode(record), set(record.delivered))

    async def make(self, place: Place, record: records.Record) -> Unit:
        """Return the unit of *record*."""
        return self.make_now(place, record)


class UnitMaker:
    """Makes what a store is sent of a record: its sequence id, then its spans."""

    def __init__(self, sequencer: Sequencer, gate: Gate, encoder: Encodes, counts: Counts) -> None:
        self._sequencer = sequencer
        self._gate = gate
        self._encoder = encoder
        self.counts = counts

    def make_now(self, place: Place, record: records.Record) -> Unit | None:
        """Return the unit of *record* if it has its id."""
        numbered = self._sequencer.numbered(record)
        return None if numbered is None else self._unit(place, numbered)

    async def make(self, place: Place, record: records.Record) -> Unit:
        """Return the unit of *record*, once the store has given an id."""
        return self._unit(place, await self._sequenced(record))

    def _unit(self, place: Place, record: records.Record) -> Unit:
        return Unit(place, record, self._encoder.encode(record), set(record.delivered))

    async def _sequenced(self, record: records.Record) -> records.Record:
        found = await self._sequencer.awaited(record)
        while found is None:
            async with self._gate.passing():
                try:
                    found = await self._sequencer.late(record)
                except StoreError as exc:
                    self.counts.failures[str(exc)] += 1
                    self._gate.failed(str(exc))
                else:
                    self._gate.works()
        return found


async def as_made(maker: Maker, late: Sequence[Placed]) -> AsyncGenerator[list[Unit], None]:
    """Yield the units of records that have no id yet, as they are made."""
    queues: dict[tuple[str, str], deque[Placed]] = {}
    for placed in late:
        queues.setdefault(placed[1].group, deque()).append(placed)
    turns = deque(queues.values())
    running: dict[asyncio.Task[list[Unit]], deque[Placed]] = {}
    try:
        while turns or running:
            while turns and len(running) < LATE_AT_ONCE:
                queue = turns.popleft()
                running[asyncio.ensure_future(_some(maker, queue))] = queue
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            done, _ = await asyncio.wait(running, timeout=GATHER_S)
            made = []
            for task in done:
                queue = running.pop(task)
                made += task.result()
                if queue:
                    turns.append(queue)
            yield made
    finally:
        for task in running:
            task.cancel()


async def _some(maker: Maker, queue: deque[Placed]) -> list[Unit]:
    return [await maker.make(*queue.popleft()) for _ in range(min(LATE_IN_TURN, len(queue)))]
