"""Watches of LLMProxies, one per watched namespace. Each starts once its LLMProxies can be read, and again afterwards.

A namespace that was deleted, or an API server without the CRD, stops no other watch. kopf looks at the API groups once
and gives up a watch that is refused, so it runs only while a probe of ours succeeds.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn, Protocol

from llmproxy_api import API_VERSION, KIND
from llmproxy_operator.errors import ClusterError, RefusedError

log = logging.getLogger(__name__)

RETRY_S = 5.0
"""Interval of probes while LLMProxies cannot be read."""
PROBE_S = 30.0
"""Interval of probes while they are watched."""
_ABSENT = 404
CRD_MISSING = "the API server does not serve LLMProxies: install the CRD (crds/, or crds.install of the chart)"


class Prober(Protocol):
    """Requests of a probe to the API server."""

    async def probe(self, api_version: str, kind: str, namespace: str) -> None:
        """Return if objects of a kind can be listed; raise ClusterError."""


Watch = Callable[[str, Callable[[], None]], Awaitable[None]]
"""Watch the LLMProxies of a namespace until cancelled; call the function once the watch runs; raise if it ends."""


class ProxyWatches:
    """The watches of all namespaces, and which of them are up."""

    def __init__(
        self,
        prober: Prober,
        watch: Watch,
        *,
        synced: Callable[[str], Awaitable[None]],
        on_change: Callable[[str, bool], None],
    ) -> None:
        """*synced* waits for the cache of a namespace; *on_change* gets each namespace with whether it is watched."""
        self._prober = prober
        self._watch = watch
        self._synced = synced
        self._on_change = on_change
        self._up: set[str] = set()

    def is_up(self, namespace: str) -> bool:
        """Return whether the LLMProxies of *namespace* are watched: before that, its cache may be incomplete."""
        return not self._up.isdisjoint({namespace, ""})

    @property
    def any_up(self) -> bool:
        """At least one namespace is watched."""
        return bool(self._up)

    async def run(self, namespace: str) -> NoReturn:
        """Watch one namespace, all with an empty name, for ever; raise if a watch ends that could be read."""
        logged_error = ""
        while True:
            error = await self._probe(namespace)
            if error is None:
                logged_error = ""
                await self._synced(namespace)
                await self._watch_until_refused(namespace)
                continue
            self._set(namespace, up=False)
            if str(error) != logged_error:  # once, not with every probe
                logged_error = str(error)
                message = CRD_MISSING if _is_missing(error) else logged_error
                log.warning("llmproxies_unreadable", extra={"namespace": namespace or "all", "error": message})
            await asyncio.sleep(RETRY_S)

    async def _watch_until_refused(self, namespace: str) -> None:
        watch = asyncio.ensure_future(self._watch(namespace, lambda: self._set(namespace, up=True)))
        try:
            while True:
                await asyncio.wait({watch}, timeout=PROBE_S)
                error = await self._probe(namespace)
                if error is not None and (_is_missing(error) or isinstance(error, RefusedError)):
                    return
                if watch.done():
                    await watch
        finally:
            self._set(namespace, up=False)
            watch.cancel()
            await asyncio.wait({watch})
            if not watch.cancelled():
                watch.exception()  # retrieved, also where the namespace is gone

    async def _probe(self, namespace: str) -> ClusterError | None:
        try:
            await self._prober.probe(API_VERSION, KIND, namespace)
        except ClusterError as exc:
            return exc
        return None

    def _set(self, namespace: str, *, up: bool) -> None:
        (self._up.add if up else self._up.discard)(namespace)
        self._on_change(namespace, up)


def _is_missing(error: ClusterError) -> bool:
    return error.status == _ABSENT
