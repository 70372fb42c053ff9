"""The shipper as a whole: its parts put together, its tasks, and its end."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmproxy import contract
from llmproxy.shipper.admin import SOCKET as ADMIN_SOCKET
from llmproxy.shipper.admin import Admin
from llmproxy.shipper.delivery.builders import PlainMaker, UnitMaker
from llmproxy.shipper.delivery.circuit_breaker import Gate
from llmproxy.shipper.delivery.destination import Destination, Home
from llmproxy.shipper.delivery.journal import Journal
from llmproxy.shipper.delivery.lightning_store import Store
from llmproxy.shipper.delivery.otlp_collector import Collector
from llmproxy.shipper.delivery.registration import Registration
from llmproxy.shipper.delivery.sequencer import Sequencer
from llmproxy.shipper.intake import server
from llmproxy.shipper.intake.server import Intake
from llmproxy.shipper.metrics import DESTINATION, INTAKE, Counts, Exporter
from llmproxy.shipper.spans.agent_lightning import Encoder
from llmproxy.shipper.spans.otel_genai import GenAiEncoder
from llmproxy.shipper.spool import layout, records

log = logging.getLogger("llmproxy.shipper")

POLL_S = 0.02


class Shipper:
    """One shipper. `serve` is its whole life."""

    def __init__(
        self, document: contract.Document, spans: contract.Spans, spool_dir: Path, headers: Mapping[str, str]
    ) -> None:
        """*headers* are those of requests to a collector, by name."""
        where = layout.Folders(spool_dir)
        self.counts = counts = Counts()
        self._store = Store(spans.store) if spans.store is not None else None
        self._collector: Collector | None = None
        self._journal = Journal(where.journal)
        self._sequencer = Sequencer(self._store, self._journal, counts)
        who: dict[str, Any] = {
            "name": document.proxy.name,
            "namespace": document.proxy.namespace,
            "content": spans.content,
        }
        share = spans.spool_bytes // ((spans.store is not None) + (spans.otlp is not None))
        self._destinations: list[Destination] = []
        self._more: list[Coroutine[Any, Any, Any]] = []
        if self._store is not None:
            self._destinations.append(self._to_store(self._store, Encoder(**who), where, share))
            if spans.resource is not None:
                looks = Registration(self._store, spans.resource, document.models, where.registered)
                self._more.append(looks.run())
        if spans.otlp is not None:
            told = Counts()
            self._collector = Collector(spans.otlp.endpoint, headers, told)
            self._destinations.append(_to_collector(self._collector, GenAiEncoder(**who), where.otlp, share, told))
        self._intake = Intake(self._destinations, self._sequencer, self._journal, counts)
        begun = "Calls that have begun and not ended"
        common = Exporter(counts, INTAKE, lambda: {"begun_calls": (begun, self._journal.open_calls)})
        each = [Exporter(there.counts, DESTINATION, there.gauges, name=there.name) for there in self._destinations]
        self._admin = Admin([common, *each])

    async def serve(self, run_dir: Path, end: asyncio.Event, flush_s: float) -> int:
        """Take and deliver calls until *end*, then empty the spool for at most *flush_s*; return what is left."""
        async with contextlib.AsyncExitStack() as stack:
            for target in (self._store, self._collector):
                if target is not None:
                    await stack.enter_async_context(target)
            for there in self._destinations:
                there.start()
            await self._admin.listen(run_dir / ADMIN_SOCKET)
            await self._intake.listen(run_dir / server.SOCKET)
            runs = [self._intake.run(), *self._more, *(run for there in self._destinations for run in there.runs())]
            tasks = [asyncio.ensure_future(run) for run in runs]
            spooled = sum(there.spool.size for there in self._destinations)
            parked = sum(there.parked.calls for there in self._destinations)
            log.info("shipper_ready", extra={"spool_bytes": spooled, "parked": parked})
            ending = asyncio.ensure_future(end.wait())
            await asyncio.wait([ending, *tasks], return_when=asyncio.FIRST_COMPLETED)
            try:
                if ending.done():
                    await self._flush(flush_s)
            finally:
                await self._stop([ending, *tasks], run_dir)
        return sum([there.say_what_is_left() for there in self._destinations])

    async def _flush(self, flush_s: float) -> None:
        """Deliver what there is, while gateways may still hand over their last calls."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + flush_s
        for there in self._destinations:
            there.parked.hurry()
        abandoned = False
        while loop.time() < deadline_s:
            if not self._intake.connected:
                if not abandoned:
                    abandoned = True
                    self._intake.abandon()
                elif self._intake.settled and all(there.done for there in self._destinations):
                    return
            await asyncio.sleep(POLL_S)

    async def _stop(self, tasks: "Sequence[asyncio.Future[Any]]", run_dir: Path) -> None:
        self._intake.close()
        for there in self._destinations:
            there.delivery.cancel()
        self._sequencer.close()
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for there in self._destinations:
            await there.stop()
        self._journal.close()
        await self._admin.close()
        for name in (server.SOCKET, ADMIN_SOCKET):
            (run_dir / name).unlink(missing_ok=True)

    def _to_store(self, store: Store, encoder: Encoder, where: layout.Folders, max_bytes: int) -> Destination:
        """Return the way to the store: what comes of a call there is told to gateways, and its ids are needed."""
        gate = Gate()
        maker = UnitMaker(self._sequencer, gate, encoder, self.counts)
        home = Home("store", where, max_bytes)
        made = Destination(store, gate, maker, home, takes=lambda record: bool(record.call.rollout_id))
        made.delivery.on_stored = made.parked.on_stored = self._stored
        made.delivery.on_parked = self._sequencer.delivered
        return made

    def _stored(self, stored: list[records.Record]) -> None:
        self._intake.stored(stored)
        self._sequencer.delivered(stored)


def _to_collector(
    collector: Collector, encoder: GenAiEncoder, where: layout.Folders, max_bytes: int, counts: Counts
) -> Destination:
    """Return the way to a collector: it gets every call, and nobody waits for it."""
    home = Home("otlp", where, max_bytes)
    return Destination(collector, Gate(name="otlp"), PlainMaker(encoder, counts), home, takes=lambda _: True)
