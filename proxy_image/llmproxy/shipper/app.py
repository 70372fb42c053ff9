"""Shipper process: its parts, its tasks and its shutdown."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmproxy import contract
from llmproxy.shipper.admin import SOCKET as ADMIN_SOCKET
from llmproxy.shipper.admin import Admin
from llmproxy.shipper.delivery.builders import OtlpBuilder, StoreBuilder
from llmproxy.shipper.delivery.circuit_breaker import CircuitBreaker
from llmproxy.shipper.delivery.destination import Destination, SpoolConfig
from llmproxy.shipper.delivery.journal import Journal
from llmproxy.shipper.delivery.lightning_store import LightningStore
from llmproxy.shipper.delivery.otlp_collector import OtlpCollector
from llmproxy.shipper.delivery.registration import Registration
from llmproxy.shipper.delivery.sequencer import Sequencer
from llmproxy.shipper.intake import server
from llmproxy.shipper.intake.server import Intake
from llmproxy.shipper.metrics import DESTINATION, INTAKE, ShipperCounters, ShipperExporter
from llmproxy.shipper.spans.agent_lightning import AgentLightningEncoder
from llmproxy.shipper.spans.otel_genai import GenAiEncoder
from llmproxy.shipper.spool import layout, records

log = logging.getLogger("llmproxy.shipper")

POLL_S = 0.02


class Shipper:
    """One shipper; `serve` runs it to its end."""

    def __init__(
        self, document: contract.Document, spans: contract.Spans, spool_dir: Path, headers: Mapping[str, str]
    ) -> None:
        """*headers* are sent to the collector, by name."""
        folders = layout.SpoolLayout(spool_dir)
        self.counters = counters = ShipperCounters()
        self._store = LightningStore(spans.store) if spans.store is not None else None
        self._collector: OtlpCollector | None = None
        self._journal = Journal(folders.journal)
        counters.journal_damaged_bytes = self._journal.damaged_bytes
        self._sequencer = Sequencer(self._store, self._journal, counters)
        identity: dict[str, Any] = {
            "name": document.proxy.name,
            "namespace": document.proxy.namespace,
            "content": spans.content,
        }
        share = spans.spool_bytes // ((spans.store is not None) + (spans.otlp is not None))
        self._destinations: list[Destination] = []
        self._extra_runs: list[Coroutine[Any, Any, Any]] = []
        if self._store is not None:
            with_token_ids = [d.id for model in document.models for d in model.deployments if d.token_ids]
            encoder = AgentLightningEncoder(**identity, token_id_deployments=with_token_ids)
            encoder.on_missing_token_ids = self._count_missing_token_ids
            self._destinations.append(self._to_store(self._store, encoder, folders, share))
            if spans.resource is not None:
                registration = Registration(self._store, spans.resource, document.models, folders.registration_marker)
                self._extra_runs.append(registration.run())
        if spans.otlp is not None:
            otlp_counters = ShipperCounters()
            self._collector = OtlpCollector(spans.otlp.endpoint, headers, otlp_counters)
            self._destinations.append(
                _to_collector(self._collector, GenAiEncoder(**identity), folders.otlp, share, otlp_counters)
            )
        self._intake = Intake(self._destinations, self._sequencer, self._journal, counters)
        common = ShipperExporter(
            counters, INTAKE, lambda: {"in_flight_calls": ("Calls that have not ended", self._journal.in_flight)}
        )
        each = [
            ShipperExporter(
                destination.counters,
                DESTINATION,
                destination.gauges,
                name=destination.name,
                failure=destination.failure,
            )
            for destination in self._destinations
        ]
        self._admin = Admin([common, *each])

    async def serve(self, run_dir: Path, end: asyncio.Event, flush_s: float) -> int:
        """Take and deliver calls until *end*, drain for at most *flush_s*; return the number of undelivered calls."""
        async with contextlib.AsyncExitStack() as stack:
            for target in (self._store, self._collector):
                if target is not None:
                    await stack.enter_async_context(target)
            for destination in self._destinations:
                destination.start()
            await self._admin.listen(run_dir / ADMIN_SOCKET)
            await self._intake.listen(run_dir / server.SOCKET)
            runs = [
                self._intake.run(),
                *self._extra_runs,
                *(run for destination in self._destinations for run in destination.runs()),
            ]
            tasks = [asyncio.ensure_future(run) for run in runs]
            spooled = sum(destination.spool.size for destination in self._destinations)
            retrying = sum(destination.retry_queue.calls for destination in self._destinations)
            log.info("shipper_ready", extra={"spool_bytes": spooled, "retrying": retrying})
            ending = asyncio.ensure_future(end.wait())
            await asyncio.wait([ending, *tasks], return_when=asyncio.FIRST_COMPLETED)
            try:
                if ending.done():
                    await self._flush(flush_s)
            finally:
                await self._stop([ending, *tasks], run_dir)
        return sum([destination.log_undelivered() for destination in self._destinations])

    async def _flush(self, flush_s: float) -> None:
        """Deliver the rest, while gateways may still send their last calls."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + flush_s
        for destination in self._destinations:
            destination.retry_queue.retry_now()
        abandoned = False
        while loop.time() < deadline_s:
            if not self._intake.connected:
                if not abandoned:
                    abandoned = True
                    self._intake.abandon()
                elif self._intake.drained and all(destination.drained for destination in self._destinations):
                    return
            await asyncio.sleep(POLL_S)

    async def _stop(self, tasks: "Sequence[asyncio.Future[Any]]", run_dir: Path) -> None:
        self._intake.close()
        for destination in self._destinations:
            destination.worker.cancel()
        self._sequencer.close()
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for destination in self._destinations:
            await destination.stop()
        self._journal.close()
        await self._admin.close()
        for name in (server.SOCKET, ADMIN_SOCKET):
            (run_dir / name).unlink(missing_ok=True)

    def _to_store(
        self, store: LightningStore, encoder: AgentLightningEncoder, folders: layout.SpoolLayout, max_bytes: int
    ) -> Destination:
        """Return the destination for the store: gateways are acknowledged, and sequence ids are needed."""
        breaker = CircuitBreaker()
        builder = StoreBuilder(self._sequencer, breaker, encoder, self.counters)
        config = SpoolConfig("store", folders, max_bytes)
        destination = Destination(store, breaker, builder, config, accepts=lambda record: bool(record.call.rollout_id))
        destination.worker.on_stored = destination.retry_queue.on_stored = self._on_stored
        destination.worker.on_retry = self._sequencer.on_delivered
        return destination

    def _count_missing_token_ids(self) -> None:
        self.counters.token_ids_missing += 1

    def _on_stored(self, stored: list[records.SpoolRecord]) -> None:
        self._intake.acknowledge_stored(stored)
        self._sequencer.on_delivered(stored)


def _to_collector(
    collector: OtlpCollector,
    encoder: GenAiEncoder,
    folders: layout.SpoolLayout,
    max_bytes: int,
    counters: ShipperCounters,
) -> Destination:
    """Return the destination for a collector: it gets every call, and no caller waits for it."""
    config = SpoolConfig("otlp", folders, max_bytes)
    return Destination(
        collector, CircuitBreaker(name="otlp"), OtlpBuilder(encoder, counters), config, accepts=lambda _: True
    )
