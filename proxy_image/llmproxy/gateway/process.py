"""One gateway from its document to its end: what is built, in which order it starts, and how it drains.

Start: admin port, the translator if a model needs it, counters, then the data port; ready only after that. Counters
come from the file and from the pod before; or, where several pods share limits, from their store (`sharing`), which
need not be there.
End (SIGTERM, which Kubernetes sends after preStop): not ready, no new connections, answers say `connection: close`;
calls in flight go on up to drainTimeout; counters and calls are handed on; then the process ends by itself.
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
from llmproxy.gateway.admin.api import Readiness, make_admin
from llmproxy.gateway.admin.collectors import HandoverCollector, LimitsCollector, PauseCollector, UpstreamCollector
from llmproxy.gateway.admin.control_api import make_control
from llmproxy.gateway.admin.uvicorn_server import BACKLOG, AdminServer
from llmproxy.gateway.api_keys import Keys
from llmproxy.gateway.http import server as http1
from llmproxy.gateway.http.routing import ENDPOINTS
from llmproxy.gateway.limits import Limiter
from llmproxy.gateway.limits.peers import election
from llmproxy.gateway.limits.snapshot import Snapshot
from llmproxy.gateway.limits.store.lease_limiter import LeaseLimiter
from llmproxy.gateway.limits.store.redis_client import channel_from_environment
from llmproxy.gateway.metrics import Counts, Exporter
from llmproxy.gateway.requests.app import App
from llmproxy.gateway.requests.context import Parts
from llmproxy.gateway.requests.pause import Pause
from llmproxy.gateway.shipping.shipper_client import Handover
from llmproxy.gateway.shipping.sidecars import shipper_metrics, wait_for_translator
from llmproxy.gateway.upstreams.balancer import Balancer
from llmproxy.gateway.upstreams.deployments import TRANSLATOR, TRANSLATOR_SOCKET, Pools, make_target

SHIPPER_SOCKET = "shipper.sock"
SNAPSHOT = "limits.snapshot"
LINGER_S = 1.0
"""After the end began, kept connections stay open so long: a request that is on its way on one is answered."""
HANDOVER_S = 5.0
"""How long the end waits for the shipper to have the last calls on disk."""
MAX_CONNECTIONS = 20_000
"""Of callers; a stream that waits costs about 20 KB."""
GC_OBJECTS = 20_000
"""New objects between two looks for cycles, in place of 700: an ordinary call leaves none."""
DEFAULT_OUTPUT_TOKENS = 4096
"""Charged against tpm per choice when neither the request nor the deployment's params bound the answer."""
log = logging.getLogger("llmproxy.gateway")


@dataclass(frozen=True)
class Setting:
    """Where one gateway is and whom it meets."""

    document: Document
    run_dir: Path
    listener: socket.socket
    admin_listener: socket.socket
    peer_host: str
    peer_port: int
    peer_token: str
    """Without one no other pod is met."""
    peers: tuple[str, ...]
    pod: str
    control_listener: socket.socket | None = None
    control_token_file: Path | None = None
    """Without one nobody may pause, and the port is not opened."""
    keys_dir: Path | None = None
    """Where the keys of callers are, if the document asks for one."""


