"""Process of one gateway: builds its parts, starts them in order, drains them.

Start: admin port, the translator if a model needs it, counters, then the data port; ready only after that. Counters
come from the snapshot and the leading pod, or from the store of shared limits, which may be absent.
End (SIGTERM, which Kubernetes sends after preStop): not ready, no new connections, `connection: close` in responses.
Calls in flight go on up to drainTimeout. Counters and records are handed over, then the process exits.
"""

import asyncio
import contextlib
import gc
import logging
import random
import resource
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from prometheus_client.registry import Collector

from llmproxy.contract import ContractError, Document, Model
from llmproxy.gateway.adapters.registry import serving
from llmproxy.gateway.admin.api import Readiness, admin_app
from llmproxy.gateway.admin.collectors import (
    LimitsCollector,
    LoopLagCollector,
    MemoryCollector,
    PauseCollector,
    ShipperCollector,
    UpstreamCollector,
)
from llmproxy.gateway.admin.control_api import TokenAuth, control_app
from llmproxy.gateway.admin.server import BACKLOG, AppServer
from llmproxy.gateway.api_keys import ApiKeys
from llmproxy.gateway.http import server as http_server
from llmproxy.gateway.http.exchange import ByteBudget
from llmproxy.gateway.http.routing import ENDPOINTS
from llmproxy.gateway.limits import Limiter
from llmproxy.gateway.limits.peers import election
from llmproxy.gateway.limits.snapshot import Snapshot
from llmproxy.gateway.limits.store.lease_limiter import LeaseLimiter
from llmproxy.gateway.limits.store.redis_client import channel_from_environment
from llmproxy.gateway.loop_lag import LoopLag
from llmproxy.gateway.memory import byte_budget
from llmproxy.gateway.metrics import RequestCollector, RequestStats
from llmproxy.gateway.requests.app import App
from llmproxy.gateway.requests.context import Dependencies
from llmproxy.gateway.requests.pause import Pause
from llmproxy.gateway.requests.token_bound import output_bound
from llmproxy.gateway.shipping.shipper_client import ShipperClient
from llmproxy.gateway.shipping.sidecars import shipper_metrics, wait_for_translator
from llmproxy.gateway.upstreams.balancer import Balancer
from llmproxy.gateway.upstreams.deployments import TRANSLATOR, TRANSLATOR_SOCKET, Pools, make_upstream
from llmproxy.gateway.upstreams.model_index import ModelIndex

SHIPPER_SOCKET = "shipper.sock"
SNAPSHOT = "limits.snapshot"
LINGER_S = 1.0
"""Idle connections stay open so long while draining: a request in transit on one is answered."""
HANDOVER_S = 5.0
"""Longest wait at the end for the shipper to have the last records on disk."""
ADMIN_CONNECTIONS = 32
CONTROL_CONNECTIONS = 16
OTHER_FILES = 320
"""Descriptors for the other ports with their refused connections, for peers, the store, the shipper and files."""
MAX_CONNECTIONS = 20_000
"""Of clients; a waiting stream costs about 20 KB."""
GC_OBJECTS = 20_000
"""New objects between two collections, in place of 700: an ordinary call leaves no cycles."""
log = logging.getLogger("llmproxy.gateway")


@dataclass(frozen=True)
class Settings:
    """Sockets, folders and peers of one gateway."""

    document: Document
    run_dir: Path
    listener: socket.socket
    admin_listener: socket.socket
    peer_host: str
    peer_port: int
    peer_token: str
    """Without one there are no peers."""
    peers: tuple[str, ...]
    pod: str
    control_listener: socket.socket | None = None
    control_token_file: Path | None = None
    """Without one the control port is not opened."""
    keys_dir: Path | None = None
    """API keys of clients, if the document requires one."""


