"""Sources of samples for `llmproxy top`: pods of a cluster, through its API server, or runs of `llmproxy local`.

In a cluster it lists pods and reads their admin port through the API server's pod proxy. That requires `list` on pods
and `get` on pods/proxy, no right to write; a port-forward would require `create` and reach any port.
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
from llmproxy_cli.top.metrics import MetricsError, Owner, PodMetrics, Sample, parse
from llmproxy_operator import names

if TYPE_CHECKING:
    from kubernetes.aio import client

TIMEOUT_S = 5.0
AT_ONCE = 16
"""Concurrent requests to pods."""
MAX_BYTES = 8 << 20

Sampler = Callable[[], Awaitable[Sample]]
_Ask = Callable[[], Awaitable[str]]


class SourceError(Exception):
    """There is no source; the message says why and what to do."""


@asynccontextmanager
async def local_source() -> AsyncIterator[Sampler]:
    """Yield a sampler of every `llmproxy local` of this user."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session:

        async def fetch(url: str) -> str:
            async with session.get(f"{url}/metrics") as answer:
                return (await answer.content.read(MAX_BYTES)).decode()

        async def sample() -> Sample:
            runs = registry.running()
            return await _sample(
                _pod((run.namespace, run.name), url, partial(fetch, url)) for run in runs for url in run.admin
            )

        yield sample


@asynccontextmanager
async def cluster_source(
    *,
    kubeconfig: Path | None = None,
    context: str | None = None,
    namespace: str | None = None,
    everywhere: bool = False,
) -> AsyncIterator[tuple[Sampler, str]]:
    """Yield a sampler of the pods of one namespace or of all, and the namespace (empty: all). Raise SourceError."""
    from kubernetes.aio import client  # noqa: PLC0415 - a second to import, which no other command should take

    settings, default = await _settings(kubeconfig, context)
    where = "" if everywhere else namespace or default
    async with client.ApiClient(settings) as api:
        api.user_agent = "llmproxy-top"
        server = _ApiServer(api)

        async def sample() -> Sample:
            path = f"/api/v1/namespaces/{quote(where)}/pods" if where else "/api/v1/pods"
            labels = {names.LABEL_COMPONENT: names.GATEWAY, "app.kubernetes.io/managed-by": names.FIELD_MANAGER}
            listed = json.loads(await server.get(path, {"labelSelector": names.selector(labels)}))
            return await _sample([_pod_request(server, *which) for which in running_pods(listed["items"])])

        yield sample, where


def running_pods(pods: Iterable[dict[str, Any]]) -> list[tuple[Owner, str]]:
    """Return the LLMProxy and the name of each running pod."""
    return [
        ((pod["metadata"]["namespace"], pod["metadata"]["labels"][names.LABEL_NAME]), pod["metadata"]["name"])
        for pod in pods
        if pod.get("status", {}).get("phase") == "Running" and names.LABEL_NAME in pod["metadata"].get("labels", {})
    ]


async def _settings(kubeconfig: Path | None, context: str | None) -> tuple[Any, str]:
    """Return the client's configuration and the default namespace."""
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
        raise SourceError(f"no cluster can be reached: {exc}; use --kubeconfig FILE, or --local") from exc
    chosen = next((item for item in contexts if item["name"] == context), current)
    return settings, chosen["context"].get("namespace") or "default"


def _own_namespace() -> str:
    """Return the namespace of the pod that this runs in."""
    return Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace").read_text().strip()


class _ApiServer:
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
            raise SourceError(f"no answer from the API server: {str(exc) or type(exc).__name__}") from exc
        text = content.decode(errors="replace")
        if answer.status != 200:  # noqa: PLR2004 - HTTP's own number
            raise SourceError(refusal(answer.status, text))
        return text


def refusal(status: int, text: str) -> str:
    """Return the API server's message in one line, with the required rights after a 403."""
    try:
        reason = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        reason = " ".join(text.split())[:200]
    way_out = "; it needs list on pods and get on pods/proxy: see docs/cli.md" if status == 403 else ""  # noqa: PLR2004
    return f"{status} {reason}{way_out}"


def _pod_request(server: _ApiServer, owner: Owner, name: str) -> Awaitable[PodMetrics | str]:
    path = f"/api/v1/namespaces/{quote(owner[0])}/pods/{quote(name)}:{names.PORT_ADMIN}/proxy/metrics"
    return _pod(owner, name, partial(server.get, path))


async def _pod(owner: Owner, name: str, ask: _Ask) -> PodMetrics | str:
    """Return the metrics of a pod, or the error as text."""
    try:
        return PodMetrics(owner, name, parse(await ask()))
    except (SourceError, MetricsError, aiohttp.ClientError, TimeoutError, OSError, UnicodeDecodeError) as exc:
        return f"{owner[0]}/{name}: {str(exc) or type(exc).__name__}"


async def _sample(requests: Iterable[Awaitable[PodMetrics | str]]) -> Sample:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(pod: Awaitable[PodMetrics | str]) -> PodMetrics | str:
        async with gate:
            return await pod

    at_s = time.monotonic()
    results = await asyncio.gather(*(one(pod) for pod in requests))
    return Sample(
        at_s,
        tuple(pod for pod in results if isinstance(pod, PodMetrics)),
        tuple(sorted(reason for reason in results if isinstance(reason, str))),
    )