class Gateway:
    """One process."""

    def __init__(self, setting: Setting) -> None:
        """Raise ContractError when the document cannot be served."""
        document = setting.document
        self._setting = setting
        self._pools = Pools()
        self._limiter = Limiter(document)
        self._balancers = {m.name: self._balancer(m) for m in document.models}
        spans = document.spans is not None
        self._handover = Handover(setting.run_dir / SHIPPER_SOCKET) if spans else None
        self._counts = Counts()
        self._pause = Pause()
        self._keys = _keys(setting)
        app = App(
            Parts(
                document=document,
                balancers=self._balancers,
                serving={
                    (name, endpoint): serving(endpoint, balancer.targets)
                    for name, balancer in self._balancers.items()
                    for endpoint in ENDPOINTS.values()
                },
                output_tokens={m.name: output_bound(m) for m in document.models},
                fallbacks={m.name: m.fallbacks for m in document.models if m.fallbacks},
                limiter=self._limiter,
                handover=self._handover,
                counts=self._counts,
                pause=self._pause,
                keys=self._keys,
            )
        )
        self._server = http1.Server(app.handle, app.refused, max_connections=max_connections())
        beside = partial(shipper_metrics, setting.run_dir) if spans else None
        self._admin = AdminServer(make_admin(self._readiness, self._collectors(), beside, self._limits))
        self._control = self._make_control()
        self._shared = _shared(setting, self._limiter)
        self._snapshot = None if self._shared else Snapshot(self._limiter, setting.run_dir / SNAPSHOT)
        self._peers: election.Peers | None = None
        self._serving = False
        self._draining = False
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        began_s = time.monotonic()
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        admin = asyncio.create_task(self._admin.serve(sockets=[self._setting.admin_listener]))
        beside = self._serve_beside()
        if self._translates:
            await wait_for_translator(self._setting.run_dir / TRANSLATOR_SOCKET, stop)
        await self._take_counters()
        await self._server.start(self._setting.listener, BACKLOG)
        ended = asyncio.create_task(stop.wait())
        self._serving = True
        gc.collect()
        gc.freeze()  # what is here now stays: no collection has to walk it again
        gc.set_threshold(GC_OBJECTS, 10, 10)
        log.info("gateway_ready", extra=self._ready_fields(time.monotonic() - began_s))
        await asyncio.wait({ended, admin}, return_when=asyncio.FIRST_COMPLETED)
        await self._drain()
        self._admin.should_exit = True
        if self._control is not None:
            self._control.should_exit = True
        self._ended.set()
        await asyncio.gather(admin, *beside)
        ended.cancel()

    @property
    def _translates(self) -> bool:
        targets = (target for balancer in self._balancers.values() for target in balancer.targets)
        return any(target.host == TRANSLATOR for target in targets)

    def _make_control(self) -> AdminServer | None:
        setting = self._setting
        if setting.control_token_file is None or setting.control_listener is None:
            return None
        return AdminServer(make_control(self._pause, lambda: self._counts.in_flight, setting.control_token_file))

    def _serve_beside(self) -> list[asyncio.Task[None]]:
        """Start what goes on until the end: a pod that drains can still be paused, and says what is in flight."""
        tasks = []
        if self._control is not None and self._setting.control_listener is not None:
            tasks.append(asyncio.create_task(self._control.serve(sockets=[self._setting.control_listener])))
        if self._keys is not None:
            tasks.append(asyncio.create_task(self._keys.run(self._ended)))
        return tasks

    async def _take_counters(self) -> None:
        setting = self._setting
        if self._shared is not None:
            await self._shared.start()
        if self._snapshot is None:  # the store knows
            return
        self._snapshot.restore()
        if setting.peer_token:
            self._peers = await election.serve(
                self._limiter, setting.peer_host, setting.peer_port, setting.peer_token, setting.pod
            )
            await self._peers.take_over(setting.peers)
        self._snapshot.start()

    async def _drain(self) -> None:
        began_s = time.monotonic()
        self._serving = False
        self._draining = True
        log.info("drain_began", extra={"in_flight": self._counts.in_flight})
        await self._server.drain(LINGER_S, self._setting.document.drain_timeout_s)
        if self._shared is not None:
            await self._shared.close()
        if self._snapshot is not None:
            await self._snapshot.stop()
        if self._peers is not None:
            await self._peers.close()
        if self._handover is not None:
            await self._handover.close(HANDOVER_S)
        self._pools.close()
        log.info("drained", extra={"seconds": round(time.monotonic() - began_s, 3)})

    def _balancer(self, model: Model) -> Balancer:
        targets = [make_target(d, self._pools, self._setting.run_dir) for d in model.deployments]
        return Balancer(targets, time.monotonic, random.Random())  # noqa: S311 - spreads load, guards nothing

    def _collectors(self) -> Iterator[Collector]:
        yield Exporter(self._counts)
        yield LimitsCollector(self._limiter)
        yield UpstreamCollector(self._balancers)
        yield PauseCollector(self._pause)
        if self._handover is not None:
            yield HandoverCollector(self._handover)

    def _readiness(self) -> Readiness:
        detail: dict[str, object] = {
            "limiter": self._limiter.mode,
            "draining": self._draining,
            "paused": self._pause.holds,
            "in_flight": self._counts.in_flight,
        }
        if self._peers is not None:
            detail |= {"leader": self._peers.leader, "peers": self._peers.peers}
        if self._shared is not None:
            detail["limits_store"] = self._shared.state()
        if self._handover is not None:
            detail["shipper"] = self._handover.connected
        return self._serving, detail

    def _limits(self) -> dict[str, object]:
        limiter = self._limiter
        return {"mode": limiter.mode, "waiting": limiter.waiting, "limits": [asdict(use) for use in limiter.usage()]}

    def _ready_fields(self, seconds: float) -> dict[str, object]:
        return {
            "port": _port(self._setting.listener),
            "admin_port": _port(self._setting.admin_listener),
            "control_port": 0 if self._setting.control_listener is None else _port(self._setting.control_listener),
            "models": sorted(self._balancers),
            "limiter": self._limiter.mode,
            "compiled": not http1.__file__.endswith(".py"),
            "seconds": round(seconds, 3),
        }


def _shared(setting: Setting, limiter: Limiter) -> LeaseLimiter | None:
    shared = setting.document.shared_limits
    if shared is None:
        return None
    channel = channel_from_environment(shared)
    return LeaseLimiter(limiter, channel, uid=shared.scope, pod=setting.pod, max_pods=shared.max_pods)


def _keys(setting: Setting) -> Keys | None:
    """Return the keys of callers, if one is asked for; raise ContractError rather than let everybody in."""
    if not setting.document.require_api_key:
        return None
    if setting.keys_dir is None:
        raise ContractError("require_api_key: this gateway was given no folder with keys: say --keys-dir")
    return Keys(setting.keys_dir)


def max_connections() -> int:
    """Return how many callers this process has files for: each may need another to an upstream."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        soft = min(hard, 1 << 20)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(16, min(MAX_CONNECTIONS, (soft - 64) // 2))


def output_bound(model: Model) -> int:
    """Return how many tokens a choice of *model* may have when the request does not say: what its params say."""
    bounds = [output_tokens(d.params) for d in model.deployments]
    return max(DEFAULT_OUTPUT_TOKENS if b is None else b for b in bounds)


def output_tokens(params: dict[str, object]) -> int | None:
    """Return the bound of an answer in *params*, None without one."""
    for name in ("max_completion_tokens", "max_tokens"):
        value = params.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _port(listener: socket.socket) -> int:
    with contextlib.suppress(OSError, IndexError, TypeError):
        return int(listener.getsockname()[1])
    return 0
