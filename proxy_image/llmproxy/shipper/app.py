"""The shipper as a whole: its parts put together, its tasks, and its end."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmproxy import contract
from llmproxy.shipper import folders, intake, records
from llmproxy.shipper.admin import SOCKET as ADMIN_SOCKET
from llmproxy.shipper.admin import Admin
from llmproxy.shipper.counts import Counts
from llmproxy.shipper.delivery import Delivery, UnitMaker
from llmproxy.shipper.gate import Gate
from llmproxy.shipper.intake import Intake
from llmproxy.shipper.journal import Journal
from llmproxy.shipper.parked import Letters, Parked
from llmproxy.shipper.segments import Segments
from llmproxy.shipper.sender import Sender
from llmproxy.shipper.sequence import Sequencer
from llmproxy.shipper.spans import Encoder
from llmproxy.shipper.spool import Spool
from llmproxy.shipper.store import Store

log = logging.getLogger("llmproxy.shipper")

POLL_S = 0.02


class Shipper:
    """One shipper. `serve` is its whole life."""

    def __init__(self, document: contract.Document, spans: contract.Spans, spool_dir: Path) -> None:
        where = folders.Folders(spool_dir)
        size = folders.segment_bytes(spans.spool_bytes)
        self._spool_bytes = spans.spool_bytes
        self.counts = counts = Counts()
        self._store = Store(spans.store)
        gate = Gate()
        sender = Sender(self._store, gate, counts)
        self._spool = Spool(where.waiting, segment_bytes=size)
        self._journal = Journal(where.journal)
        self._letters = Letters(
            Segments(where.dead, segment_bytes=size), folders.letters_bytes(spans.spool_bytes), counts
        )
        self._sequencer = Sequencer(self._store, self._journal, counts)
        encoder = Encoder(name=document.proxy.name, namespace=document.proxy.namespace, content=spans.content)
        maker = UnitMaker(self._sequencer, gate, encoder, counts)
        self._parked = Parked(Segments(where.parked, segment_bytes=size), self._letters, sender, maker.make, counts)
        self._delivery = Delivery(self._spool, sender, self._parked, maker, counts)
        self._intake = Intake(self._spool, self._room, self._sequencer, self._journal, counts)
        self._intake.on_durable = self._delivery.wake
        self._delivery.on_stored = self._parked.on_stored = self._stored
        self._delivery.on_parked = self._sequencer.delivered
        self._gate = gate
        self._admin = Admin(counts, self._gauges)

    async def serve(self, run_dir: Path, end: asyncio.Event, flush_s: float) -> int:
        """Take and deliver calls until *end*, then empty the spool for at most *flush_s*; return what is left."""
        async with self._store:
            self._parked.load()
            await self._admin.listen(run_dir / ADMIN_SOCKET)
            await self._intake.listen(run_dir / intake.SOCKET)
            self._delivery.wake()
            runs = (self._intake.run(), self._delivery.run(), self._delivery.keep_cursor(), self._parked.run())
            tasks = [asyncio.ensure_future(run) for run in runs]
            log.info("shipper_ready", extra={"spool_bytes": self._spool.size, "parked": self._parked.calls})
            ending = asyncio.ensure_future(end.wait())
            await asyncio.wait([ending, *tasks], return_when=asyncio.FIRST_COMPLETED)
            try:
                if ending.done():
                    await self._flush(flush_s)
            finally:
                await self._stop([ending, *tasks], run_dir)
        return self._say_what_is_left()

    async def _flush(self, flush_s: float) -> None:
        """Deliver what there is, while gateways may still hand over their last calls."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + flush_s
        self._parked.hurry()
        abandoned = False
        while loop.time() < deadline_s:
            if not self._intake.connected:
                if not abandoned:
                    abandoned = True
                    self._intake.abandon()
                elif self._intake.settled and self._delivery.idle and self._parked.tried:
                    return
            await asyncio.sleep(POLL_S)

    async def _stop(self, tasks: "Sequence[asyncio.Future[Any]]", run_dir: Path) -> None:
        self._intake.close()
        self._delivery.cancel()
        self._sequencer.close()
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._delivery.save()
        self._spool.close()
        self._journal.close()
        await self._admin.close()
        for name in (intake.SOCKET, ADMIN_SOCKET):
            (run_dir / name).unlink(missing_ok=True)

    def _say_what_is_left(self) -> int:
        counts = self.counts
        left = {"parked": self._parked.calls, "waiting_bytes": self._spool.unread_bytes, "waiting": self._spool.taken}
        done = {"durable": counts.durable, "delivered": counts.delivered, "refused": sum(counts.refused.values())}
        calls_left = self._parked.calls + self._spool.taken
        if calls_left or self._spool.unread_bytes:
            log.error("spool_not_empty", extra={**left, **done, "reason": "the store did not take them in time"})
        else:
            log.info("spool_empty", extra=done)
        return calls_left

    def _stored(self, stored: list[records.Record]) -> None:
        self._intake.stored(stored)
        self._sequencer.delivered(stored)

    def _room(self) -> int:
        """Return how many bytes the spool may still take."""
        used = self._spool.size + self._parked.segments.size + self._letters.segments.size
        return self._spool_bytes - used

    def _gauges(self) -> dict[str, tuple[str, float]]:
        return {
            "spool_bytes": ("Bytes on disk, of all calls", self._spool_bytes - self._room()),
            "spool_limit_bytes": ("Bytes that may be on disk", self._spool_bytes),
            "waiting_bytes": ("Bytes of calls that wait and are not under way", self._spool.unread_bytes),
            "under_way": ("Calls that are being delivered", self._spool.taken),
            "oldest_seconds": ("Age of the oldest call that is not delivered", self._delivery.oldest_s),
            "parked_calls": ("Calls that the store refuses", self._parked.calls),
            "dead_letter_bytes": ("Bytes of calls that were given up", self._letters.segments.size),
            "begun_calls": ("Calls that have begun and not ended", self._journal.open_calls),
            "store_up": ("Whether the last request to the store worked", float(self._gate.healthy)),
        }
