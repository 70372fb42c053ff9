"""Delivery without processes: a store in plain Python that refuses on demand, and a retry queue in front of it."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import spanrig
from llmproxy.shipper.delivery.batches import DeliveryUnit
from llmproxy.shipper.delivery.circuit_breaker import CircuitBreaker
from llmproxy.shipper.delivery.lightning_store import (
    DeliveryResult,
    LightningStore,
    LightningStoreError,
    Outcome,
    RolloutState,
)
from llmproxy.shipper.delivery.retry_queue import DeadLetterQueue, RetryQueue
from llmproxy.shipper.delivery.sender import Sender
from llmproxy.shipper.metrics import ShipperCounters
from llmproxy.shipper.spool import records
from llmproxy.shipper.spool.segments import Place, Segments

MINUTE = 60.0


def a_unit(call_id: int, rollout: str, spans: list[bytes] | None = None) -> DeliveryUnit:
    record = records.SpoolRecord("gw", 1, spanrig.a_call(call_id, rollout))
    names = spans or [f"<{rollout}/{call_id}/{i}>".encode() for i in range(3)]
    return DeliveryUnit(Place(1, call_id, 1), record, names)


class FakeStore(LightningStore):
    """Store that refuses what a test names, and records each request."""

    def __init__(self) -> None:
        super().__init__("http://nowhere")
        self.poison: set[bytes] = set()
        self.unknown: set[str] = set()
        self.sick = 0
        self.stored: list[bytes] = []
        self.requests = 0
        self.next_ids: list[str] = []
        self.down = False

    async def post(self, batch: bytes) -> DeliveryResult:
        self.requests += 1
        await asyncio.sleep(0)
        if self.sick:
            self.sick -= 1
            return DeliveryResult(Outcome.UNAVAILABLE, "http_503")
        spans = [part + b">" for part in batch.split(b">")[:-1]]
        for span in spans:
            if span in self.poison or span[1:].split(b"/")[0].decode() in self.unknown:
                return DeliveryResult(Outcome.REFUSED, "http_500")
            self.stored.append(span)
        return DeliveryResult(Outcome.ACCEPTED, "http_200")

    async def rollout_state(self, rollout_id: str, attempt_id: str) -> RolloutState:
        return RolloutState.MISSING if rollout_id in self.unknown else RolloutState.EXISTS

    async def next_id(self, rollout_id: str, attempt_id: str) -> int:
        await asyncio.sleep(0)
        if self.down:
            raise LightningStoreError("connect")
        self.next_ids.append(rollout_id)
        return len(self.next_ids)


class RetryRig:
    """RetryQueue calls on a shelf."""

    def __init__(self, folder: Path) -> None:
        self.store, self.counters = FakeStore(), ShipperCounters()
        self.sender = Sender(self.store, CircuitBreaker(), self.counters)
        dead_letters = DeadLetterQueue(Segments(folder / "dead", segment_bytes=2000), 5000, self.counters)
        self.dead_letters = dead_letters.segments
        self.retry_queue = RetryQueue(Segments(folder / "retry"), dead_letters, self.sender, build_unit, self.counters)

    async def refuse(self, *units: DeliveryUnit) -> None:
        self.retry_queue.add(await self.sender.send(list(units), lambda _: None))

    async def run_until(self, holds: Callable[[], bool]) -> None:
        task = asyncio.ensure_future(self.retry_queue.run())
        deadline = time.monotonic() + 10
        while not holds():
            assert time.monotonic() < deadline
            self.retry_queue.retry_now()
            await asyncio.sleep(0.001)
        task.cancel()


async def build_unit(place: Place, record: records.SpoolRecord) -> DeliveryUnit:
    made = a_unit(record.call.call_id, record.call.rollout_id)
    return DeliveryUnit(place, record, made.spans, set(record.delivered))
