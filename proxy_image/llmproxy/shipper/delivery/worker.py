"""Takes calls from the spool in order, makes spans of them and sends them; what is refused goes to the parked.

A few batches are under way at a time: while the store is quick each call goes at once, while it is slow they gather.
Only what is under way is in memory.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from llmproxy.shipper.delivery.batches import MAX_BATCH_BYTES, MAX_BATCH_CALLS, Unit, by_group
from llmproxy.shipper.delivery.builders import Maker, Placed, as_made
from llmproxy.shipper.delivery.retry_queue import Parked
from llmproxy.shipper.delivery.sender import Refusal, Sender
from llmproxy.shipper.metrics import Counts
from llmproxy.shipper.spool import records
from llmproxy.shipper.spool.segments import Place
from llmproxy.shipper.spool.spool import Spool

log = logging.getLogger("llmproxy.shipper")

SLOTS = 4
SAVE_S = 0.25
"""Between two savings of the cursor; what a crash repeats is what was delivered since."""
DISK_RETRY_S = 1.0
QUIET_BYTES = 256 << 10
"""Encoded between two turns of the loop: other connections are served in between."""


class Delivery:
    """The task that empties the spool."""

    def __init__(self, spool: Spool, sender: Sender, parked: Parked, maker: Maker, counts: Counts) -> None:
        self._spool = spool
        self._sender = sender
        self._parked = parked
        self._maker = maker
        self._counts = counts
        self._slots = asyncio.Semaphore(SLOTS)
        self._saving = asyncio.Lock()
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way: dict[Place, int] = {}
        """When each of these calls ended."""
        self.on_stored: Callable[[list[records.Record]], None] = lambda _: None
        self.on_parked: Callable[[list[records.Record]], None] = lambda _: None

    @property
    def idle(self) -> bool:
        """Whether nothing waits for its first delivery."""
        return not self._spool.taken and not self._spool.unread_bytes

    @property
    def oldest_s(self) -> float:
        """Seconds since the end of the oldest call that is not delivered; 0 without any."""
        oldest_ns = min(self._under_way.values(), default=0)
        return max(0.0, (time.time_ns() - oldest_ns) / 1e9) if oldest_ns else 0.0

    def wake(self) -> None:
        """Note that there is something new in the spool."""
        self._wake.set()

    async def run(self) -> None:
        """Deliver, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await self._slots.acquire()
            task = loop.create_task(self._deliver(await self._next()))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    async def keep_cursor(self) -> None:
        """Save the cursor now and then, for ever."""
        while True:
            await asyncio.sleep(SAVE_S)
            await self.save()

    async def save(self, *, scarce: bool = False) -> None:
        """Save the cursor if it has moved; a disk that does not take it costs repeats, not calls."""
        async with self._saving:
            self._spool.retire(scarce=scarce)
            cursor = self._spool.cursor
            if cursor != self._spool.saved:
                try:
                    await asyncio.to_thread(self._spool.save, cursor)
                except OSError as exc:
                    log.error("cursor_not_saved", extra={"reason": exc.strerror or str(exc)})  # noqa: TRY400

    def cancel(self) -> None:
        """Stop what is under way; it stays in the spool."""
        for task in self._tasks:
            task.cancel()

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._slots.release()
        if not task.cancelled() and task.exception() is not None:
            # Its records stay taken and unsettled: the next process sends them.
            log.critical("delivery_failed", exc_info=task.exception())

    async def _next(self) -> list[tuple[Place, bytes]]:
        while True:
            self._wake.clear()
            try:
                taken = self._spool.take(MAX_BATCH_CALLS, MAX_BATCH_BYTES)
            except OSError as exc:
                log.error("spool_not_read", extra={"reason": exc.strerror or str(exc)})  # noqa: TRY400 - says it all
                await asyncio.sleep(DISK_RETRY_S)
                continue
            self._count_damage()
            if taken:
                return taken
            await self._wake.wait()

    def _count_damage(self) -> None:
        while self._spool.segments.damages:
            damage = self._spool.segments.damages.pop()
            self._counts.damaged_bytes += damage.bytes
            log.error("segment_damaged", extra=damage._asdict())

    async def _deliver(self, taken: list[tuple[Place, bytes]]) -> None:
        ready: list[Unit] = []
        late: list[Placed] = []
        size = 0
        for place, payload in taken:
            record = self._record(place, payload)
            if record is None:
                continue
            self._under_way[place] = record.call.ended_ns
            unit = self._maker.make_now(place, record)
            if unit is None:
                late.append((place, record))
                continue
            ready.append(unit)
            size += len(payload)
            if size >= QUIET_BYTES:
                size = 0
                await asyncio.sleep(0)
        await self._send(ready)
        if late:
            async with contextlib.aclosing(as_made(self._maker, late)) as parts:
                async for units in parts:
                    await self._send(units)

    def _record(self, place: Place, payload: bytes) -> records.Record | None:
        try:
            return records.decode(payload)
        except records.DecodeError:
            self._counts.damaged_bytes += place.length
            log.error("record_not_understood", extra={"segment": place.segment, "offset": place.offset})  # noqa: TRY400
            self._spool.settle(place)
            return None

    async def _send(self, units: list[Unit]) -> None:
        suspects = [unit for unit in units if unit.record.group in self._parked]
        batches = [[unit for unit in units if unit.record.group not in self._parked], *by_group(suspects)]
        for batch in batches:
            if batch:
                await self._park(await self._sender.send(batch, self._stored))

    def _stored(self, units: list[Unit]) -> None:
        self._counts.delivered += len(units)
        self._settle(units)
        self.on_stored([unit.record for unit in units])

    async def _park(self, refusals: list[Refusal]) -> None:
        while refusals:
            try:
                self._parked.add(refusals)
            except OSError as exc:
                log.error("calls_not_parked", extra={"reason": exc.strerror or str(exc)})  # noqa: TRY400 - says it all
                await asyncio.sleep(DISK_RETRY_S)
            else:
                break
        self._settle([refusal.unit for refusal in refusals])
        self.on_parked([refusal.unit.record for refusal in refusals])

    def _settle(self, units: list[Unit]) -> None:
        for unit in units:
            self._spool.settle(unit.place)
            self._under_way.pop(unit.place, None)
