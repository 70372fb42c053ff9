"""Lists and watches the children of all proxies, and keeps a cache as the API server has them.

A list, then a watch from its version on; a watch that ends is begun again where it ended, and where the API server
does not know any more what happened since, there is another list. So nothing that happened in a gap is missed, a
deletion least of all, which is why these watches are not kopf's: it tells of no deletion in a gap.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import NoReturn, Protocol

from llmproxy_operator import names
from llmproxy_operator.backoff import backoff_s
from llmproxy_operator.cluster import Change, Listed
from llmproxy_operator.errors import ClusterError
from llmproxy_operator.watch.cache import Cache

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
"""What is watched besides LLMProxies. Secrets never are: that would take the right to read all of them."""
LABELS = {"app.kubernetes.io/managed-by": names.FIELD_MANAGER}
"""Only objects with our label leave the API server."""
FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 20.0
NOT_SERVED_S = 60.0
"""How long until a kind that is no part of Kubernetes is looked for again."""
WATCH_S = 120.0
"""The API server ends a watch after so long, give or take a quarter; one that says nothing for longer is dead."""
_GONE = 410
_NOT_FOUND = 404


class Source(Protocol):
    """What an informer asks of the API server."""

    async def collect(self, api_version: str, kind: str, namespace: str, labels: dict[str, str]) -> Listed:
        """Return all objects with these labels, of all namespaces if *namespace* is empty, and the list's version."""

    def watch(
        self, api_version: str, kind: str, namespace: str, labels: dict[str, str], *, since: str, for_s: float
    ) -> AsyncGenerator[Change]:
        """Yield what happens to them after that version, for so long; raise ClusterError."""


class Informer:
    """Keeps *cache* as the API server has it."""

    def __init__(self, source: Source, cache: Cache, *, namespaces: Sequence[str], jitter: Callable[[], float]) -> None:
        """*jitter* gives numbers from 0 to 1."""
        places = [(*kind, namespace) for kind in KINDS for namespace in namespaces or ("",)]
        one_list = asyncio.Lock()
        self._followers = [_Follower(source, cache, place, jitter, one_list) for place in places]

    async def synced(self) -> None:
        """Wait until each kind has been listed once: before that, what is missing may only be unknown."""
        for follower in self._followers:
            await follower.synced.wait()

    async def run(self) -> None:
        """Follow all kinds for ever."""
        async with asyncio.TaskGroup() as group:
            for follower in self._followers:
                group.create_task(follower.run())


class _Follower:
    """Follows one kind, in one namespace or (an empty one) in all."""

    def __init__(
        self,
        source: Source,
        cache: Cache,
        place: tuple[str, str, str],
        jitter: Callable[[], float],
        one_list: asyncio.Lock,
    ) -> None:
        self._source = source
        self._cache = cache
        self._place = place
        self._jitter = jitter
        self._one_list = one_list
        """Lists come one at a time: before it is trimmed, a whole one is the most memory that is ever used."""
        self._version = ""
        """Up to which the cache knows all; empty: a list is needed."""
        self._failures = 0
        self.synced = asyncio.Event()

    async def run(self) -> NoReturn:
        said = ""
        while True:
            try:
                await (self._watch() if self._version else self._list())
                self._failures, said = 0, ""
            except ClusterError as exc:
                if exc.status in {_GONE, _NOT_FOUND}:
                    self._version = ""
                self._failures += 1
                if str(exc) != said:  # not once more with every try
                    said = str(exc)
                    log.warning("watch_broken", extra={"kind": self._place[1], "error": said})
                wait_s = backoff_s(self._failures, self._jitter(), first_s=FIRST_BACKOFF_S, most_s=MAX_BACKOFF_S)
                await asyncio.sleep(max(exc.again_s, wait_s))

    async def _list(self) -> None:
        async with self._one_list:
            mark = self._cache.mark
            listed = await self._source.collect(*self._place, LABELS)
            self._cache.replace(self._place, listed.items, listed.version, mark)
        self._version = listed.version
        self.synced.set()
        if not listed.served:
            await asyncio.sleep(NOT_SERVED_S)

    async def _watch(self) -> None:
        for_s = WATCH_S * (0.75 + 0.5 * self._jitter())
        watch = self._source.watch(*self._place, LABELS, since=self._version, for_s=for_s)
        async with aclosing(watch) as changes:
            async for change in changes:
                self._failures = 0
                if change.type != "BOOKMARK":
                    self._cache.event(self._place, change.type, change.object)
                self._version = change.object["metadata"]["resourceVersion"]
