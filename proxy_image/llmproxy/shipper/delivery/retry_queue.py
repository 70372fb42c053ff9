"""Retry queue: calls that a destination refuses while it accepts others, retried apart so that they delay nobody.

By rollout and attempt, after 1, 2, 4 s and so on. A group that is refused for 10 minutes or 20 times moves to the
dead-letter queue: segments of its own, a metric, a log line with the reason. A record is on disk in its new queue
before it leaves the old one.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec

from llmproxy.shipper.delivery.batches import MAX_BATCH_BYTES, MAX_BATCH_CALLS, DeliveryUnit
from llmproxy.shipper.delivery.circuit_breaker import backoff_s
from llmproxy.shipper.delivery.sender import RefusedUnit, Sender
from llmproxy.shipper.metrics import ShipperCounters
from llmproxy.shipper.spool import records
from llmproxy.shipper.spool.segments import Place, Segments

log = logging.getLogger("llmproxy.shipper")

MAX_TRIES = 20
MAX_AGE_S = 600.0
MIN_TRIES = 3
"""Tries before age alone ends a group: a clock that jumped while no shipper ran is no reason."""
FIRST_S = 1.0
MAX_S = 60.0

Group = tuple[str, str]
BuildUnit = Callable[[Place, records.SpoolRecord], Awaitable[DeliveryUnit]]


@dataclass
class RetryBatch:
    """Queued calls of one rollout and attempt."""

    places: list[Place] = field(default_factory=list)
    tries: int = 1
    since_ns: int = 0
    """First refusal by the wall clock, as it is written to disk."""
    since_s: float = 0.0
    """First refusal by the loop's clock, which does not jump: the age is measured by it."""
    reason: str = ""
    due_s: float = 0.0
    accepted_before: int = 0
    """Batches that the store had accepted at the last try of this one."""


def is_dead(batch: RetryBatch, now_s: float) -> bool:
    """Return True if *batch* was refused often or long enough to give up."""
    aged = now_s - batch.since_s >= MAX_AGE_S
    return batch.tries >= MAX_TRIES or (aged and batch.tries >= MIN_TRIES)


class DeadLetterQueue:
    """Dead letters on disk: at most *max_bytes*; above that the oldest are evicted."""

    def __init__(self, segments: Segments, max_bytes: int, counters: ShipperCounters) -> None:
        self.segments = segments
        self._max_bytes = max_bytes
        self._counters = counters

    def add(self, dead: list[records.SpoolRecord]) -> None:
        """Write dead letters; raise OSError with nothing written."""
        self.segments.append([records.encode(record) for record in dead])
        while self.segments.size > self._max_bytes and len(self.segments.sizes) > 1:
            oldest = min(self.segments.sizes)
            size = self.segments.sizes[oldest]
            self._counters.evicted_dead_letter_bytes += size
            log.error(
                "dead_letters_evicted", extra={"bytes": size, "reason": f"more than {self._max_bytes} bytes of them"}
            )
            self.segments.unlink(oldest)


