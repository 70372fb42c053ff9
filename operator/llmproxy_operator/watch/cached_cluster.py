"""A cluster that is asked for children in a cache first. Everything else, and every write, goes to the API server.

A name that the cache knows nothing about may be taken by an object without our labels, so the API server is asked for
it; so it is before anything is deleted. LLMProxies and Secrets are always asked for.
"""

from collections.abc import Mapping
from typing import Any

from llmproxy_operator import names
from llmproxy_operator.cluster import Applied, Cluster
from llmproxy_operator.manifest import Manifest, Ref
from llmproxy_operator.watch.cache import Cache
from llmproxy_operator.watch.informer import KINDS


class CachedCluster:
    """See Cluster."""

    def __init__(self, cluster: Cluster, cache: Cache) -> None:
        self._cluster = cluster
        self._cache = cache

    async def get(self, target: Ref, *, maybe_old: bool = False) -> Manifest | None:
        """See Cluster."""
        if (target.api_version, target.kind) not in KINDS:
            return await self._cluster.get(target, maybe_old=maybe_old)
        known = self._cache.get(target)
        if known is not None:
            return known
        # Mostly there is none. One that is made at this moment is met when ours is applied, without force.
        if await self._cluster.get(target, maybe_old=True) is None:
            return None
        return await self._cluster.get(target)

    async def list(
        self, api_version: str, kind: str, namespace: str, labels: Mapping[str, str], *, fresh: bool = False
    ) -> tuple[Manifest, ...]:
        """See Cluster."""
        if fresh or (api_version, kind) not in KINDS:
            return await self._cluster.list(api_version, kind, namespace, labels)
        return self._cache.of(api_version, kind, namespace, labels)

    async def serves(self, api_version: str, kind: str) -> bool:
        """See Cluster."""
        return await self._cluster.serves(api_version, kind)

    async def apply(self, manifest: Manifest, *, force: bool, manager: str = names.FIELD_MANAGER) -> Applied:
        """See Cluster."""
        applied = await self._cluster.apply(manifest, force=force, manager=manager)
        self._wrote(applied.live)
        return applied

    async def apply_status(self, manifest: Manifest) -> Manifest:
        """See Cluster."""
        return await self._cluster.apply_status(manifest)

    async def delete(self, target: Ref, *, uid: str) -> None:
        """See Cluster."""
        await self._cluster.delete(target, uid=uid)
        self._cache.deleted(target)

    async def create(self, manifest: Manifest) -> Manifest:
        """See Cluster."""
        return await self._cluster.create(manifest)

    async def replace(self, manifest: Manifest) -> Manifest:
        """See Cluster."""
        return await self._cluster.replace(manifest)

    async def merge(self, target: Ref, change: Mapping[str, Any]) -> Manifest:
        """See Cluster."""
        live = await self._cluster.merge(target, change)
        self._wrote(live)
        return live

    def _wrote(self, live: Manifest) -> None:
        if (live["apiVersion"], live["kind"]) in KINDS:
            self._cache.wrote(live)
