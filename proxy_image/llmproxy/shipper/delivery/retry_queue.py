"""Calls that a destination refuses while it takes others: kept apart, so that they delay nobody, and tried again.

By rollout and attempt, after 1, 2, 4 s and so on. A group that is refused for 10 minutes or 20 times becomes dead
letters: files of their own, a metric, a line that says why. Here too a record is on disk before it leaves where it was.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec

from llmproxy.shipper.delivery.batches import MAX_BATCH_BYTES, MAX_BATCH_CALLS, Unit
from llmproxy.shipper.delivery.circuit_breaker import backoff_s
from llmproxy.shipper.delivery.sender import Refusal, Sender
from llmproxy.shipper.metrics import Counts
from llmproxy.shipper.spool import records
from llmproxy.shipper.spool.segments import Place, Segments

log = logging.getLogger("llmproxy.shipper")

MAX_TRIES = 20
MAX_AGE_S = 600.0
MIN_TRIES = 3
"""Before age alone ends a group: a clock that jumped while no shipper ran is no reason."""
FIRST_S = 1.0
MAX_S = 60.0

Group = tuple[str, str]
MakeUnit = Callable[[Place, records.Record], Awaitable[Unit]]


@dataclass
class Lot:
    """The parked calls of one rollout and attempt."""

    places: list[Place] = field(default_factory=list)
    tries: int = 1
    since_ns: int = 0
    """When it was refused first, by the clock on the wall: what is written down."""
    since_s: float = 0.0
    """The same by the loop's clock, which does not jump: what counts."""
    why: str = ""
    due_s: float = 0.0
    seen: int = 0
    """Batches that the store had taken when this lot was tried last."""


def is_dead(lot: Lot, now_s: float) -> bool:
    """Whether a lot has been refused often or long enough to be given up."""
    aged = now_s - lot.since_s >= MAX_AGE_S
    return lot.tries >= MAX_TRIES or (aged and lot.tries >= MIN_TRIES)


class Letters:
    """The dead letters: at most *max_bytes* of them, the oldest go first."""

    def __init__(self, segments: Segments, max_bytes: int, counts: Counts) -> None:
        self.segments = segments
        self._max_bytes = max_bytes
        self._counts = counts

    def add(self, dead: list[records.Record]) -> None:
        """Write dead letters; raise OSError with nothing written."""
        self.segments.append([records.encode(record) for record in dead])
        while self.segments.size > self._max_bytes and len(self.segments.sizes) > 1:
            oldest = min(self.segments.sizes)
            size = self.segments.sizes[oldest]
            self._counts.removed_letters_bytes += size
            log.error(
                "dead_letters_removed", extra={"bytes": size, "reason": f"more than {self._max_bytes} bytes of them"}
            )
            self.segments.unlink(oldest)


