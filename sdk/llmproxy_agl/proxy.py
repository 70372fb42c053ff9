"""The class that Agent-Lightning's Trainer, algorithms and runners get: upstream's members, none of upstream's server.

The constructor does nothing but remember: runners are forked after it, and the endpoint is already asked for. All work
is done by a backend that blocks, in a thread: no event loop is kept, so `start` and `stop` may run on different ones.
"""

import asyncio
import atexit
import contextlib
import os
import random
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import agentlightning
from agentlightning.utils.server_launcher import PythonServerLauncherArgs

from llmproxy_agl import notices, tracer_check
from llmproxy_agl import pause as pausing
from llmproxy_agl import store_url as stores
from llmproxy_agl.cluster import AT_EXIT_S, READY_S, ClusterBackend, Reach
from llmproxy_agl.kube_client import in_pod
from llmproxy_agl.local import LocalBackend
from llmproxy_agl.manifest import Place, Wanted, known_callbacks, wanted
from llmproxy_agl.notices import log

Mode = Literal["auto", "local", "cluster"]
_MIDDLEWARES = ["rollout_attempt", "stream_conversion"]


class Backend(Protocol):
    """Where it runs."""

    in_cluster: bool
    name: str

    @property
    def endpoint(self) -> str:
        """Where it is called, without /v1; constant."""

    @property
    def started_here(self) -> bool:
        """Whether this very process has started it."""

    def is_running(self) -> bool:
        """Whether it serves."""

    def put(self, wanted: Wanted, cancelled: threading.Event) -> None:
        """Return when *wanted* is in force."""

    def stop(self, limit_s: float = ...) -> None:
        """Drain and end it."""

    def control(self) -> pausing.Pods:
        """Where its pods are paused, as they are now."""


class Launcher:
    """Stands where upstream's server launcher stood: others read the address from it."""

    def __init__(self, backend: Backend, args: PythonServerLauncherArgs) -> None:
        self.args = args
        self._backend = backend

    @property
    def endpoint(self) -> str:
        """Where it is called."""
        return self._backend.endpoint

    @property
    def access_endpoint(self) -> str:
        """Where it is called, by others."""
        return self._backend.endpoint

    @property
    def health_url(self) -> str:
        """Answers without calling a model."""
        return f"{self._backend.endpoint}/health/liveliness"

    def is_running(self) -> bool:
        """Whether it serves."""
        return self._backend.is_running()