class Gateway:
    """One process."""

    def __init__(self, settings: Settings) -> None:
        """Raise ContractError when the document cannot be served."""
        document = settings.document
        self._settings = settings
        self._pools = Pools()
        self._limiter = Limiter(document)
        self._budget = ByteBudget(byte_budget())
        self._balancers = {m.name: self._balancer(m) for m in document.models}
        spans = document.spans is not None
        self._shipper = ShipperClient(settings.run_dir / SHIPPER_SOCKET, self._budget) if spans else None
        self._stats = RequestStats()
        self._pause = Pause()
        self._loop_lag = LoopLag()
        self._api_keys = _api_keys(settings)
        app = App(
            Dependencies(
                document=document,
                models=ModelIndex((m.name, m.aliases or ()) for m in document.models),
                balancers=self._balancers,
                serving={
                    (name, endpoint): serving(endpoint, balancer.upstreams)
                    for name, balancer in self._balancers.items()
                    for endpoint in ENDPOINTS.values()
                },
                output_tokens={m.name: output_bound(m) for m in document.models},
                fallbacks={m.name: m.fallbacks for m in document.models if m.fallbacks},
                limiter=self._limiter,
                shipper=self._shipper,
                stats=self._stats,
                budget=self._budget,
                pause=self._pause,
                api_keys=self._api_keys,
            )
        )
        self._server = http_server.HttpServer(
            app.handle,
            app.error_body,
            max_connections=max_connections(),
            budget=self._budget,
            check_head=app.check_head,
        )
        self._admin = self._admin_server()
        self._control = self._control_server()
        self._shared = _shared(settings, self._limiter)
        self._snapshot = None if self._shared else Snapshot(self._limiter, settings.run_dir / SNAPSHOT)
        self._peers: election.Peers | None = None
        self._serving = False
        self._draining = False
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        started_s = time.monotonic()
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await self._admin.start(self._settings.admin_listener)
        self._loop_lag.start()
        tasks = await self._background_tasks()
        if self._translates:
            await wait_for_translator(self._settings.run_dir / TRANSLATOR_SOCKET, stop)
        await self._take_counters()
        await self._server.start(self._settings.listener, BACKLOG)
        self._serving = True
        gc.collect()
        gc.freeze()  # these objects stay: no collection has to walk them again
        gc.set_threshold(GC_OBJECTS, 10, 10)
        log.info("gateway_ready", extra=self._ready_fields(time.monotonic() - started_s))
        await stop.wait()
        await self._drain()
        self._loop_lag.stop()
        self._ended.set()
        if self._control is not None:
            await self._control.close()
        await self._admin.close()
        await asyncio.gather(*tasks)

    @property
    def _translates(self) -> bool:
        upstreams = (upstream for balancer in self._balancers.values() for upstream in balancer.upstreams)
        return any(upstream.host == TRANSLATOR for upstream in upstreams)

    def _admin_server(self) -> AppServer:
        sidecar_metrics = partial(shipper_metrics, self._settings.run_dir) if self._shipper is not None else None
        app = admin_app(self._readiness, self._collectors(), sidecar_metrics, self._limits)
        return AppServer(app, max_connections=ADMIN_CONNECTIONS)

    def _control_server(self) -> AppServer | None:
        settings = self._settings
        if settings.control_token_file is None or settings.control_listener is None:
            return None
        return AppServer(
            control_app(self._pause, lambda: self._stats.in_flight),
            max_connections=CONTROL_CONNECTIONS,
            check_head=TokenAuth(settings.control_token_file).check,
        )

    async def _background_tasks(self) -> list[asyncio.Task[None]]:
        """Start the tasks that go on until the end: a draining pod can still be paused, and reports calls in flight."""
        tasks = []
        if self._control is not None and self._settings.control_listener is not None:
            await self._control.start(self._settings.control_listener)
        if self._api_keys is not None:
            tasks.append(asyncio.create_task(self._api_keys.run(self._ended)))
        return tasks

    async def _take_counters(self) -> None:
        settings = self._settings
        if self._shared is not None:
            await self._shared.start()
        if self._snapshot is None:  # the store knows
            return
        self._snapshot.restore()
        if settings.peer_token:
            self._peers = await election.serve(
                self._limiter, settings.peer_host, settings.peer_port, settings.peer_token, settings.pod
            )
            await self._peers.take_over(settings.peers)
        self._snapshot.start()

    async def _drain(self) -> None:
        started_s = time.monotonic()
        self._serving = False
        self._draining = True
        log.info("drain_started", extra={"in_flight": self._stats.in_flight})
        await self._server.drain(LINGER_S, self._settings.document.drain_timeout_s)
        if self._shared is not None:
            await self._shared.close()
        if self._snapshot is not None:
            await self._snapshot.stop()
        if self._peers is not None:
            await self._peers.close()
        if self._shipper is not None:
            await self._shipper.close(HANDOVER_S)
        self._pools.close()
        log.info("drain_finished", extra={"seconds": round(time.monotonic() - started_s, 3)})

    def _balancer(self, model: Model) -> Balancer:
        upstreams = [make_upstream(d, self._pools, self._settings.run_dir) for d in model.deployments]
        return Balancer(upstreams, time.monotonic, random.Random())  # noqa: S311 - spreads load, guards nothing

    def _collectors(self) -> Iterator[Collector]:
        yield RequestCollector(self._stats)
        yield LimitsCollector(self._limiter)
        yield LoopLagCollector(self._loop_lag)
        yield UpstreamCollector(self._balancers)
        yield PauseCollector(self._pause)
        yield MemoryCollector(self._budget)
        if self._shipper is not None:
            yield ShipperCollector(self._shipper)

    def _readiness(self) -> Readiness:
        detail: dict[str, object] = {
            "limiter": self._limiter.mode,
            "draining": self._draining,
            "paused": self._pause.active,
            "in_flight": self._stats.in_flight,
        }
        if self._peers is not None:
            detail |= {"leader": self._peers.leader, "peers": self._peers.peers}
        if self._shared is not None:
            detail["limits_store"] = self._shared.state()
        if self._shipper is not None:
            detail["shipper"] = self._shipper.connected
        return self._serving, detail

    def _limits(self) -> dict[str, object]:
        limiter = self._limiter
        return {"mode": limiter.mode, "waiting": limiter.waiting, "limits": [asdict(use) for use in limiter.usage()]}

    def _ready_fields(self, seconds: float) -> dict[str, object]:
        return {
            "port": _port(self._settings.listener),
            "admin_port": _port(self._settings.admin_listener),
            "control_port": 0 if self._settings.control_listener is None else _port(self._settings.control_listener),
            "models": sorted(self._balancers),
            "limiter": self._limiter.mode,
            "compiled": not http_server.__file__.endswith(".py"),
            "seconds": round(seconds, 3),
        }


def _shared(settings: Settings, limiter: Limiter) -> LeaseLimiter | None:
    shared = settings.document.shared_limits
    if shared is None:
        return None
    channel = channel_from_environment(shared)
    return LeaseLimiter(limiter, channel, uid=shared.scope, pod=settings.pod, max_pods=shared.max_pods)


def _api_keys(settings: Settings) -> ApiKeys | None:
    """Return the API keys, if one is required; raise ContractError rather than let everybody in."""
    if not settings.document.require_api_key:
        return None
    if settings.keys_dir is None:
        raise ContractError("require_api_key: this gateway was given no folder with keys: say --keys-dir")
    return ApiKeys(settings.keys_dir)


def max_connections() -> int:
    """Return the number of clients that the process has files for: each may need a second one for its upstream."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        soft = min(hard, 1 << 20)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(16, min(MAX_CONNECTIONS, (soft - OTHER_FILES) // 2))


def _port(listener: socket.socket) -> int:
    with contextlib.suppress(OSError, IndexError, TypeError):
        return int(listener.getsockname()[1])
    return 0
