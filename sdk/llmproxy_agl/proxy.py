"""`LLMProxy` for Agent-Lightning's Trainer, algorithms and runners: upstream's interface without upstream's server.

The constructor only stores its arguments: runners are forked after it, and read the endpoint. A backend does the
blocking work in a thread and keeps no event loop, so `start` and `stop` may run on different loops.
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
from llmproxy_agl.cluster import AT_EXIT_S, READY_S, ClusterBackend, ClusterTarget
from llmproxy_agl.kube_client import in_pod
from llmproxy_agl.local import LocalBackend
from llmproxy_agl.manifest import Manifests, ProxyTarget, build_manifests, describe, supported_callbacks
from llmproxy_agl.notices import log
from llmproxy_agl.served_store import ServedStore, is_in_process

Mode = Literal["auto", "local", "cluster"]
_MIDDLEWARES = ["rollout_attempt", "stream_conversion"]


class Backend(Protocol):
    """Runs the proxy, on this machine or in a cluster."""

    in_cluster: bool
    name: str

    @property
    def endpoint(self) -> str:
        """URL of the proxy, without /v1; constant."""

    @property
    def started_here(self) -> bool:
        """True if this process has started it."""

    def is_running(self) -> bool:
        """Return whether it serves."""

    def apply(self, manifests: Manifests, cancelled: threading.Event) -> None:
        """Return when *manifests* are in effect."""

    def stop(self, limit_s: float = ...) -> None:
        """Drain and terminate it."""

    def control(self) -> pausing.ControlPorts:
        """Return the control ports of its current pods."""


class Launcher:
    """Replaces upstream's server launcher, whose address other code reads."""

    def __init__(self, backend: Backend, args: PythonServerLauncherArgs) -> None:
        self.args = args
        self._backend = backend

    @property
    def endpoint(self) -> str:
        """URL of the proxy."""
        return self._backend.endpoint

    @property
    def access_endpoint(self) -> str:
        """URL of the proxy for other machines."""
        return self._backend.endpoint

    @property
    def health_url(self) -> str:
        """URL of the health check, which calls no model."""
        return f"{self._backend.endpoint}/health/liveliness"

    def is_running(self) -> bool:
        """Return whether it serves."""
        return self._backend.is_running()