class LLMProxy(agentlightning.LLMProxy):  # type: ignore[misc] # upstream has no types that mypy may follow
    """Agent-Lightning's LLMProxy, run by this project.

    The parameters before `*` are upstream's, with its meaning unless said otherwise.

    Args:
        port: Local mode: where to listen. Default: a free port, chosen now. In a cluster it is 4000.
        model_list: LiteLLM's `model_list`; `rpm` and `tpm` in `litellm_params` are limits that hold.
        store: Where spans go. The Trainer sets its own.
        host: Local mode: address to listen on and to tell others. Default: 127.0.0.1; upstream's is 0.0.0.0.
        litellm_config: LiteLLM's settings. `litellm_settings.max_requests_per_minute` and its kin are limits that hold.
        num_retries: Tries after the first, unless `litellm_settings.num_retries` says it.
        num_workers: Has no meaning here: one gateway serves what several workers did.
        launch_mode: Has no meaning here: the proxy is always a process, or a pod, of its own.
        launcher_args: `port`, `host` and `access_host` of it are used.
        middlewares: Have no meaning here: rollouts are routed and streams are real without any.
        callbacks: `return_token_ids`, `logprobs` and `opentelemetry` mean what they mean upstream; others nothing.
        store_url: The store's base URL as the proxy reaches it. Default: asked of the store.
        mode: `cluster` owns an LLMProxy object, `local` runs processes here, `auto` is `cluster` inside of a pod.
        name: Name of the LLMProxy. Default: `agl-` and eight random digits. With a name of yours, a trainer that is
            started again takes its proxy over.
        namespace: Default: the pod's own.
        kubeconfig: Path of a kubeconfig, to speak to a cluster from outside; needs `endpoint`.
        context: Which context of it. Default: the current one.
        endpoint: How trainer and runners reach the proxy. Default: `http://NAME.NAMESPACE.svc:4000`.
        spec: Laid upon the LLMProxy's spec: `{"drainTimeout": "1m", "resources": {...}}`.
        keep: `stop` leaves the object there, with replicas 0, for the next trainer of this name.
        ready_timeout_s: How long `start` waits in a cluster.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - upstream's signature, and named options
        self,
        port: int | None = None,
        model_list: list[Any] | None = None,
        store: object = None,
        host: str | None = None,
        litellm_config: dict[str, Any] | None = None,
        num_retries: int = 0,
        num_workers: int = 1,
        launch_mode: str = "mp",
        launcher_args: PythonServerLauncherArgs | None = None,
        middlewares: Sequence[Any] | None = None,
        callbacks: Sequence[Any] | None = None,
        *,
        store_url: str | None = None,
        mode: Mode = "auto",
        name: str | None = None,
        namespace: str | None = None,
        kubeconfig: str | None = None,
        context: str | None = None,
        endpoint: str | None = None,
        spec: Mapping[str, Any] | None = None,
        keep: bool = False,
        ready_timeout_s: float = READY_S,
    ) -> None:
        if launcher_args is not None and (port, host, launch_mode, num_workers) != (None, None, "mp", 1):
            raise ValueError("port, host, launch_mode, and num_workers cannot be set when launcher_args is provided.")
        args = launcher_args or PythonServerLauncherArgs(
            port=port, host=host, launch_mode=launch_mode, n_workers=num_workers, healthcheck_url=None
        )
        self.store = store
        self.litellm_config = litellm_config if litellm_config is not None else {}
        self.model_list = model_list or self.litellm_config.get("model_list") or []
        self.litellm_config.setdefault("litellm_settings", {})
        self.litellm_config["litellm_settings"].setdefault("num_retries", num_retries)
        self.server_launcher_args = args
        self.middlewares = list(middlewares) if middlewares is not None else list(_MIDDLEWARES)
        self.callbacks = None if callbacks is None else list(callbacks)
        self._store_url = store_url
        self._spec = dict(spec or {})
        _say_what_has_no_meaning(args, self.middlewares, self.callbacks)
        if mode == "cluster" or (mode == "auto" and (kubeconfig is not None or in_pod())):
            reach = Reach(kubeconfig, context, namespace, endpoint)
            fresh = name is None
            self._backend: Backend = ClusterBackend(
                name or _new_name(), reach, keep=keep, fresh=fresh, ready_timeout_s=ready_timeout_s
            )
        elif mode in {"auto", "local"}:
            self._backend = _local(name or _new_name(), args)
        else:
            raise ValueError(f"mode must be auto, local or cluster, got {mode!r}")
        self.server_launcher = Launcher(self._backend, args)

    @property
    def name(self) -> str:
        """Name of the LLMProxy."""
        return self._backend.name

    def initialize(self) -> None:
        """Do nothing: no hook is put into this process."""

    def update_model_list(self, model_list: list[Any]) -> None:
        """Replace the models; `restart` puts them in force. Unlike upstream, it logs no keys."""
        self.model_list = model_list

    def is_running(self) -> bool:
        """Whether it serves, be it started here or by a copy of this in another process."""
        return self._backend.is_running()

    async def start(self) -> None:
        """Return when the proxy serves with what is wanted; start what is not there. Raise ProxyError, ValueError."""
        await self._off_loop(self._start)

    async def restart(self, *, _port: int | None = None) -> None:
        """Put models, limits and settings in force as they are now; without a change, do nothing.

        No call is dropped, and none is admitted under the limits before once this has returned.
        """
        if _port is not None and _port != self.server_launcher_args.port:
            notices.once(
                f"LLMProxy: restart(_port={_port}) is ignored: the endpoint is constant, {self._backend.endpoint}"
            )
        await self._off_loop(self._start)

    async def stop(self) -> None:
        """Finish calls in flight, deliver every span while the store is alive, and end."""
        if not self.is_running():
            log.warning("LLMProxy is not running. Nothing to stop.")
            return
        await self._off_loop(lambda _: self._backend.stop())
        atexit.unregister(self._at_exit)

    async def pause(
        self,
        *,
        retry_after_s: float = pausing.RETRY_AFTER_S,
        ttl_s: float = pausing.TTL_S,
        wait_s: float = pausing.WAIT_S,
    ) -> None:
        """Begin no more calls, and return when none is in flight on any pod; raise ProxyError, resumed, if that fails.

        Callers get 429 with *retry_after_s* as Retry-After, and their SDKs send it again. It ends with `resume`, or
        after *ttl_s*. A pod that is started meanwhile is not paused: `paused` sees to that too.
        """
        wanted = pausing.Wanted(retry_after_s, ttl_s)
        await self._off_loop(lambda gone: pausing.pause(self.name, self._backend.control, wanted, wait_s, gone))

    async def resume(self) -> None:
        """Take calls again."""
        await self._off_loop(lambda _: pausing.resume(self._backend.control))

    @contextlib.asynccontextmanager
    async def paused(
        self, *, retry_after_s: float = pausing.RETRY_AFTER_S, wait_s: float = pausing.WAIT_S
    ) -> AsyncIterator[None]:
        """Pause for a block, as for an update of weights: however long that takes, and on pods that start meanwhile.

        If this process dies in it, calls are served again within a minute.
        """
        await self.pause(retry_after_s=retry_after_s, ttl_s=pausing.HELD_TTL_S, wait_s=wait_s)
        holder = pausing.Holder(self.name, self._backend.control, pausing.Wanted(retry_after_s, pausing.HELD_TTL_S))
        try:
            yield
        finally:
            await asyncio.shield(asyncio.to_thread(holder.stop))
            await self.resume()

    def _start(self, cancelled: threading.Event) -> None:
        backend = self._backend
        url = stores.address(self.store, self._store_url, in_cluster=backend.in_cluster)
        namespace = backend.namespace if isinstance(backend, ClusterBackend) else None
        made = wanted(
            Place(backend.name, namespace, backend.in_cluster),
            self.model_list,
            self.litellm_config,
            callbacks=self.callbacks,
            store_url=url,
            spec=self._spec,
            environment=os.environ,
        )
        for warning in filter(None, (*made.warnings, tracer_check.trouble())):
            notices.once(f"LLMProxy: {warning}")
        try:
            backend.put(made, cancelled)
        finally:
            if backend.started_here:
                atexit.unregister(self._at_exit)
                atexit.register(self._at_exit)

    async def _off_loop(self, work: Callable[[threading.Event], None]) -> None:
        cancelled = threading.Event()
        try:
            await asyncio.to_thread(work, cancelled)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def _at_exit(self) -> None:
        """End what this process has started and nobody has stopped; a fork of it leaves that alone."""
        if not self._backend.started_here:
            return
        try:
            if self._backend.is_running():
                self._backend.stop(AT_EXIT_S)
        except Exception as exc:  # noqa: BLE001 - the interpreter ends, and its exit code is the trainer's
            log.warning("LLMProxy %s: not stopped at the end: %s", self._backend.name, exc)


def _new_name() -> str:
    return f"agl-{secrets.token_hex(4)}"


def _local(name: str, args: PythonServerLauncherArgs) -> LocalBackend:
    host = args.host or "127.0.0.1"
    if args.port is None:
        args.port = _free_port(host)
    told = args.access_host or (host if host not in {"0.0.0.0", "::"} else _outbound())  # noqa: S104 - compared only
    return LocalBackend(name, host, args.port, f"http://{f'[{told}]' if ':' in told else told}:{args.port}")


def _free_port(host: str) -> int:
    """Return a port that is free now, below those that the kernel hands to connections: it is used only later."""
    ports = random.sample(range(20000, 32000), 200)
    for port in ports:
        try:
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
                probe.bind((host, port))
        except OSError:
            continue
        return port
    raise OSError(f"no free port between 20000 and 32000 on {host}: say port=")


def _outbound() -> str:
    """Return the address that others see; no packet is sent for it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        found: str = probe.getsockname()[0]
        return found


def _say_what_has_no_meaning(
    args: PythonServerLauncherArgs, middlewares: Sequence[Any], callbacks: Sequence[Any] | None
) -> None:
    if middlewares != _MIDDLEWARES:
        notices.once("LLMProxy: middlewares have no meaning here: rollouts are routed and streams are real without any")
    if args.launch_mode != "mp" or args.n_workers != 1:
        notices.once("LLMProxy: launch_mode and num_workers have no meaning here: the proxy is a process of its own")
    unknown = [c for c in callbacks or () if not known_callbacks([c])]
    if unknown:
        notices.once(f"LLMProxy: callbacks {unknown} have no meaning here: no code of yours runs in the proxy")
