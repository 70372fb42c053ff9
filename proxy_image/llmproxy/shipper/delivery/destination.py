"""One place that calls are delivered to, and what is its own: disk, cursor, retries, dead letters, numbers.

A store and a collector are two of these. They share nothing but the calls, so that one that is away or full costs
the other neither room nor time.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from llmproxy.shipper.delivery.builders import Maker
from llmproxy.shipper.delivery.circuit_breaker import Gate
from llmproxy.shipper.delivery.retry_queue import Letters, Parked
from llmproxy.shipper.delivery.sender import Sender, Target
from llmproxy.shipper.delivery.worker import Delivery
from llmproxy.shipper.spool import layout, records
from llmproxy.shipper.spool.segments import Segments
from llmproxy.shipper.spool.spool import Spool

log = logging.getLogger("llmproxy.shipper")

FULL = "spool_full"


@dataclass(frozen=True)
class Home:
    """Its name, and its room on disk."""

    name: str
    where: layout.Folders
    max_bytes: int


class Destination:
    """The way of calls to one target."""

    def __init__(
        self, target: Target, gate: Gate, maker: Maker, home: Home, takes: Callable[[records.Record], bool]
    ) -> None:
        """*takes* says of which calls it is told."""
        self.name, where, self.max_bytes = home.name, home.where, home.max_bytes
        self.counts = counts = maker.counts
        self.takes = takes
        self.gate = gate
        size = layout.segment_bytes(self.max_bytes)
        sender = Sender(target, gate, counts, name=self.name)
        self.spool = Spool(where.waiting, segment_bytes=size)
        self.letters = Letters(Segments(where.dead, segment_bytes=size), layout.letters_bytes(self.max_bytes), counts)
        self.parked = Parked(Segments(where.parked, segment_bytes=size), self.letters, sender, maker.make, counts)
        self.delivery = Delivery(self.spool, sender, self.parked, maker, counts)
        self._refusing = ""

    @property
    def used_bytes(self) -> int:
        """All that is on disk."""
        return self.spool.size + self.parked.segments.size + self.letters.segments.size

    @property
    def done(self) -> bool:
        """Whether there is nothing that could be delivered now."""
        return self.delivery.idle and self.parked.tried

    def start(self) -> None:
        """Go on with what an earlier process has left."""
        self.parked.load()
        self.delivery.wake()

    def runs(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """Return what is to run for ever."""
        return self.delivery.run(), self.delivery.keep_cursor(), self.parked.run()

    async def keep(self, payloads: Sequence[bytes]) -> list[str]:
        """Put records on disk; return for each why it was not kept, empty if it was. Those that are count."""
        if sum(map(len, payloads)) > self.max_bytes - self.used_bytes:
            await self.delivery.save()  # what is delivered since the last time gives its room back now
        room = self.max_bytes - self.used_bytes
        fit = size = 0
        for payload in payloads:
            size += len(payload)
            if size > room:
                break
            fit += 1
        reasons = [""] * fit + [FULL] * (len(payloads) - fit)
        if fit:
            try:
                await self._append(payloads[:fit])
            except OSError as exc:
                reasons[:fit] = [f"disk: {exc.strerror or exc}"] * fit
            else:
                self.counts.durable += fit
                self.delivery.wake()
        self._note(reasons)
        return reasons

    async def _append(self, payloads: Sequence[bytes]) -> None:
        """Put records on disk; on one that is full in the place of what is delivered, if that helps. Raise OSError."""
        try:
            await asyncio.to_thread(self.spool.append, payloads)
        except OSError:
            used = self.used_bytes
            await self.delivery.save(scarce=True)
            if self.used_bytes >= used:
                raise
            await asyncio.to_thread(self.spool.append, payloads)

    async def stop(self) -> None:
        """Save how far it has come; what is under way stays in the spool."""
        await self.delivery.save()
        self.spool.close()

    def say_what_is_left(self) -> int:
        """Log how it ended; return how many calls are not delivered."""
        counts = self.counts
        waiting = self.spool.taken + self.spool.unread()
        left = {
            "parked": self.parked.calls,
            "waiting_bytes": self.spool.unread_bytes,
            "waiting": waiting,
            "reason": f"the {self.name} did not take them in time",
        }
        done = {
            "destination": self.name,
            "durable": counts.durable,
            "delivered": counts.delivered,
            "refused": sum(counts.refused.values()),
        }
        calls_left = self.parked.calls + waiting
        if calls_left or self.spool.unread_bytes:
            log.error("spool_not_empty", extra={**done, **left})
        else:
            log.info("spool_empty", extra=done)
        return calls_left

    def gauges(self) -> dict[str, tuple[str, float]]:
        """Return how it stands at the moment, by name with what it means."""
        return {
            "spool_bytes": ("Bytes on disk, of all calls", self.used_bytes),
            "spool_limit_bytes": ("Bytes that may be on disk", self.max_bytes),
            "waiting_bytes": ("Bytes of calls that wait and are not under way", self.spool.unread_bytes),
            "under_way": ("Calls that are being delivered", self.spool.taken),
            "oldest_seconds": ("Age of the oldest call that is not delivered", self.delivery.oldest_s),
            "parked_calls": ("Calls that are refused and tried again", self.parked.calls),
            "dead_letter_bytes": ("Bytes of calls that were given up", self.letters.segments.size),
            "up": ("Whether the last request worked", float(self.gate.healthy)),
        }

    def _note(self, reasons: list[str]) -> None:
        """Count what was not kept, and log when that begins."""
        for why in filter(None, reasons):
            self.counts.refused[why] += 1
        now = next(filter(None, reasons), "")
        if now and now != self._refusing:
            count = sum(why == now for why in reasons)
            extra = {"reason": now, "calls": count, "destination": self.name, "spool_bytes": self.used_bytes}
            log.error("calls_refused", extra=extra)
        self._refusing = now
