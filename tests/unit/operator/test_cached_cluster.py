"""A cluster that reads children from the cache, and everything else from the API server."""

from typing import Any

from fakes.children import MINE, a_child
from fakes.cluster import FakeCluster
from llmproxy_operator.errors import UnavailableError
from llmproxy_operator.manifest import Ref, ref
from llmproxy_operator.watch.cache import Cache
from llmproxy_operator.watch.cached_cluster import CachedCluster

Manifest = dict[str, Any]


async def test_a_name_that_the_cache_does_not_know_is_asked_for(cache: Cache) -> None:
    cluster = FakeCluster()
    cached = CachedCluster(cluster, cache)
    cluster.put({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "p", "namespace": "n"}})

    found = await cached.get(Ref("v1", "Service", "n", "p"))

    assert found is not None
    assert found["metadata"].get("labels") is None
    assert await cached.get(Ref("v1", "Service", "n", "q")) is None
    assert await cached.list("v1", "Service", "n", MINE) == ()


async def test_what_was_applied_and_deleted_is_known_without_a_question(cache: Cache) -> None:
    cluster = FakeCluster()
    cached = CachedCluster(cluster, cache)
    manifest = a_child(1)
    del manifest["metadata"]["resourceVersion"]
    applied = await cached.apply(manifest, force=False)
    cluster.failures[Ref("v1", "Service", "n", "p")] = UnavailableError("it is asked")

    found = await cached.get(Ref("v1", "Service", "n", "p"))
    assert found is not None
    assert found["metadata"]["uid"] == applied.live["metadata"]["uid"]

    cluster.failures.clear()
    await cached.delete(ref(found), uid=found["metadata"]["uid"])
    assert await cached.list("v1", "Service", "n", MINE) == ()
