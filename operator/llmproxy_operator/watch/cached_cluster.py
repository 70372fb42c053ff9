"""Cluster that reads children from a cache. Everything else, and every write, goes to the API server.

A name that is not in the cache may be taken by an object without our labels, so it is read from the API server; so is
every list before a deletion. LLMProxies and Secrets are never cached.
"""

from collections.abc import Mapping
from typing import Any

from llmproxy_operator import names
from llmproxy_operator.cluster import ApplyResult, Cluster
from llmproxy_operator.manifest import Manifest, Ref
from llmproxy_operator.watch.cache import Cache
from llmproxy_operator.watch.informer import KINDS


class CachedCluster:
    """See Cluster."""

    def __init__(self, cluster: Cluster, cache: Cache) -> None:
        self._cluster = cluster
        self._cache = cache

    async def get(self, target: Ref, *, allow_stale: bool = False) -> Manifest | None:
        """See Cluster."""
        if (target.api_version, target.kind) not in KINDS:
            return await self._cluster.get(target, allow_stale=allow_stale)
        cached = self._cache.get(target)
        if cached is not None:
            return cached
        # Mostly there is none. One that is created at this moment shows when ours is applied, without force.
        if await self._cluster.get(target, allow_stale=True) is None:
            return None
        return await self._cluster.get(target)

    async def list(
        self, api_version: str, kind: str, namespace: str, labels: Mapping[str, str], *, uncached: bool = False
    ) -> tuple[Manifest, ...]:
        """See Cluster."""
        if uncached or (api_version, kind) not in KINDS:
            return await self._cluster.list(api_version, kind, namespace, labels)
        return self._cache.of(api_version, kind, namespace, labels)

    async def serves(self, api_version: str, kind: str) -> bool:
        """See Cluster."""
        return await self._cluster.serves(api_version, kind)

    async def apply(self, manifest: Manifest, *, force: bool, manager: str = names.FIELD_MANAGER) -> ApplyResult:
        """See Cluster."""
        result = await self._cluster.apply(manifest, force=force, manager=manager)
        self._store(result.live)
        return result

    async def apply_status(self, manifest: Manifest) -> Manifest:
        """See Cluster."""
        return await self._cluster.apply_status(manifest)

    async def delete(self, target: Ref, *, uid: str) -> None:
        """See Cluster."""
        await self._cluster.delete(target, uid=uid)
        self._cache.store_delete(target)

    async def create(self, manifest: Manifest) -> Manifest:
        """See Cluster."""
        return await self._cluster.create(manifest)

    async def replace(self, manifest: Manifest) -> Manifest:
        """See Cluster."""
        return await self._cluster.replace(manifest)

    async def merge(self, target: Ref, change: Mapping[str, Any]) -> Manifest:
        """See Cluster."""
        live = await self._cluster.merge(target, change)
        self._store(live)
        return live

    def _store(self, live: Manifest) -> None:
        if (live["apiVersion"], live["kind"]) in KINDS:
            self._cache.store_write(live)
