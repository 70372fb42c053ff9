"""Destination: one receiver of calls with its own spool, cursor, retry queue, dead letters and counters.

A store and a collector are two destinations. They share only the calls, so one that is away or full costs the other
neither room nor time.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from llmproxy.shipper.delivery.builders import UnitBuilder
from llmproxy.shipper.delivery.circuit_breaker import CircuitBreaker
from llmproxy.shipper.delivery.retry_queue import DeadLetterQueue, RetryBounds, RetryQueue
from llmproxy.shipper.delivery.sender import Sender, SpanReceiver
from llmproxy.shipper.delivery.worker import DeliveryWorker
from llmproxy.shipper.spool import layout, records
from llmproxy.shipper.spool.segments import Segments
from llmproxy.shipper.spool.spool import Spool

log = logging.getLogger("llmproxy.shipper")

SPOOL_FULL = "spool_full"


@dataclass(frozen=True)
class SpoolConfig:
    """Name of a destination, and its folders and bytes on disk."""

    name: str
    folders: layout.SpoolLayout
    max_bytes: int


class Destination:
    """Path of calls to one receiver."""

    def __init__(
        self,
        receiver: SpanReceiver,
        breaker: CircuitBreaker,
        builder: UnitBuilder,
        config: SpoolConfig,
        accepts: Callable[[records.SpoolRecord], bool],
    ) -> None:
        """*accepts* selects the calls of this destination."""
        self.name, folders, self.max_bytes = config.name, config.folders, config.max_bytes
        self.counters = counters = builder.counters
        self.accepts = accepts
        self.breaker = breaker
        size = layout.segment_bytes(self.max_bytes)
        sender = Sender(receiver, breaker, counters, name=self.name)
        self.spool = Spool(folders.waiting, segment_bytes=size)
        self.dead_letters = DeadLetterQueue(
            Segments(folders.dead, segment_bytes=size), layout.dead_letter_bytes(self.max_bytes), counters
        )
        bounds = RetryBounds(layout.retry_bytes(self.max_bytes), layout.rollout_retry_bytes(self.max_bytes))
        self.retry_queue = RetryQueue(
            Segments(folders.retry, segment_bytes=size), self.dead_letters, sender, builder.build, bounds
        )
        self.worker = DeliveryWorker(self.spool, sender, self.retry_queue, builder, counters)
        self._refusal_reason = ""

    @property
    def used_bytes(self) -> int:
        """Bytes on disk, of all calls."""
        return self.spool.size + self.retry_queue.segments.size + self.dead_letters.segments.size

    @property
    def drained(self) -> bool:
        """True if there is nothing that could be delivered now."""
        return self.worker.idle and self.retry_queue.idle

    def start(self) -> None:
        """Resume with the records of an earlier process."""
        self.dead_letters.load()
        self.retry_queue.load()
        self.worker.wake()

    def runs(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """Return the endless tasks."""
        return self.worker.run(), self.worker.save_cursor_periodically(), self.retry_queue.run()

    async def persist(self, payloads: Sequence[bytes]) -> list[str]:
        """Write records to disk; return for each the reason why it was refused, empty if it is durable."""
        if sum(map(len, payloads)) > self.max_bytes - self.used_bytes:
            await self.worker.save_cursor()  # gives back the room of what is delivered since the last time
        room = self.max_bytes - self.used_bytes
        fit = size = 0
        for payload in payloads:
            size += len(payload)
            if size > room:
                break
            fit += 1
        reasons = [""] * fit + [SPOOL_FULL] * (len(payloads) - fit)
        if fit:
            try:
                await self._append(payloads[:fit])
            except OSError as exc:
                reasons[:fit] = [f"disk: {exc.strerror or exc}"] * fit
            else:
                self.counters.durable += fit
                self.worker.wake()
        self._record_refusals(reasons)
        return reasons

    async def _append(self, payloads: Sequence[bytes]) -> None:
        """Append records; on a full disk first reclaim the room of delivered ones. Raise OSError."""
        try:
            await asyncio.to_thread(self.spool.append, payloads)
        except OSError:
            used = self.used_bytes
            await self.worker.save_cursor(scarce=True)
            if self.used_bytes >= used:
                raise
            await asyncio.to_thread(self.spool.append, payloads)

    async def stop(self) -> None:
        """Save the cursor; what is in delivery stays in the spool."""
        await self.worker.save_cursor()
        self.spool.close()

    def log_undelivered(self) -> int:
        """Log the final state; return the number of undelivered calls."""
        counters = self.counters
        waiting = self.spool.unsettled + self.spool.unread()
        totals = {
            "destination": self.name,
            "durable": counters.durable,
            "delivered": counters.delivered,
            "refused": sum(counters.refused.values()),
        }
        undelivered = self.retry_queue.calls + waiting
        if undelivered or self.spool.unread_bytes:
            rest = {
                "retrying": self.retry_queue.calls,
                "waiting_bytes": self.spool.unread_bytes,
                "waiting": waiting,
                "reason": f"the {self.name} did not take them in time",
            }
            log.error("spool_not_empty", extra={**totals, **rest})
        else:
            log.info("spool_empty", extra=totals)
        return undelivered

    def gauges(self) -> dict[str, tuple[str, float]]:
        """Return the current values of the gauges, by name with their help texts."""
        return {
            "spool_bytes": ("Bytes on disk, of all calls", self.used_bytes),
            "spool_limit_bytes": ("Bytes that may be on disk", self.max_bytes),
            "waiting_bytes": ("Bytes of calls that wait for their first delivery", self.spool.unread_bytes),
            "in_delivery": ("Calls that are being delivered", self.spool.unsettled),
            "oldest_undelivered_seconds": ("Age of the oldest call in delivery", self.worker.oldest_s),
            "retry_calls": ("Calls in the retry queue", self.retry_queue.calls),
            "dead_letter_bytes": ("Bytes of dead letters", self.dead_letters.segments.size),
            "up": ("1 if the last request succeeded", float(self.breaker.healthy)),
        }

    def failure(self) -> tuple[str, str] | None:
        """Return reason and advice of the last failure, None while requests succeed."""
        return self.breaker.failure

    def _record_refusals(self, reasons: list[str]) -> None:
        """Count refused calls, and log the first of each series."""
        for reason in filter(None, reasons):
            self.counters.refused[reason] += 1
        first = next(filter(None, reasons), "")
        if first and first != self._refusal_reason:
            calls = sum(reason == first for reason in reasons)
            extra = {"reason": first, "calls": calls, "destination": self.name, "spool_bytes": self.used_bytes}
            log.error("calls_refused", extra=extra)
        self._refusal_reason = first
