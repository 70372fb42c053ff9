"""What the cluster itself needs for the objects of LLMProxies: a client that only writes them, and no operator.

The same bytes with the same owners, as many at once, each object once and one status: it reads, compares and watches
nothing. An operator with these children cannot be quicker.
"""

import asyncio
import secrets
import time
from dataclasses import replace
from typing import Any

from e2e.proxies import an_llmproxy
from llmproxy_api import API_VERSION, KIND, LLMProxy, parse
from llmproxy_operator import conditions as reporting
from llmproxy_operator import names
from llmproxy_operator.cluster import ApiServer
from llmproxy_operator.conditions import Observation
from llmproxy_operator.errors import UnavailableError
from llmproxy_operator.manifest import Manifest
from llmproxy_operator.render import (
    Inputs,
    control_secret,
    peers_secret,
    render,
    revision,
    scaling,
    secret_digest,
    store,
)
from llmproxy_operator.rollout_status import Rollout


async def write_all(api: ApiServer, namespace: str, count: int, *, image: str, at_once: int) -> float:
    """Write *count* proxies with all their objects; return after how many seconds all were there."""
    gate = asyncio.Semaphore(at_once)
    began_s = time.monotonic()

    async def one(number: int) -> None:
        item = an_llmproxy(f"proxy-{number:04}")
        item["metadata"]["namespace"] = namespace
        async with gate:
            await _write(api, item, image)

    await asyncio.gather(*(one(number) for number in range(count)))
    return time.monotonic() - began_s


async def _write(api: ApiServer, item: Manifest, image: str) -> None:
    raw = await api.create(item)
    proxy = parse(raw)
    first, last, made = _objects(proxy, image)
    await asyncio.gather(*(_apply(api, child) for child in first))
    await _apply(api, last)
    written: dict[str, Any] = {"apiVersion": API_VERSION, "kind": KIND, "status": made}
    await api.apply_status(
        {**written, "metadata": {"name": proxy.metadata.name, "namespace": item["metadata"]["namespace"]}}
    )


async def _apply(api: ApiServer, child: Manifest) -> None:
    while True:
        try:
            await api.apply(child, force=False)
        except UnavailableError:
            await asyncio.sleep(0.2)
        else:
            return


def _objects(proxy: LLMProxy, image: str) -> tuple[list[Manifest], Manifest, dict[str, Any]]:
    """Return the children, the Deployment that comes after them, and the first status."""
    token, control = secrets.token_hex(32), secrets.token_hex(32)
    own = (names.peers(proxy.metadata.name), names.LIMITS_PASSWORD_KEY)
    digest = secret_digest(proxy.metadata.uid, store.password(token).encode())
    pods = revision(proxy, replace(Inputs(image, {}), secret_digests={own: digest}))
    children = [peers_secret(proxy, token), control_secret(proxy, control), *render(proxy, pods)]
    (last,) = (child for child in children if child["kind"] == "Deployment")
    view = Observation(proxy.metadata.generation, proxy, pods.config_hash, Rollout(desired=1))
    made = reporting.status(view, {}, now="2026-01-01T00:00:00Z")
    return [child for child in children if child is not last], scaling.first(last, proxy), made
