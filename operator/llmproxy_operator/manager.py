"""The operator process: builds every part, runs them together, ends them together.

If one part ends, all do: a restarted process is in a known state, a crippled one is not.
"""

import asyncio
import contextlib
import logging
import random
import secrets
import signal
import time
import uuid
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

from llmproxy_operator.cluster import ApiServer, ConnectionInfo, connect
from llmproxy_operator.errors import OperatorError
from llmproxy_operator.event_recorder import EventRecorder
from llmproxy_operator.health import Health, serve
from llmproxy_operator.leader_election import LeaderElector
from llmproxy_operator.manifest import Ref
from llmproxy_operator.metrics import Metrics
from llmproxy_operator.reconcile import Dependencies, Reconciler
from llmproxy_operator.render import Inputs
from llmproxy_operator.secret_watch import SecretWatch
from llmproxy_operator.settings import Settings
from llmproxy_operator.watch.cache import Cache
from llmproxy_operator.watch.cached_cluster import CachedCluster
from llmproxy_operator.watch.event_filter import EventFilter
from llmproxy_operator.watch.informer import KINDS, Informer
from llmproxy_operator.watch.kopf_watch import watch
from llmproxy_operator.watch.proxy_watch import ProxyWatches
from llmproxy_operator.workqueue import Key, WorkQueue

log = logging.getLogger(__name__)

WORKERS = 16
"""Concurrent reconciles: each mostly waits for the API server."""


async def run(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; return the exit code: 0 after a signal, 1 after a failure."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await operate(settings, stop)
    except Exception as exc:
        for leaf in _leaves(exc):
            expected = isinstance(leaf, OperatorError | OSError)
            log.error("operator_failed", extra={"error": str(leaf)}, exc_info=None if expected else leaf)  # noqa: TRY400 - above
        return 1
    log.info("operator_stopped")
    return 0


async def operate(settings: Settings, stop: asyncio.Event) -> None:
    """Run until *stop* is set; raise the error that ended it otherwise."""
    metrics = Metrics()
    health = Health(metrics)
    watches = len(KINDS) * max(1, len(settings.watch_namespaces))
    async with (
        serve(health, port=settings.metrics_port) as port,
        connect(metrics.wrote, watches=watches) as (cluster, connection),
    ):
        log.info(
            "operator_started",
            extra={
                "port": port,
                "server": connection.server,
                "namespaces": list(settings.watch_namespaces) or "all",
                "proxy_image": settings.proxy_image,
            },
        )
        if not settings.leader_election:
            await _until(stop, _work(settings, cluster, connection, health))
            return
        elector = LeaderElector(
            cluster,
            Ref("coordination.k8s.io/v1", "Lease", settings.namespace, settings.lease_name),
            identity=f"{settings.pod_name}_{uuid.uuid4().hex[:8]}",
            clock=time.monotonic,
            now=_now,
        )

        def on_answer() -> None:
            health.ready = True  # a candidate that waits for the Lease is healthy

        await _until(stop, elector.acquire(on_answer))
        if stop.is_set():
            return
        health.ready = False
        cluster.before_write = elector.check
        try:
            await _until(stop, _together(elector.renew(), _work(settings, cluster, connection, health)))
        finally:
            await elector.release()  # writes only if it is still ours


async def _work(settings: Settings, cluster: ApiServer, connection: ConnectionInfo, health: Health) -> None:
    queue: WorkQueue

    def wake(key: Key) -> None:
        queue.add(key)

    def wake_for_child(key: Key) -> None:
        if watches.is_up(key.namespace):  # before that, an object that is not cached would be taken for absent
            queue.add(key, settle=True)

    def on_change(namespace: str, up: bool) -> None:  # noqa: FBT001 - a callback
        health.ready = watches.any_up
        health.metrics.set_watched(namespace or "all", up=up)

    event_filter, cache = EventFilter(wake), Cache(wake_for_child)
    informer = Informer(cluster, cache, namespaces=settings.watch_namespaces, jitter=random.random)
    secret_watch = SecretWatch(cluster, wake, clock=time.monotonic, jitter=random.random)
    inputs = Inputs(
        settings.proxy_image,
        {},
        settings.proxy_image_pull_policy,
        store_image=settings.limits_store_image,
        store_resources=settings.limits_store_resources,
        pod_user=settings.pod_user,
        pull_secrets=settings.pull_secrets,
        children=settings.children,
    )
    dependencies = Dependencies(
        inputs,
        settings.policy,
        time.monotonic,
        _now,
        lambda: secrets.token_hex(32),
        on_image=health.metrics.set_image,
        before_status_write=event_filter.expect,
    )
    recorder = EventRecorder(cluster, instance=settings.pod_name, now=_now)
    reconciler = Reconciler(CachedCluster(cluster, cache), dependencies, secrets=secret_watch, recorder=recorder)
    queue = WorkQueue(reconciler, health.metrics, clock=time.monotonic, jitter=random.random)
    health.metrics.watch_queue(lambda: queue.depth, lambda: queue.oldest_s)
    health.oldest_s = lambda: queue.oldest_s
    health.metrics.set_leader(leader=True)

    async def watch_proxies(namespace: str, ready: Callable[[], None]) -> None:
        await watch(connection, event_filter, namespace=namespace, ready=ready)

    watches = ProxyWatches(cluster, watch_proxies, synced=informer.synced, on_change=on_change)
    proxies = [watches.run(namespace) for namespace in settings.watch_namespaces or ("",)]
    await _together(*proxies, informer.run(), queue.run(WORKERS), secret_watch.run())


async def _together(*parts: Coroutine[Any, Any, None]) -> None:
    async with asyncio.TaskGroup() as group:
        for part in parts:
            group.create_task(part)


async def _until(stop: asyncio.Event, part: Coroutine[Any, Any, None]) -> None:
    """Run *part* until it ends or *stop* is set."""
    task = asyncio.ensure_future(part)
    waiter = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    if task.done() and not task.cancelled():
        await task


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _now() -> datetime:
    return datetime.now(UTC)
