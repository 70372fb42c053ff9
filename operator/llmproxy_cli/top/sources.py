"""Where `llmproxy top` looks: pods of a cluster, through its API server, or the runs of `llmproxy local`.

In a cluster it lists pods and asks their admin port by the API server's proxy to pods. That needs `list` on pods and
`get` on pods/proxy, nothing that writes; a port-forward would need `create`, and could send anything to any port.
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp

from llmproxy_cli.local import registry
from llmproxy_cli.top.metrics import Look, MetricsError, Owner, Pod, parse
from llmproxy_operator import names

if TYPE_CHECKING:
    from kubernetes.aio import client

TIMEOUT_S = 5.0
AT_ONCE = 16
"""Pods that are asked at the same time."""
MAX_BYTES = 8 << 20

Looker = Callable[[], Awaitable[Look]]
_Ask = Callable[[], Awaitable[str]]


class LookError(Exception):
    """There is nothing to look at; the message says why and what to do."""


@asynccontextmanager
async def at_local() -> AsyncIterator[Looker]:
    """Yield what looks at every `llmproxy local` of this user."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session:

        async def fetch(url: str) -> str:
            async with session.get(f"{url}/metrics") as answer:
                return (await answer.content.read(MAX_BYTES)).decode()

        async def look() -> Look:
            found = registry.alive()
            asked = [_pod((run.namespace, run.name), url, partial(fetch, url)) for run in found for url in run.admin]
            return await _look(asked)

        yield look


@asynccontextmanager
async def at_cluster(
    *,
    kubeconfig: Path | None = None,
    context: str | None = None,
    namespace: str | None = None,
    everywhere: bool = False,
) -> AsyncIterator[tuple[Looker, str]]:
    """Yield what looks at the pods of one namespace or of all, and the namespace (empty: all). Raise LookError."""
    from kubernetes.aio import client  # noqa: PLC0415 - a second to import, which no other command should take

    settings, default = await _settings(kubeconfig, context)
    where = "" if everywhere else namespace or default
    async with client.ApiClient(settings) as api:
        api.user_agent = "llmproxy-top"
        server = _Server(api)

        async def look() -> Look:
            path = f"/api/v1/namespaces/{quote(where)}/pods" if where else "/api/v1/pods"
            wanted = {names.LABEL_COMPONENT: names.GATEWAY, "app.kubernetes.io/managed-by": names.FIELD_MANAGER}
            listed = json.loads(await server.get(path, {"labelSelector": names.selector(wanted)}))
            return await _look([_asked(server, *which) for which in running(listed["items"])])

        yield look, where


def running(pods: Iterable[dict[str, Any]]) -> list[tuple[Owner, str]]:
    """Return the LLMProxy and name of each pod that can be asked."""
    return [
        ((pod["metadata"]["namespace"], pod["metadata"]["labels"][names.LABEL_NAME]), pod["metadata"]["name"])
        for pod in pods
        if pod.get("status", {}).get("phase") == "Running" and names.LABEL_NAME in pod["metadata"].get("labels", {})
    ]


async def _settings(kubeconfig: Path | None, context: str | None) -> tuple[Any, str]:
    """Return how to reach the API server, and the namespace to look at unless another is named."""
    from kubernetes.aio import client, config  # noqa: PLC0415 - as above

    settings = client.Configuration()
    try:
        if kubeconfig is None and context is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
            config.load_incluster_config(client_configuration=settings)
            return settings, _own_namespace()
        where = str(kubeconfig or os.environ.get("KUBECONFIG") or Path.home() / ".kube/config")
        await config.load_kube_config(config_file=where, context=context, client_configuration=settings)
        contexts, current = config.list_kube_config_contexts(where)
    except (config.ConfigException, OSError) as exc:
        raise LookError(f"no cluster can be reached: {exc}; say --kubeconfig FILE, or --local") from exc
    chosen = next((found for found in contexts if found["name"] == context), current)
    return settings, chosen["context"].get("namespace") or "default"


def _own_namespace() -> str:
    """Return the namespace of the pod that this runs in."""
    return Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace").read_text().strip()


class _Server:
    """The API server, for reading."""

    def __init__(self, api: "client.ApiClient") -> None:
        self._api = api

    async def get(self, path: str, query: dict[str, str] | None = None) -> str:
        """Return what is at *path*; raise LookError."""
        parts = await self._api.param_serialize(
            "GET", path, query_params=list((query or {}).items()), header_params={}, auth_settings=["BearerToken"]
        )
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await self._api.call_api(*parts, _request_timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
                content: bytes = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise LookError(f"no answer from the API server: {str(exc) or type(exc).__name__}") from exc
        text = content.decode(errors="replace")
        if answer.status != 200:  # noqa: PLR2004 - HTTP's own number
            raise LookError(refusal(answer.status, text))
        return text


def refusal(status: int, text: str) -> str:
    """Return in one line what the API server says, with the way out if a right is missing."""
    try:
        said = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        said = " ".join(text.split())[:200]
    way_out = "; it needs list on pods and get on pods/proxy: see docs/cli.md" if status == 403 else ""  # noqa: PLR2004
    return f"{status} {said}{way_out}"


def _asked(server: _Server, owner: Owner, name: str) -> Awaitable[Pod | str]:
    path = f"/api/v1/namespaces/{quote(owner[0])}/pods/{quote(name)}:{names.PORT_ADMIN}/proxy/metrics"
    return _pod(owner, name, partial(server.get, path))


async def _pod(owner: Owner, name: str, ask: _Ask) -> Pod | str:
    """Return what a pod said, or in words why not."""
    try:
        return Pod(owner, name, parse(await ask()))
    except (LookError, MetricsError, aiohttp.ClientError, TimeoutError, OSError, UnicodeDecodeError) as exc:
        return f"{owner[0]}/{name}: {str(exc) or type(exc).__name__}"


async def _look(asked: Iterable[Awaitable[Pod | str]]) -> Look:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(pod: Awaitable[Pod | str]) -> Pod | str:
        async with gate:
            return await pod

    at_s = time.monotonic()
    found = await asyncio.gather(*(one(pod) for pod in asked))
    return Look(
        at_s,
        tuple(pod for pod in found if isinstance(pod, Pod)),
        tuple(sorted(said for said in found if isinstance(said, str))),
    )