class RetryQueue:
    """All retry batches, and the task that retries them."""

    def __init__(
        self,
        segments: Segments,
        dead_letters: DeadLetterQueue,
        sender: Sender,
        build_unit: BuildUnit,
        counters: ShipperCounters,
    ) -> None:
        self.segments = segments
        self._dead_letters = dead_letters
        self._sender = sender
        self._build_unit = build_unit
        self._counters = counters
        self._rand = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._batches: dict[Group, RetryBatch] = {}
        self._records_in: dict[int, int] = {}
        """Queued records by segment."""
        self._wake = asyncio.Event()
        self.on_stored: Callable[[list[records.SpoolRecord]], None] = lambda _: None

    def __contains__(self, group: Group) -> bool:
        return group in self._batches

    @property
    def calls(self) -> int:
        """Number of queued calls."""
        return sum(self._records_in.values())

    @property
    def idle(self) -> bool:
        """True if no batch is due."""
        now_s = asyncio.get_running_loop().time()
        return all(batch.due_s > now_s for batch in self._batches.values())

    def load(self) -> None:
        """Load the queue of an earlier process."""
        now_ns, now_s = time.time_ns(), asyncio.get_running_loop().time()
        for number in list(self.segments.sizes):
            for place, payload in self.segments.walk(number):
                try:
                    record = records.decode(payload)
                except records.DecodeError:
                    continue
                first_due_s = now_s + self._rand.uniform(0.0, FIRST_S)
                batch = self._batches.setdefault(record.group, RetryBatch(due_s=first_due_s))
                batch.tries = max(batch.tries, record.tries)
                batch.since_ns = record.since_ns if not batch.since_ns else min(batch.since_ns, record.since_ns)
                batch.since_s = now_s - max(0, now_ns - batch.since_ns) / 1e9
                batch.reason = record.reason
                self._index(batch, place)
            if number not in self._records_in:
                self.segments.unlink(number)

    def add(self, refusals: list[RefusedUnit]) -> None:
        """Queue refused calls, on disk when this returns; raise OSError with nothing queued."""
        now_ns, now_s = time.time_ns(), asyncio.get_running_loop().time()
        queued = [with_refusal(refusal, now_ns) for refusal in refusals]
        places = self.segments.append([records.encode(record) for record in queued])
        self._counters.retry_queued += len(queued)
        for record, place in zip(queued, places, strict=True):
            batch = self._batches.get(record.group)
            if batch is None:
                batch = self._batches[record.group] = RetryBatch(
                    since_ns=record.since_ns,
                    since_s=now_s,
                    reason=record.reason,
                    accepted_before=self._sender.accepted,
                )
                batch.due_s = now_s + backoff_s(1, self._rand, first_s=FIRST_S, max_s=MAX_S)
                log.warning(
                    "calls_queued_for_retry",
                    extra={
                        "rollout": record.group[0],
                        "attempt": record.group[1],
                        "reason": record.reason,
                        "destination": self._sender.name,
                    },
                )
            self._index(batch, place)
        self._wake.set()

    def retry_now(self) -> None:
        """Retry every batch now."""
        for batch in self._batches.values():
            batch.due_s = 0.0
        self._wake.set()

    async def run(self) -> None:
        """Retry batches when they are due, for ever."""
        while True:
            self._wake.clear()
            now_s = asyncio.get_running_loop().time()
            due = sorted((batch.due_s, group) for group, batch in self._batches.items())
            if due and due[0][0] <= now_s:
                await self._retry(due[0][1])
                continue
            wait_s = due[0][0] - now_s if due else None
            try:
                await asyncio.wait_for(self._wake.wait(), wait_s)
            except TimeoutError:
                continue

    async def _retry(self, group: Group) -> None:
        """Send a batch: first one call of it, and the rest if that is accepted."""
        batch = self._batches[group]
        accepted, batch.accepted_before = batch.accepted_before, self._sender.accepted
        first = True
        while batch.places:
            count = 1 if first else MAX_BATCH_CALLS
            units = await self._units(batch, count)
            refusals = await self._sender.send(units, lambda stored: self._on_stored(batch, stored)) if units else []
            if refusals:
                is_try = any(r.is_call_fault for r in refusals) or self._sender.accepted > accepted
                self._on_refusal(group, batch, refusals[0].reason, is_try=is_try)
                return
            first = False
        self._batches.pop(group, None)
        log.info("retried_calls_delivered", extra={"rollout": group[0], "attempt": group[1]})

    async def _units(self, batch: RetryBatch, count: int) -> list[DeliveryUnit]:
        units: list[DeliveryUnit] = []
        size = 0
        for place in batch.places[:count]:
            try:
                record = records.decode(self.segments.read(place))
            except (OSError, records.DecodeError) as exc:
                log.error("retry_record_unreadable", extra={"reason": str(exc)})  # noqa: TRY400 - no trace helps here
                self._counters.damaged_bytes += place.length
                self._settle(batch, place)
                continue
            unit = await self._build_unit(place, record)
            units.append(unit)
            size += len(unit.body)
            if size >= MAX_BATCH_BYTES:
                break
        return units

    def _on_stored(self, batch: RetryBatch, units: list[DeliveryUnit]) -> None:
        self._counters.delivered += len(units)
        for unit in units:
            self._settle(batch, unit.place)
        self.on_stored([unit.record for unit in units])

    def _on_refusal(self, group: Group, batch: RetryBatch, reason: str, *, is_try: bool) -> None:
        batch.reason = reason
        batch.tries += is_try
        if is_try and is_dead(batch, asyncio.get_running_loop().time()):
            self._move_to_dead_letters(group, batch)
            return
        wait_s = backoff_s(batch.tries, self._rand, first_s=FIRST_S, max_s=MAX_S)
        batch.due_s = asyncio.get_running_loop().time() + wait_s

    def _move_to_dead_letters(self, group: Group, batch: RetryBatch) -> None:
        calls = 0
        while batch.places:
            some = batch.places[:MAX_BATCH_CALLS]
            dead = [record for place in some if (record := self._dead_letter(place, batch)) is not None]
            try:
                self._dead_letters.add(dead)
            except OSError as exc:
                log.error("dead_letter_write_failed", extra={"reason": exc.strerror or str(exc)})  # noqa: TRY400
                batch.due_s = asyncio.get_running_loop().time() + MAX_S
                return
            calls += len(dead)
            for place in some:
                self._settle(batch, place)
        self._batches.pop(group, None)
        self._counters.dead_lettered[batch.reason] += calls
        log.error(
            "calls_dead_lettered",
            extra={
                "rollout": group[0],
                "attempt": group[1],
                "destination": self._sender.name,
                "calls": calls,
                "reason": batch.reason,
                "tries": batch.tries,
                "minutes": round((asyncio.get_running_loop().time() - batch.since_s) / 60, 1),
                "folder": str(self._dead_letters.segments.folder),
            },
        )

    def _dead_letter(self, place: Place, batch: RetryBatch) -> records.SpoolRecord | None:
        try:
            record = records.decode(self.segments.read(place))
        except (OSError, records.DecodeError):
            self._counters.damaged_bytes += place.length
            return None
        return msgspec.structs.replace(record, tries=batch.tries, since_ns=batch.since_ns, reason=batch.reason)

    def _index(self, batch: RetryBatch, place: Place) -> None:
        batch.places.append(place)
        self._records_in[place.segment] = self._records_in.get(place.segment, 0) + 1

    def _settle(self, batch: RetryBatch, place: Place) -> None:
        batch.places.remove(place)
        self._records_in[place.segment] -= 1
        if not self._records_in[place.segment]:
            del self._records_in[place.segment]
            self.segments.unlink(place.segment)


def with_refusal(refusal: RefusedUnit, now_ns: int) -> records.SpoolRecord:
    """Return the record of a refused call with its tries, reason and delivered spans."""
    record = refusal.unit.record
    return msgspec.structs.replace(
        record,
        tries=record.tries + 1,
        since_ns=record.since_ns or now_ns,
        reason=refusal.reason,
        delivered=tuple(sorted(refusal.unit.delivered)),
    )
