"""Retry queue: calls that a destination refuses while it accepts others, retried apart so that they delay nobody.

By rollout and attempt, after 1, 2, 4 s and so on. A group that is refused for 10 minutes or 20 times moves to the
dead-letter queue: segments of its own, a metric, a log line with the reason. A record is on disk in its new queue
before it leaves the old one. The queue has a share of the spool, and a rollout a share of the queue: above them the
oldest calls become dead letters, so that rollouts that no store has cost other rollouts no room.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import msgspec

from llmproxy.shipper.delivery.batches import MAX_BATCH_BYTES, MAX_BATCH_CALLS, DeliveryUnit
from llmproxy.shipper.delivery.circuit_breaker import backoff_s
from llmproxy.shipper.delivery.sender import ROLLOUT_UNKNOWN, RefusedUnit, Sender
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
SEARCH_ROLLOUTS = 50
"""Rollouts of one search: a store answers with whole rollouts, inputs included."""
QUEUE_FULL = "retry_queue_full"
ROLLOUT_FULL = "rollout_retry_limit"
EVICTION_LOG = 1000
"""Evicted calls of a group between two log lines."""

Group = tuple[str, str]
BuildUnit = Callable[[Place, records.SpoolRecord], Awaitable[DeliveryUnit]]


@dataclass
class RetryBatch:
    """Queued calls of one rollout and attempt."""

    places: dict[Place, None] = field(default_factory=dict)
    """In order of arrival."""
    tries: int = 1
    since_ns: int = 0
    """First refusal by the wall clock, as it is written to disk."""
    since_s: float = 0.0
    """First refusal by the loop's clock, which does not jump: the age is measured by it."""
    reason: str = ""
    due_s: float = 0.0
    accepted_before: int = 0
    """Batches that the store had accepted at the last try of this one."""
    evicted: int = 0
    """Calls that became dead letters for want of room."""


def is_dead(batch: RetryBatch, now_s: float) -> bool:
    """Return True if *batch* was refused often or long enough to give up."""
    aged = now_s - batch.since_s >= MAX_AGE_S
    return batch.tries >= MAX_TRIES or (aged and batch.tries >= MIN_TRIES)


class DeadLetterQueue:
    """Dead letters on disk: at most *max_bytes*; above that the oldest are evicted."""

    def __init__(self, segments: Segments, max_bytes: int, counters: ShipperCounters) -> None:
        self.segments = segments
        self._max_bytes = max_bytes
        self.counters = counters

    def load(self) -> None:
        """Read the dead letters of an earlier process once, so that damage of them is counted."""
        for number in list(self.segments.sizes):
            for _ in self.segments.walk(number):
                pass
        self.counters.damaged_bytes += self.segments.report_damages()

    def add(self, dead: list[records.SpoolRecord]) -> None:
        """Write dead letters; raise OSError with nothing written."""
        self.segments.append([records.encode(record) for record in dead])
        while self.segments.size > self._max_bytes and len(self.segments.sizes) > 1:
            oldest = min(self.segments.sizes)
            size = self.segments.sizes[oldest]
            self.counters.evicted_dead_letter_bytes += size
            log.error(
                "dead_letters_evicted", extra={"bytes": size, "reason": f"more than {self._max_bytes} bytes of them"}
            )
            self.segments.unlink(oldest)


class RetryBounds(NamedTuple):
    """Room of the retry queue."""

    bytes: int
    rollout_bytes: int
    """Room of one rollout in it."""


