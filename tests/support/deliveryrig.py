"""Delivery without processes: a store in plain Python that refuses on demand, and a retry queue in front of it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import spanrig
from llmproxy.shipper.delivery.batches import DeliveryUnit
from llmproxy.shipper.delivery.circuit_breaker import CircuitBreaker
from llmproxy.shipper.delivery.http_client import DeliveryResult, Outcome, ReceiverError
from llmproxy.shipper.delivery.lightning_store import LightningStore, RolloutState
from llmproxy.shipper.delivery.retry_queue import DeadLetterQueue, RetryBounds, RetryQueue
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
        self.requests = self.searches = 0
        self.next_ids: list[str] = []
        self.down = False

    async def post(self, batch: bytes, spans: int) -> DeliveryResult:
        self.requests += 1
        await asyncio.sleep(0)
        if self.sick:
            self.sick -= 1
            return DeliveryResult(Outcome.UNAVAILABLE, "http_503")
        names = [part + b">" for part in batch.split(b">")[:-1]]
        for span in names:
            if span in self.poison or span[1:].split(b"/")[0].decode() in self.unknown:
                return DeliveryResult(Outcome.REFUSED, "http_500")
            self.stored.append(span)
        return DeliveryResult(Outcome.ACCEPTED, "http_200")

    async def rollout_state(self, rollout_id: str, attempt_id: str) -> RolloutState:
        return RolloutState.MISSING if rollout_id in self.unknown else RolloutState.EXISTS

    async def missing_rollouts(self, rollout_ids: Sequence[str]) -> set[str]:
        self.searches += 1
        return self.unknown & set(rollout_ids)

    async def next_id(self, rollout_id: str, attempt_id: str) -> int:
        await asyncio.sleep(0)
        if self.down:
            raise ReceiverError("connect")
        self.next_ids.append(rollout_id)
        return len(self.next_ids)


class RetryRig:
    """Retry queue in front of a `FakeStore`."""

    def __init__(
        self, folder: Path, *, max_bytes: int = 1 << 20, max_rollout_bytes: int = 1 << 20, dead_letter_bytes: int = 5000
    ) -> None:
        self.store, self.counters = FakeStore(), ShipperCounters()
        self.sender = Sender(self.store, CircuitBreaker(), self.counters)
        self.dead_letter_queue = dead_letters = DeadLetterQueue(
            Segments(folder / "dead", segment_bytes=2000), dead_letter_bytes, self.counters
        )
        self.dead_letters = dead_letters.segments
        retries = Segments(folder / "retry", segment_bytes=4000)
        self.retry_queue = RetryQueue(
            retries, dead_letters, self.sender, build_unit, RetryBounds(max_bytes, max_rollout_bytes)
        )

    def dead(self) -> list[int]:
        """Return the call ids of the dead letters, oldest first."""
        payloads = [payload for n in sorted(self.dead_letters.sizes) for _, payload in self.dead_letters.walk(n)]
        return [records.decode(payload).call.call_id for payload in payloads]

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