class Parked:
    """All lots, and the task that tries them again."""

    def __init__(
        self, segments: Segments, letters: Letters, sender: Sender, make_unit: MakeUnit, counts: Counts
    ) -> None:
        self.segments = segments
        self._letters = letters
        self._sender = sender
        self._make_unit = make_unit
        self._counts = counts
        self._rand = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._lots: dict[Group, Lot] = {}
        self._left: dict[int, int] = {}
        """By segment: records that are still parked."""
        self._wake = asyncio.Event()
        self.on_stored: Callable[[list[records.Record]], None] = lambda _: None

    def __contains__(self, group: Group) -> bool:
        return group in self._lots

    @property
    def calls(self) -> int:
        """How many calls are parked."""
        return sum(self._left.values())

    @property
    def tried(self) -> bool:
        """Whether nothing waits for its turn now."""
        now_s = asyncio.get_running_loop().time()
        return all(lot.due_s > now_s for lot in self._lots.values())

    def load(self) -> None:
        """Find what an earlier process has parked."""
        now_ns, now_s = time.time_ns(), asyncio.get_running_loop().time()
        for number in list(self.segments.sizes):
            for place, payload in self.segments.walk(number):
                try:
                    record = records.decode(payload)
                except records.DecodeError:
                    continue
                lot = self._lots.setdefault(record.group, Lot(due_s=now_s + self._rand.uniform(0.0, FIRST_S)))
                lot.tries = max(lot.tries, record.tries)
                lot.since_ns = record.since_ns if not lot.since_ns else min(lot.since_ns, record.since_ns)
                lot.since_s = now_s - max(0, now_ns - lot.since_ns) / 1e9
                lot.why = record.reason
                self._keep(lot, place)
            if number not in self._left:
                self.segments.unlink(number)

    def add(self, refusals: list[Refusal]) -> None:
        """Keep refused calls, on disk when this returns; raise OSError with nothing kept."""
        now_ns, now_s = time.time_ns(), asyncio.get_running_loop().time()
        kept = [noted(refusal, now_ns) for refusal in refusals]
        places = self.segments.append([records.encode(record) for record in kept])
        self._counts.parked += len(kept)
        for record, place in zip(kept, places, strict=True):
            lot = self._lots.get(record.group)
            if lot is None:
                lot = self._lots[record.group] = Lot(
                    since_ns=record.since_ns, since_s=now_s, why=record.reason, seen=self._sender.accepted
                )
                lot.due_s = now_s + backoff_s(1, self._rand, first_s=FIRST_S, max_s=MAX_S)
                log.warning(
                    "calls_parked",
                    extra={
                        "rollout": record.group[0],
                        "attempt": record.group[1],
                        "reason": record.reason,
                        "destination": self._sender.name,
                    },
                )
            self._keep(lot, place)
        self._wake.set()

    def hurry(self) -> None:
        """Try every lot now."""
        for lot in self._lots.values():
            lot.due_s = 0.0
        self._wake.set()

    async def run(self) -> None:
        """Try lots when they are due, for ever."""
        while True:
            self._wake.clear()
            now_s = asyncio.get_running_loop().time()
            due = sorted((lot.due_s, group) for group, lot in self._lots.items())
            if due and due[0][0] <= now_s:
                await self._try(due[0][1])
                continue
            wait_s = due[0][0] - now_s if due else None
            try:
                await asyncio.wait_for(self._wake.wait(), wait_s)
            except TimeoutError:
                continue

    async def _try(self, group: Group) -> None:
        """Send a lot: first one call of it, and the rest if that is taken."""
        lot = self._lots[group]
        seen, lot.seen = lot.seen, self._sender.accepted
        first = True
        while lot.places:
            count = 1 if first else MAX_BATCH_CALLS
            units = await self._units(lot, count)
            refusals = await self._sender.send(units, lambda stored: self._stored(lot, stored)) if units else []
            if refusals:
                counts = any(r.counts for r in refusals) or self._sender.accepted > seen
                self._refused(group, lot, refusals[0].why, counts=counts)
                return
            first = False
        self._lots.pop(group, None)
        log.info("parked_calls_delivered", extra={"rollout": group[0], "attempt": group[1]})

    async def _units(self, lot: Lot, count: int) -> list[Unit]:
        units: list[Unit] = []
        size = 0
        for place in lot.places[:count]:
            try:
                record = records.decode(self.segments.read(place))
            except (OSError, records.DecodeError) as exc:
                log.error("parked_call_unreadable", extra={"reason": str(exc)})  # noqa: TRY400 - no trace helps here
                self._counts.damaged_bytes += place.length
                self._settle(lot, place)
                continue
            unit = await self._make_unit(place, record)
            units.append(unit)
            size += len(unit.body)
            if size >= MAX_BATCH_BYTES:
                break
        return units

    def _stored(self, lot: Lot, units: list[Unit]) -> None:
        self._counts.delivered += len(units)
        for unit in units:
            self._settle(lot, unit.place)
        self.on_stored([unit.record for unit in units])

    def _refused(self, group: Group, lot: Lot, why: str, *, counts: bool) -> None:
        lot.why = why
        lot.tries += counts
        if counts and is_dead(lot, asyncio.get_running_loop().time()):
            self._bury(group, lot)
            return
        wait_s = backoff_s(lot.tries, self._rand, first_s=FIRST_S, max_s=MAX_S)
        lot.due_s = asyncio.get_running_loop().time() + wait_s

    def _bury(self, group: Group, lot: Lot) -> None:
        """Make dead letters of a lot."""
        buried = 0
        while lot.places:
            some = lot.places[:MAX_BATCH_CALLS]
            dead = [record for place in some if (record := self._dead(place, lot)) is not None]
            try:
                self._letters.add(dead)
            except OSError as exc:
                log.error("dead_letters_not_written", extra={"reason": exc.strerror or str(exc)})  # noqa: TRY400
                lot.due_s = asyncio.get_running_loop().time() + MAX_S
                return
            buried += len(dead)
            for place in some:
                self._settle(lot, place)
        self._lots.pop(group, None)
        self._counts.dead_lettered[lot.why] += buried
        log.error(
            "calls_dead_lettered",
            extra={
                "rollout": group[0],
                "attempt": group[1],
                "destination": self._sender.name,
                "calls": buried,
                "reason": lot.why,
                "tries": lot.tries,
                "minutes": round((asyncio.get_running_loop().time() - lot.since_s) / 60, 1),
                "folder": str(self._letters.segments.folder),
            },
        )

    def _dead(self, place: Place, lot: Lot) -> records.Record | None:
        try:
            record = records.decode(self.segments.read(place))
        except (OSError, records.DecodeError):
            self._counts.damaged_bytes += place.length
            return None
        return msgspec.structs.replace(record, tries=lot.tries, since_ns=lot.since_ns, reason=lot.why)

    def _keep(self, lot: Lot, place: Place) -> None:
        lot.places.append(place)
        self._left[place.segment] = self._left.get(place.segment, 0) + 1

    def _settle(self, lot: Lot, place: Place) -> None:
        lot.places.remove(place)
        self._left[place.segment] -= 1
        if not self._left[place.segment]:
            del self._left[place.segment]
            self.segments.unlink(place.segment)


def noted(refusal: Refusal, now_ns: int) -> records.Record:
    """Return the record of a refused call with what is known of it."""
    old = refusal.unit.record
    return msgspec.structs.replace(
        old,
        tries=old.tries + 1,
        since_ns=old.since_ns or now_ns,
        reason=refusal.why,
        delivered=tuple(sorted(refusal.unit.delivered)),
    )
