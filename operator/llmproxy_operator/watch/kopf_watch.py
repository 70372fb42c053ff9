"""Watch of LLMProxies by kopf, the only module that imports it. Each event is passed on; nothing is ever written.

kopf runs in a thread with an event loop of its own: when it ends, for which a broken watch is enough, it cancels every
task of its loop. It keeps no finalizer, annotation or Event; our own queue repeats failed reconciles.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import kopf

from llmproxy_api import GROUP, PLURAL, VERSION
from llmproxy_operator.cluster import ConnectionInfo
from llmproxy_operator.errors import OperatorError
from llmproxy_operator.watch.event_filter import EventFilter

STOP_S = 10
"""Timeout of kopf's shutdown."""
CHUNK = 500


class WatchEndedError(OperatorError):
    """kopf ended by itself, so events may be missed: this process ends and is restarted."""


async def watch(
    connection: ConnectionInfo, event_filter: EventFilter, *, namespace: str, ready: Callable[[], None]
) -> None:
    """Pass every event of a namespace, of all if it is empty, to the filter; raise WatchEndedError if kopf ends."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[BaseException | None] = loop.create_future()

    def on_ready() -> None:
        loop.call_soon_threadsafe(ready)

    def on_end(error: BaseException | None) -> None:
        if not ended.done():
            ended.set_result(error)

    kopfs = _Kopf(_registry(connection, event_filter, loop), namespace, on_ready)

    def run() -> None:
        error: BaseException | None = None
        try:
            asyncio.run(kopfs.run())
        except BaseException as exc:  # noqa: BLE001 - handed to the thread that waits
            error = exc
        if not loop.is_closed():
            loop.call_soon_threadsafe(on_end, error)

    # It would warn that it handles no signals in this thread; the main thread does.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
    thread = threading.Thread(target=run, name="kopf", daemon=True)
    thread.start()
    try:
        error = await asyncio.shield(ended)
        raise WatchEndedError(f"the watch ended: {error or 'without an error'}") from error
    finally:
        kopfs.stop()
        await asyncio.to_thread(thread.join, STOP_S)


class _Kopf:
    """kopf in the event loop of its thread."""

    def __init__(self, registry: kopf.OperatorRegistry, namespace: str, ready: Callable[[], None]) -> None:
        self._registry = registry
        self._namespaces = (namespace,) if namespace else ()
        self._on_ready = ready
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._stopped = threading.Event()

    async def run(self) -> None:
        """Watch until stopped."""
        self._loop = asyncio.get_running_loop()
        if self._stopped.is_set():
            return
        started = asyncio.Event()
        notifier = asyncio.create_task(self._notify(started))
        try:
            await kopf.operator(
                registry=self._registry,
                settings=_settings(),
                standalone=True,
                clusterwide=not self._namespaces,
                namespaces=self._namespaces,
                stop_flag=self._stop,
                ready_flag=started,
            )
        finally:
            notifier.cancel()

    def stop(self) -> None:
        """End `run`; may be called from any thread, at any time."""
        self._stopped.set()
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)

    async def _notify(self, started: asyncio.Event) -> None:
        await started.wait()
        self._on_ready()


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.watching.chunk_size = CHUNK
    settings.process.ultimate_exiting_timeout = None  # the caller decides when to end the process
    return settings


def _registry(
    connection: ConnectionInfo, event_filter: EventFilter, loop: asyncio.AbstractEventLoop
) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(
            server=connection.server,
            ca_path=connection.ca_path,
            insecure=not connection.verify,
            certificate_path=connection.certificate_path,
            private_key_path=connection.key_path,
            token=await connection.token(),
        )

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def proxy(event: Mapping[str, Any], **_: Any) -> None:
        loop.call_soon_threadsafe(event_filter.proxy, event["type"], event["object"])

    return registry
