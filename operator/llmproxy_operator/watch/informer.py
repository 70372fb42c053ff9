"""Informer: lists and watches the children of all proxies, and fills a cache.

A list, then a watch from its version on. A watch that ends resumes where it ended; if that version is too old, there
is another list. So no event of a gap is missed. kopf does not report deletions in a gap, so it does not do for these.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import NoReturn, Protocol

from llmproxy_operator import names
from llmproxy_operator.cluster import ObjectList, WatchEvent
from llmproxy_operator.errors import ClusterError
from llmproxy_operator.watch.cache import Cache
from llmproxy_operator.workqueue import backoff_s

log = logging.getLogger(__name__)

KINDS = (
    ("apps/v1", "ControllerRevision"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "ReplicaSet"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy/v1", "PodDisruptionBudget"),
    ("v1", "ConfigMap"),
    ("v1", "Pod"),
    ("v1", "Service"),
)
"""Kinds that are watched besides LLMProxies. Secrets never are: that would take the right to read all of them."""
LABELS = {names.LABEL_MANAGED_BY: names.FIELD_MANAGER}
"""Only objects with our label leave the API server."""
FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 20.0
NOT_SERVED_S = 60.0
"""Delay of the next list of a kind that is not served."""
WATCH_S = 120.0
"""Duration of a watch, give or take a quarter; one that is silent for longer is dead."""
_EXPIRED = 410
_ABSENT = 404


class ListerWatcher(Protocol):
    """Requests of an informer to the API server."""

    async def collect(self, api_version: str, kind: str, namespace: str, labels: dict[str, str]) -> ObjectList:
        """Return all objects with these labels, of all namespaces if *namespace* is empty, and the list's version."""

    def watch(
        self, api_version: str, kind: str, namespace: str, labels: dict[str, str], *, since: str, for_s: float
    ) -> AsyncGenerator[WatchEvent]:
        """Yield their events after that version, for so long; raise ClusterError."""


class Informer:
    """Fills a cache with the objects of every kind."""

    def __init__(
        self, client: ListerWatcher, cache: Cache, *, namespaces: Sequence[str], jitter: Callable[[], float]
    ) -> None:
        """*jitter* gives numbers from 0 to 1."""
        scopes = [(*kind, namespace) for kind in KINDS for namespace in namespaces or ("",)]
        one_list = asyncio.Lock()
        self._reflectors = [_Reflector(client, cache, scope, jitter, one_list) for scope in scopes]

    async def synced(self, namespace: str) -> None:
        """Wait until each kind has been listed once there: before that, an object that is not cached may exist."""
        for reflector in self._reflectors:
            if reflector.namespace == namespace:
                await reflector.synced.wait()

    async def run(self) -> None:
        """Watch all kinds for ever."""
        async with asyncio.TaskGroup() as group:
            for reflector in self._reflectors:
                group.create_task(reflector.run())


class _Reflector:
    """Lists and watches one kind, in one namespace or (an empty one) in all."""

    def __init__(
        self,
        client: ListerWatcher,
        cache: Cache,
        scope: tuple[str, str, str],
        jitter: Callable[[], float],
        one_list: asyncio.Lock,
    ) -> None:
        self._client = client
        self._cache = cache
        self._scope = scope
        self._jitter = jitter
        self._one_list = one_list
        """Lists run one at a time: a list before trimming is the peak of memory."""
        self._version = ""
        """Version up to which the cache is complete; empty: a list is needed."""
        self._failures = 0
        self.namespace = scope[2]
        self.synced = asyncio.Event()

    async def run(self) -> NoReturn:
        logged_error = ""
        while True:
            try:
                await (self._watch() if self._version else self._list())
                self._failures, logged_error = 0, ""
            except ClusterError as exc:
                if exc.status in {_EXPIRED, _ABSENT}:
                    self._version = ""
                self._failures += 1
                if str(exc) != logged_error:  # once, not with every try
                    logged_error = str(exc)
                    log.warning("watch_failed", extra={"kind": self._scope[1], "error": logged_error})
                wait_s = backoff_s(self._failures, self._jitter(), first_s=FIRST_BACKOFF_S, most_s=MAX_BACKOFF_S)
                await asyncio.sleep(max(exc.retry_after_s, wait_s))

    async def _list(self) -> None:
        async with self._one_list:
            write_count = self._cache.write_count
            result = await self._client.collect(*self._scope, LABELS)
            self._cache.replace(self._scope, result.items, result.version, write_count)
        self._version = result.version
        self.synced.set()
        if not result.served:
            await asyncio.sleep(NOT_SERVED_S)

    async def _watch(self) -> None:
        for_s = WATCH_S * (0.75 + 0.5 * self._jitter())
        watch = self._client.watch(*self._scope, LABELS, since=self._version, for_s=for_s)
        async with aclosing(watch) as changes:
            async for change in changes:
                self._failures = 0
                if change.type != "BOOKMARK":
                    self._cache.event(self._scope, change.type, change.object)
                self._version = change.object["metadata"]["resourceVersion"]
