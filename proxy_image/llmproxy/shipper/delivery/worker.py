"""Delivery worker: takes records from the spool in order, builds their spans and sends them.

A few batches are in delivery at a time: a quick store gets each call at once, for a slow one calls gather into batches.
Refused calls go to the retry queue. Only the records in delivery are in memory.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from llmproxy.shipper.delivery.batches import MAX_BATCH_BYTES, MAX_BATCH_CALLS, DeliveryUnit, by_group
from llmproxy.shipper.delivery.builders import PlacedRecord, UnitBuilder, build_as_ready
from llmproxy.shipper.delivery.retry_queue import RetryQueue
from llmproxy.shipper.delivery.sender import RefusedUnit, Sender
from llmproxy.shipper.metrics import ShipperCounters
from llmproxy.shipper.spool import records
from llmproxy.shipper.spool.segments import Place
from llmproxy.shipper.spool.spool import Spool

log = logging.getLogger("llmproxy.shipper")

MAX_BATCHES = 4
"""Batches in delivery at the same time."""
CURSOR_SAVE_S = 0.25
"""Interval of cursor writes; a crash repeats the deliveries since the last one."""
DISK_RETRY_S = 1.0
YIELD_BYTES = 256 << 10
"""Encoded bytes between two turns of the event loop: other connections are served in between."""


class DeliveryWorker:
    """Task that empties the spool."""

    def __init__(
        self,
        spool: Spool,
        sender: Sender,
        retry_queue: RetryQueue,
        builder: UnitBuilder,
        counters: ShipperCounters,
    ) -> None:
        self._spool = spool
        self._sender = sender
        self._retry_queue = retry_queue
        self._builder = builder
        self._counters = counters
        self._slots = asyncio.Semaphore(MAX_BATCHES)
        self._saving = asyncio.Lock()
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_delivery: dict[Place, int] = {}
        """End of each call in delivery, in Unix nanoseconds."""
        self.on_stored: Callable[[list[records.SpoolRecord]], None] = lambda _: None
        self.on_retry: Callable[[list[records.SpoolRecord]], None] = lambda _: None

    @property
    def idle(self) -> bool:
        """True if no record waits for its first delivery."""
        return not self._spool.unsettled and not self._spool.unread_bytes

    @property
    def oldest_s(self) -> float:
        """Age of the oldest call in delivery, since its end; 0 without any."""
        oldest_ns = min(self._in_delivery.values(), default=0)
        return max(0.0, (time.time_ns() - oldest_ns) / 1e9) if oldest_ns else 0.0

    def wake(self) -> None:
        """Look for new records in the spool."""
        self._wake.set()

    async def run(self) -> None:
        """Deliver, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await self._slots.acquire()
            task = loop.create_task(self._deliver(await self._next()))
            self._tasks.add(task)
            task.add_done_callback(self._on_task_end)

    async def save_cursor_periodically(self) -> None:
        """Save the cursor every CURSOR_SAVE_S, for ever."""
        while True:
            await asyncio.sleep(CURSOR_SAVE_S)
            await self.save_cursor()

    async def save_cursor(self, *, scarce: bool = False) -> None:
        """Save the cursor if it has moved; a failed write costs repeats, not calls."""
        async with self._saving:
            self._spool.rotate(scarce=scarce)
            cursor = self._spool.cursor
            if cursor != self._spool.saved:
                try:
                    await asyncio.to_thread(self._spool.save, cursor)
                except OSError as exc:
                    log.error("cursor_write_failed", extra={"reason": exc.strerror or str(exc)})  # noqa: TRY400

    def cancel(self) -> None:
        """Cancel the batches in delivery; their records stay in the spool."""
        for task in self._tasks:
            task.cancel()

    def _on_task_end(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._slots.release()
        if not task.cancelled() and task.exception() is not None:
            # Its records stay unsettled in the spool: the next process sends them.
            log.critical("delivery_failed", exc_info=task.exception())

    async def _next(self) -> list[tuple[Place, bytes]]:
        while True:
            self._wake.clear()
            try:
                entries = self._spool.take(MAX_BATCH_CALLS, MAX_BATCH_BYTES)
            except OSError as exc:
                log.error("spool_read_failed", extra={"reason": exc.strerror or str(exc)})  # noqa: TRY400 - no trace
                await asyncio.sleep(DISK_RETRY_S)
                continue
            self._counters.damaged_bytes += self._spool.segments.report_damages()
            if entries:
                return entries
            await self._wake.wait()

    async def _deliver(self, entries: list[tuple[Place, bytes]]) -> None:
        ready: list[DeliveryUnit] = []
        late: list[PlacedRecord] = []
        size = 0
        for place, payload in entries:
            record = self._decode(place, payload)
            if record is None:
                continue
            self._in_delivery[place] = record.call.ended_ns
            unit = self._builder.build_now(place, record)
            if unit is None:
                late.append((place, record))
                continue
            ready.append(unit)
            size += len(payload)
            if size >= YIELD_BYTES:
                size = 0
                await asyncio.sleep(0)
        await self._send(ready)
        if late:
            async with contextlib.aclosing(build_as_ready(self._builder, late)) as parts:
                async for units in parts:
                    await self._send(units)

    def _decode(self, place: Place, payload: bytes) -> records.SpoolRecord | None:
        try:
            return records.decode(payload)
        except records.DecodeError:
            self._counters.damaged_bytes += place.length
            log.error("record_not_decoded", extra={"segment": place.segment, "offset": place.offset})  # noqa: TRY400
            self._spool.settle(place)
            return None

    async def _send(self, units: list[DeliveryUnit]) -> None:
        """Send *units*; those of a group in the retry queue on their own, since they are likely to be refused."""
        suspects = [unit for unit in units if unit.record.group in self._retry_queue]
        batches = [[unit for unit in units if unit.record.group not in self._retry_queue], *by_group(suspects)]
        for batch in batches:
            if batch:
                await self._queue_for_retry(await self._sender.send(batch, self._on_stored))

    def _on_stored(self, units: list[DeliveryUnit]) -> None:
        self._counters.delivered += len(units)
        self._settle(units)
        self.on_stored([unit.record for unit in units])

    async def _queue_for_retry(self, refusals: list[RefusedUnit]) -> None:
        while refusals:
            try:
                self._retry_queue.add(refusals)
            except OSError as exc:
                log.error("retry_queue_write_failed", extra={"reason": exc.strerror or str(exc)})  # noqa: TRY400
                await asyncio.sleep(DISK_RETRY_S)
            else:
                break
        self._settle([refusal.unit for refusal in refusals])
        self.on_retry([refusal.unit.record for refusal in refusals])

    def _settle(self, units: list[DeliveryUnit]) -> None:
        for unit in units:
            self._spool.settle(unit.place)
            self._in_delivery.pop(unit.place, None)