class LLMProxy(agentlightning.LLMProxy):  # type: ignore[misc] # upstream has no types that mypy may follow
    """Agent-Lightning's LLMProxy, run by this project.

    The parameters before `*` are upstream's, with its meaning unless noted.

    Args:
        port: Local mode: listen port. Default: a free port, chosen now. In a cluster it is 4000.
        model_list: LiteLLM's `model_list`; `rpm` and `tpm` in `litellm_params` are enforced limits.
        store: Store of the spans. The Trainer sets its own.
        host: Local mode: listen address, also given to others. Default: 127.0.0.1; upstream's is 0.0.0.0.
        litellm_config: LiteLLM's settings. `litellm_settings.max_requests_per_minute` and similar are enforced limits.
        num_retries: Number of retries, unless `litellm_settings.num_retries` is set.
        num_workers: No effect: one gateway does the work of several workers.
        launch_mode: No effect: the proxy is always a process or a pod of its own.
        launcher_args: Only `port`, `host` and `access_host` are used.
        middlewares: No effect: rollouts are routed and responses streamed without any.
        callbacks: `return_token_ids`, `logprobs` and `opentelemetry`, as upstream; others have no effect.
        store_url: Base URL of the store for the proxy. Default: the store's own address.
        mode: `cluster` owns an LLMProxy object, `local` runs processes here, `auto` chooses `cluster` in a pod.
        name: Name of the LLMProxy. Default: `agl-` and eight random digits. With a fixed name, a restarted trainer
            takes over its proxy.
        namespace: Namespace of the LLMProxy. Default: the pod's own.
        kubeconfig: Path of a kubeconfig, to use a cluster from outside; requires `endpoint`.
        context: Context of the kubeconfig. Default: the current one.
        endpoint: URL by which trainer and runners reach the proxy. Default: `http://NAME.NAMESPACE.svc:4000`.
        spec: Merged into the LLMProxy's spec: `{"drainTimeout": "1m", "resources": {...}}`.
        keep: If true, `stop` scales the object to 0 and keeps it for the next trainer of this name.
        ready_timeout_s: Timeout of `start` in a cluster.
    """

    _served_store: ServedStore | None = None

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
        self.litellm_config.setdefault("litellm_settings", {}).setdefault("num_retries", num_retries)
        self.server_launcher_args = args
        self.middlewares = list(middlewares) if middlewares is not None else list(_MIDDLEWARES)
        self.callbacks = None if callbacks is None else list(callbacks)
        self._store_url = store_url
        self._spec = dict(spec or {})
        _warn_unsupported(args, self.middlewares, self.callbacks)
        if mode == "cluster" or (mode == "auto" and (kubeconfig is not None or in_pod())):
            target = ClusterTarget(kubeconfig, context, namespace, endpoint)
            self._backend: Backend = ClusterBackend(
                name or _new_name(), target, keep=keep, fresh=name is None, ready_timeout_s=ready_timeout_s
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
        """Do nothing: this process needs no hooks."""

    def update_model_list(self, model_list: list[Any]) -> None:
        """Replace the models; they take effect with `restart`. Unlike upstream, it logs no keys."""
        self.model_list = model_list

    def is_running(self) -> bool:
        """Return whether it serves, started here or by a copy in another process."""
        return self._backend.is_running()

    async def start(self) -> None:
        """Start the proxy and return when it serves with the current settings. Raise ProxyError, ValueError."""
        await self._off_loop(self._start)

    async def restart(self, *, _port: int | None = None) -> None:
        """Apply the current models, limits and settings; without a change, do nothing.

        No request is dropped. Once this returns, no request is admitted under the previous limits.
        """
        if _port is not None and _port != self.server_launcher_args.port:
            notices.warn_once(
                f"LLMProxy: restart(_port={_port}) is ignored: the endpoint is constant, {self._backend.endpoint}"
            )
        await self._off_loop(self._start)

    async def stop(self) -> None:
        """Finish requests in flight, deliver every span while the store is alive, and terminate."""
        if not self.is_running():
            log.warning("LLMProxy is not running. Nothing to stop.")
            return
        await self._off_loop(lambda _: self._stop())
        atexit.unregister(self._at_exit)

    async def pause(
        self,
        *,
        retry_after_s: float = pausing.RETRY_AFTER_S,
        ttl_s: float = pausing.TTL_S,
        wait_s: float = pausing.WAIT_S,
    ) -> None:
        """Admit no requests, and return when none is in flight on any pod; on failure resume and raise ProxyError.

        Callers get 429 with *retry_after_s* as Retry-After, and their SDKs retry. The pause ends with `resume`, or
        after *ttl_s*. A pod that starts meanwhile is not paused: `paused` covers those too.
        """
        request = pausing.PauseRequest(retry_after_s, ttl_s)
        control = self._backend.control
        await self._off_loop(lambda cancelled: pausing.pause(self.name, control, request, wait_s, cancelled))

    async def resume(self) -> None:
        """Admit requests again."""
        await self._off_loop(lambda _: pausing.resume(self._backend.control))

    @contextlib.asynccontextmanager
    async def paused(
        self, *, retry_after_s: float = pausing.RETRY_AFTER_S, wait_s: float = pausing.WAIT_S
    ) -> AsyncIterator[None]:
        """Pause for a block, such as an update of weights of any duration, also on pods that start meanwhile.

        If this process dies in it, requests are admitted again within a minute.
        """
        await self.pause(retry_after_s=retry_after_s, ttl_s=pausing.HELD_TTL_S, wait_s=wait_s)
        request = pausing.PauseRequest(retry_after_s, pausing.HELD_TTL_S)
        renewer = pausing.PauseRenewer(self.name, self._backend.control, request)
        try:
            yield
        finally:
            await asyncio.shield(asyncio.to_thread(renewer.stop))
            await self.resume()

    def __getstate__(self) -> dict[str, Any]:
        """Replace an in-process store by its address, once it is served."""
        if self._served_store is None:
            return self.__dict__
        return {**self.__dict__, "store": None, "_store_url": self._served_store.url, "_served_store": None}

    def _address_of_store(self) -> str:
        """Return the address of the store; serve one that only this process has."""
        in_cluster = self._backend.in_cluster
        if self._store_url or stores.has_address(self.store) or not is_in_process(self.store):
            return stores.store_address(self.store, self._store_url, in_cluster=in_cluster)
        if self._served_store is None or self._served_store.store is not self.store:
            self._stop_served_store()
            host = (os.environ.get("AGL_SERVER_HOST") or _outbound()) if in_cluster else "127.0.0.1"
            self._served_store = ServedStore(self.store, host)
        return stores.store_address(None, self._served_store.start(), in_cluster=in_cluster)

    def _stop_served_store(self) -> None:
        if self._served_store is not None:
            self._served_store.stop()
            self._served_store = None

    def _stop(self) -> None:
        """Stop the proxy while its store is still served."""
        try:
            self._backend.stop()
        finally:
            self._stop_served_store()

    def _start(self, cancelled: threading.Event) -> None:
        backend = self._backend
        url = self._address_of_store()
        namespace = backend.namespace if isinstance(backend, ClusterBackend) else None
        manifests = build_manifests(
            ProxyTarget(backend.name, namespace, backend.in_cluster),
            self.model_list,
            self.litellm_config,
            callbacks=self.callbacks,
            store_url=url,
            spec=self._spec,
            environment=os.environ,
        )
        for warning in filter(None, (*manifests.warnings, tracer_check.exporter_problem())):
            notices.warn_once(f"LLMProxy: {warning}")
        try:
            backend.apply(manifests, cancelled)
            notices.progress(f"LLMProxy {backend.name}: serves on {backend.endpoint}; {describe(manifests.proxy)}")
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
        """Stop a proxy that this process has started; a fork of this process does not."""
        if not self._backend.started_here:
            return
        try:
            if self._backend.is_running():
                self._backend.stop(AT_EXIT_S)
            self._stop_served_store()
        except Exception as exc:  # noqa: BLE001 - the exit code is the trainer's
            log.warning("LLMProxy %s: not stopped at exit: %s", self._backend.name, exc)


def _new_name() -> str:
    return f"agl-{secrets.token_hex(4)}"


def _local(name: str, args: PythonServerLauncherArgs) -> LocalBackend:
    host = args.host or "127.0.0.1"
    if args.port is None:
        args.port = _free_port(host)
    access_host = args.access_host or (host if host not in {"0.0.0.0", "::"} else _outbound())  # noqa: S104 - compared only
    url_host = f"[{access_host}]" if ":" in access_host else access_host
    return LocalBackend(name, host, args.port, f"http://{url_host}:{args.port}")


def _free_port(host: str) -> int:
    """Return a free port below the kernel's ephemeral range: it is bound only later."""
    ports = random.sample(range(20000, 32000), 200)
    for port in ports:
        try:
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
                probe.bind((host, port))
        except OSError:
            continue
        return port
    raise OSError(f"no free port between 20000 and 32000 on {host}: set port=")


def _outbound() -> str:
    """Return the address of the outgoing interface; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        address: str = probe.getsockname()[0]
        return address


def _warn_unsupported(
    args: PythonServerLauncherArgs, middlewares: Sequence[Any], callbacks: Sequence[Any] | None
) -> None:
    if middlewares != _MIDDLEWARES:
        notices.warn_once(
            "LLMProxy: middlewares have no effect: rollouts are routed and responses streamed without any"
        )
    if args.launch_mode != "mp" or args.n_workers != 1:
        notices.warn_once("LLMProxy: launch_mode and num_workers have no effect: the proxy is a process of its own")
    unknown = [c for c in callbacks or () if not supported_callbacks([c])]
    if unknown:
        notices.warn_once(f"LLMProxy: callbacks {unknown} have no effect: the proxy runs no code of the trainer")