class RetryQueue:
    """All retry batches, and the task that retries them."""

    def __init__(
        self,
        segments: Segments,
        dead_letters: DeadLetterQueue,
        sender: Sender,
        build_unit: BuildUnit,
        bounds: RetryBounds,
    ) -> None:
        self.segments = segments
        self._bounds = bounds
        self._dead_letters = dead_letters
        self._sender = sender
        self._build_unit = build_unit
        self._counters = dead_letters.counters
        self._rand = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._batches: dict[Group, RetryBatch] = {}
        self._records_in: defaultdict[int, dict[Place, Group]] = defaultdict(dict)
        """Queued records by segment, in order."""
        self._rollout_bytes: Counter[str] = Counter()
        self._wake = asyncio.Event()
        self.on_stored: Callable[[list[records.SpoolRecord]], None] = lambda _: None

    def __contains__(self, group: Group) -> bool:
        return group in self._batches

    @property
    def calls(self) -> int:
        """Number of queued calls."""
        return sum(map(len, self._records_in.values()))

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
                    self._counters.damaged_bytes += place.length
                    log.error("record_not_decoded", extra=place._asdict())  # noqa: TRY400 - no trace helps here
                    continue
                first_due_s = now_s + self._rand.uniform(0.0, FIRST_S)
                batch = self._batches.setdefault(record.group, RetryBatch(due_s=first_due_s))
                batch.tries = max(batch.tries, record.tries)
                batch.since_ns = record.since_ns if not batch.since_ns else min(batch.since_ns, record.since_ns)
                batch.since_s = now_s - max(0, now_ns - batch.since_ns) / 1e9
                batch.reason = record.reason
                self._index(record.group, batch, place)
            if number not in self._records_in:
                self.segments.unlink(number)
        self._counters.damaged_bytes += self.segments.report_damages()

    def add(self, refusals: list[RefusedUnit]) -> None:
        """Queue refused calls, on disk when this returns; final ones as dead letters. Raise OSError."""
        now_ns, now_s = time.time_ns(), asyncio.get_running_loop().time()
        final = [refusal for refusal in refusals if refusal.is_final]
        if final:
            self._dead_letters.add([with_refusal(refusal, now_ns) for refusal in final])
            self._counters.dead_lettered[final[0].reason] += len(final)
            log.error(
                "calls_dead_lettered",
                extra={
                    "destination": self._sender.name,
                    "calls": len(final),
                    "reason": final[0].reason,
                    "folder": str(self._dead_letters.segments.folder),
                },
            )
        queued = [with_refusal(refusal, now_ns) for refusal in refusals if not refusal.is_final]
        if not queued:
            return
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
            self._index(record.group, batch, place)
        self._enforce_bounds({record.call.rollout_id for record in queued})
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
            due = sorted((batch.due_s, group) for group, batch in self._batches.items() if batch.due_s <= now_s)
            if due:
                await self._retry_all([group for _, group in due])
                continue
            next_s = min((batch.due_s for batch in self._batches.values()), default=None)
            # Not wait_for: in Python 3.11 it loses a cancellation that comes in the turn in which the event was set.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if next_s is None else next_s - now_s):
                    await self._wake.wait()

    async def _retry_all(self, groups: list[Group]) -> None:
        """Retry due groups. One search first tells for many of them whether the store has their rollouts by now."""
        unknown = [group for group in groups if self._batches[group].reason == ROLLOUT_UNKNOWN]
        missing: set[str] = set()
        for i in range(0, len(unknown), SEARCH_ROLLOUTS):
            rollouts = list(dict.fromkeys(rollout for rollout, _ in unknown[i : i + SEARCH_ROLLOUTS]))
            missing |= await self._sender.missing_rollouts(rollouts)
        searched = set(unknown)
        for group in groups:
            batch = self._batches.get(group)
            if batch is None:
                continue
            if group in searched and group[0] in missing:
                self._on_refusal(group, batch, ROLLOUT_UNKNOWN, is_try=True)
            else:
                await self._retry(group)

    async def _retry(self, group: Group) -> None:
        """Send a batch: first one call of it, and the rest if that is accepted."""
        batch = self._batches[group]
        accepted, batch.accepted_before = batch.accepted_before, self._sender.accepted
        first = True
        while batch.places:
            count = 1 if first else MAX_BATCH_CALLS
            units = await self._units(batch, count)
            refusals = await self._sender.send(units, self._on_stored) if units else []
            if refusals and all(refusal.is_final for refusal in refusals):
                self._dead_letter([refusal.unit.place for refusal in refusals], refusals[0].reason)
                continue
            if refusals:
                is_try = any(r.is_call_fault for r in refusals) or self._sender.accepted > accepted
                self._on_refusal(group, batch, refusals[0].reason, is_try=is_try)
                return
            first = False
        if self._batches.get(group) is batch:
            del self._batches[group]
        log.info("retried_calls_delivered", extra={"rollout": group[0], "attempt": group[1]})

    async def _units(self, batch: RetryBatch, count: int) -> list[DeliveryUnit]:
        units: list[DeliveryUnit] = []
        size = 0
        for place in list(islice(batch.places, count)):
            try:
                record = records.decode(self.segments.read(place))
            except (OSError, records.DecodeError) as exc:
                log.error("retry_record_unreadable", extra={"reason": str(exc)})  # noqa: TRY400 - no trace helps here
                self._counters.damaged_bytes += place.length
                self._settle(place)
                continue
            unit = await self._build_unit(place, record)
            units.append(unit)
            size += len(unit.body)
            if size >= MAX_BATCH_BYTES:
                break
        return units

    def _on_stored(self, units: list[DeliveryUnit]) -> None:
        self._counters.delivered += len(units)
        for unit in units:
            self._settle(unit.place)
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
        try:
            calls = self._dead_letter(list(batch.places), batch.reason)
        except OSError:
            batch.due_s = asyncio.get_running_loop().time() + MAX_S
            return
        self._batches.pop(group, None)
        self._log_dead_letters(group, batch, calls, batch.reason)

    def _enforce_bounds(self, rollouts: Iterable[str]) -> None:
        """Move the oldest calls to the dead letters: of a rollout above its share, then of a queue above its own."""
        try:
            for rollout in rollouts:
                excess = self._rollout_bytes[rollout] - self._bounds.rollout_bytes
                if excess > 0:
                    self._evict(self._oldest_of(rollout, excess), ROLLOUT_FULL)
            while self.segments.size > self._bounds.bytes and self._records_in:
                self._evict(list(self._records_in[min(self._records_in)]), QUEUE_FULL)
        except OSError:
            return  # logged; the queue is above its bound until a later write succeeds

    def _oldest_of(self, rollout: str, excess: int) -> list[Place]:
        places = []
        for place in sorted(p for group, b in self._batches.items() if group[0] == rollout for p in b.places):
            if excess <= 0:
                break
            places.append(place)
            excess -= place.length
        return places

    def _evict(self, places: list[Place], reason: str) -> None:
        by_group: dict[Group, list[Place]] = {}
        for place in places:
            by_group.setdefault(self._records_in[place.segment][place], []).append(place)
        for group, own in by_group.items():
            batch = self._batches[group]
            calls = self._dead_letter(own, reason)
            if batch.evicted // EVICTION_LOG != (batch.evicted + calls) // EVICTION_LOG or not batch.evicted:
                self._log_dead_letters(group, batch, calls, reason)
            batch.evicted += calls
            if not batch.places:
                self._batches.pop(group, None)

    def _dead_letter(self, places: list[Place], reason: str) -> int:
        """Move records to the dead letters, counted under *reason*; return how many. Raise OSError, logged."""
        calls = 0
        for some in _chunks(places):
            dead = [record for place in some if (record := self._dead_record(place, reason)) is not None]
            try:
                self._dead_letters.add(dead)
            except OSError as exc:
                log.error("dead_letter_write_failed", extra={"reason": exc.strerror or str(exc)})  # noqa: TRY400
                raise
            calls += len(dead)
            self._counters.dead_lettered[reason] += len(dead)
            for place in some:
                self._settle(place)
        return calls

    def _log_dead_letters(self, group: Group, batch: RetryBatch, calls: int, reason: str) -> None:
        log.error(
            "calls_dead_lettered",
            extra={
                "rollout": group[0],
                "attempt": group[1],
                "destination": self._sender.name,
                "calls": calls,
                "reason": reason,
                "tries": batch.tries,
                "minutes": round((asyncio.get_running_loop().time() - batch.since_s) / 60, 1),
                "folder": str(self._dead_letters.segments.folder),
            },
        )

    def _dead_record(self, place: Place, reason: str) -> records.SpoolRecord | None:
        try:
            record = records.decode(self.segments.read(place))
        except (OSError, records.DecodeError):
            self._counters.damaged_bytes += place.length
            return None
        batch = self._batches[record.group]
        return msgspec.structs.replace(record, tries=batch.tries, since_ns=batch.since_ns, reason=reason)

    def _index(self, group: Group, batch: RetryBatch, place: Place) -> None:
        batch.places[place] = None
        self._records_in[place.segment][place] = group
        self._rollout_bytes[group[0]] += place.length

    def _settle(self, place: Place) -> None:
        """Remove a record from the queue; one that is gone already, such as an evicted one, is no error."""
        group = self._records_in[place.segment].pop(place, None) if place.segment in self._records_in else None
        if group is None:
            return
        batch = self._batches.get(group)
        if batch is not None:
            batch.places.pop(place, None)
        self._rollout_bytes[group[0]] -= place.length
        if self._rollout_bytes[group[0]] <= 0:
            del self._rollout_bytes[group[0]]
        if not self._records_in[place.segment]:
            del self._records_in[place.segment]
            self.segments.unlink(place.segment)


def _chunks(places: list[Place]) -> Iterator[list[Place]]:
    """Yield *places* in parts that are small enough to be in memory."""
    part: list[Place] = []
    size = 0
    for place in places:
        part.append(place)
        size += place.length
        if size >= MAX_BATCH_BYTES or len(part) >= MAX_BATCH_CALLS:
            yield part
            part, size = [], 0
    if part:
        yield part


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
