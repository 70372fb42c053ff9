"""Client of the API server: the few requests that the operator makes.

The only module that imports the Kubernetes client. It decides nothing: callers judge ownership and differences.
Objects are plain data, as in JSON.
"""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from kubernetes.aio import client, config

from llmproxy_api import API_VERSION, KIND, PLURAL
from llmproxy_operator import names
from llmproxy_operator.errors import ClusterError, ConflictError, OperatorError, RefusedError, UnavailableError
from llmproxy_operator.manifest import Manifest, Ref, ref

PLURALS = {
    (API_VERSION, KIND): PLURAL,
    ("apps/v1", "ControllerRevision"): "controllerrevisions",
    ("apps/v1", "Deployment"): "deployments",
    ("apps/v1", "ReplicaSet"): "replicasets",
    ("autoscaling/v2", "HorizontalPodAutoscaler"): "horizontalpodautoscalers",
    ("coordination.k8s.io/v1", "Lease"): "leases",
    ("monitoring.coreos.com/v1", "PodMonitor"): "podmonitors",
    ("networking.k8s.io/v1", "NetworkPolicy"): "networkpolicies",
    ("policy/v1", "PodDisruptionBudget"): "poddisruptionbudgets",
    ("v1", "ConfigMap"): "configmaps",
    ("v1", "Event"): "events",
    ("v1", "Pod"): "pods",
    ("v1", "Secret"): "secrets",
    ("v1", "Service"): "services",
}
"""Every kind that is used, with its plural in URLs."""

TIMEOUT_S = 15
"""Timeout of one request: the API server answers in milliseconds or is in trouble."""
MAX_CONNECTIONS = 64
"""Connections for requests; each watch has one besides."""
PAGE_SIZE = 500
"""Objects in one page of a list."""
MAX_RETRY_AFTER_S = 60.0
"""Longer values of `Retry-After` are cut to this."""
MAX_MESSAGE_CHARS = 1000
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity"}
"""Without compression: compressing long lists costs the API server more than sending them."""
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_CREATED = 201
_OK = 200
_HTTP_404 = 404
_TRANSIENT = frozenset({401, 404, 408, 409, 410, 429})
"""Transient statuses besides 5xx. 404 to a write: the namespace or the object is just being deleted."""


class ApplyResult(NamedTuple):
    """Result of a server-side apply."""

    live: Manifest
    created: bool
    """False: an object of that name existed."""


class ObjectList(NamedTuple):
    """All objects of one kind, with the list's version."""

    items: tuple[Manifest, ...]
    version: str
    """Version to watch from; empty if the kind is not served."""

    @property
    def served(self) -> bool:
        """The API server serves the kind."""
        return bool(self.version)


class WatchEvent(NamedTuple):
    """Event of a watch."""

    type: str
    """ADDED, MODIFIED, DELETED; or BOOKMARK, which only has a version."""
    object: Manifest


class Cluster(Protocol):
    """Requests of the operator to a cluster. Every method may raise ClusterError."""

    async def get(self, target: Ref, *, allow_stale: bool = False) -> Manifest | None:
        """Return an object, None if there is none; with *allow_stale* possibly an older one, which costs less."""

    async def list(
        self, api_version: str, kind: str, namespace: str, labels: Mapping[str, str], *, uncached: bool = False
    ) -> tuple[Manifest, ...]:
        """Return the objects of a namespace with these labels; none of a kind that is not served.

        With *uncached* the API server is asked, whatever a cache has.
        """

    async def serves(self, api_version: str, kind: str) -> bool:
        """Return whether the API server serves a kind that is no part of Kubernetes itself."""

    async def apply(self, manifest: Manifest, *, force: bool, manager: str = names.FIELD_MANAGER) -> ApplyResult:
        """Server-side apply; without *force* a field of another manager is a ConflictError."""

    async def apply_status(self, manifest: Manifest) -> Manifest:
        """Server-side apply of the status alone."""

    async def delete(self, target: Ref, *, uid: str) -> None:
        """Delete exactly this object, none that took its name; one that is gone counts as deleted."""

    async def create(self, manifest: Manifest) -> Manifest:
        """Create an object; ConflictError if one of that name exists."""

    async def replace(self, manifest: Manifest) -> Manifest:
        """Replace an object; ConflictError if it is not at the manifest's resourceVersion any more."""

    async def merge(self, target: Ref, change: Mapping[str, Any]) -> Manifest:
        """Apply a JSON merge patch to an object."""


class ConfigurationError(OperatorError):
    """No cluster is configured; the message says where a configuration was looked for."""


@dataclass(frozen=True)
class ConnectionInfo:
    """Address and credentials of the API server, also for kopf, so that both use the same one."""

    server: str
    ca_path: str | None
    certificate_path: str | None
    key_path: str | None
    verify: bool
    token: Callable[[], Awaitable[str | None]]
    """Return the present bearer token, without its scheme: a service account's is renewed every hour."""


class ApiServer:
    """Cluster behind an API server. *on_write* is called with the verb and kind of every write."""

    def __init__(self, api: client.ApiClient, on_write: Callable[[str, str], None] = lambda _verb, _kind: None) -> None:
        self._api = api
        self._on_write = on_write
        self.before_write: Callable[[], None] = lambda: None
        """Called before every write but that of a Lease; an exception keeps the write from being sent."""

    async def get(self, target: Ref, *, allow_stale: bool = False) -> Manifest | None:
        """See Cluster."""
        try:
            # resourceVersion=0 reads the API server's cache; without one it reads etcd.
            return (await self._request("GET", target, query={"resourceVersion": "0"} if allow_stale else None)).live
        except UnavailableError as exc:
            if exc.status == _HTTP_404:
                return None
            raise

    async def serves(self, api_version: str, kind: str) -> bool:
        """See Cluster."""
        try:
            group = await self._request("GET", Ref(api_version, "", "", ""))
        except UnavailableError as exc:
            if exc.status == _HTTP_404:
                return False
            raise
        return any(item.get("kind") == kind for item in group.live.get("resources") or ())

    async def probe(self, api_version: str, kind: str, namespace: str) -> None:
        """Return if objects of a kind can be listed, of all namespaces if *namespace* is empty; raise ClusterError."""
        await self._request("GET", Ref(api_version, kind, namespace, ""), query={"limit": "1"})

    async def list(
        self,
        api_version: str,
        kind: str,
        namespace: str,
        labels: Mapping[str, str],
        *,
        uncached: bool = True,  # noqa: ARG002
    ) -> tuple[Manifest, ...]:
        """See Cluster; always fresh."""
        return (await self.collect(api_version, kind, namespace, labels)).items

    async def collect(self, api_version: str, kind: str, namespace: str, labels: Mapping[str, str]) -> ObjectList:
        """Return all objects with these labels, of all namespaces if *namespace* is empty; read in pages."""
        target = Ref(api_version, kind, namespace, "")
        query = {**_selector_query(labels), "limit": str(PAGE_SIZE)}
        items: list[Manifest] = []
        while True:
            try:
                page = (await self._request("GET", target, query=query)).live
            except UnavailableError as exc:
                if exc.status == _HTTP_404:
                    return ObjectList((), "")
                raise
            # Items of a list come without apiVersion and kind.
            items += ({"apiVersion": api_version, "kind": kind, **item} for item in page.get("items") or ())
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                return ObjectList(tuple(items), str(metadata.get("resourceVersion") or ""))
            query["continue"] = str(metadata["continue"])

    async def watch(
        self, api_version: str, kind: str, namespace: str, labels: Mapping[str, str], *, since: str, for_s: float
    ) -> AsyncGenerator[WatchEvent]:
        """Yield the events of such objects after the version *since*, for so long."""
        target = Ref(api_version, kind, namespace, "")
        query = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": since}
        query |= {"timeoutSeconds": str(max(1, int(for_s))), **_selector_query(labels)}
        rest = b""
        async with self._send("GET", target, _Body(), query=query, timeout_s=for_s + TIMEOUT_S) as response:
            if response.status != _OK:
                raise _error("WATCH", target, response.status, await response.read(), response.headers)
            async for piece in response.content.iter_any():
                *lines, rest = (rest + piece).split(b"\n")
                for line in filter(None, lines):
                    change = json.loads(line)
                    if change["type"] == "ERROR":
                        error = change["object"]
                        raise _error("WATCH", target, int(error.get("code") or 500), json.dumps(error).encode(), {})
                    yield WatchEvent(change["type"], {"apiVersion": api_version, "kind": kind, **change["object"]})

    async def apply(self, manifest: Manifest, *, force: bool, manager: str = names.FIELD_MANAGER) -> ApplyResult:
        """See Cluster."""
        query = {"fieldManager": manager, "force": "true" if force else "false"}
        return await self._request("PATCH", ref(manifest), body=manifest, query=query, content_type=_APPLY)

    async def apply_status(self, manifest: Manifest) -> Manifest:
        """See Cluster."""
        query = {"fieldManager": names.FIELD_MANAGER, "force": "true"}
        result = await self._request(
            "PATCH", ref(manifest), body=manifest, query=query, content_type=_APPLY, subresource="/status"
        )
        return result.live

    async def delete(self, target: Ref, *, uid: str) -> None:
        """See Cluster."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        try:
            await self._request("DELETE", target, body=body)
        except UnavailableError as exc:
            if exc.status not in {404, 409}:
                raise

    async def create(self, manifest: Manifest) -> Manifest:
        """See Cluster."""
        collection = ref(manifest)._replace(name="")
        query = {"fieldManager": names.FIELD_MANAGER}
        return (await self._request("POST", collection, body=manifest, query=query)).live

    async def replace(self, manifest: Manifest) -> Manifest:
        """See Cluster."""
        query = {"fieldManager": names.FIELD_MANAGER}
        return (await self._request("PUT", ref(manifest), body=manifest, query=query)).live

    async def merge(self, target: Ref, change: Mapping[str, Any]) -> Manifest:
        """See Cluster."""
        query = {"fieldManager": names.FIELD_MANAGER}
        return (await self._request("PATCH", target, body=change, query=query, content_type=_MERGE)).live

    async def _request(
        self,
        verb: str,
        target: Ref,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        subresource: str = "",
    ) -> ApplyResult:
        if verb != "GET":
            if target.kind != "Lease":
                self.before_write()
            self._on_write(verb, target.kind + subresource)
        body_fields = _Body(body, content_type, subresource)
        async with self._send(verb, target, body_fields, query=query or {}, timeout_s=TIMEOUT_S) as response:
            content: bytes = await response.read()
            if response.status >= 300:  # noqa: PLR2004 - HTTP's own number
                raise _error(verb, target, response.status, content, response.headers)
            return ApplyResult(json.loads(content), created=response.status == _CREATED)

    @asynccontextmanager
    async def _send(
        self, verb: str, target: Ref, body: "_Body", *, query: Mapping[str, str], timeout_s: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; yield the response before its content is read."""
        parts = await self._api.param_serialize(
            verb,
            _path(target) + body.subresource,
            query_params=list(query.items()),
            header_params={**_HEADERS, "Content-Type": body.content_type},
            body=body.content,
            auth_settings=["BearerToken"],
        )
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._api.call_api(*parts, _request_timeout=aiohttp.ClientTimeout(total=timeout_s))
                async with answer.response as response:
                    yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            cause = str(exc) or type(exc).__name__
            raise UnavailableError(f"{verb} {target}: no answer from the API server: {cause}") from exc


class _Body(NamedTuple):
    """Body of a request, and what belongs to it."""

    content: Mapping[str, Any] | None = None
    content_type: str = "application/json"
    subresource: str = ""


def _selector_query(labels: Mapping[str, str]) -> dict[str, str]:
    return {"labelSelector": names.selector(labels)} if labels else {}


def _path(target: Ref) -> str:
    root = f"/apis/{target.api_version}" if "/" in target.api_version else f"/api/{target.api_version}"
    if not target.kind:
        return root  # the resources of a group
    place = f"{root}/namespaces/{quote(target.namespace)}" if target.namespace else root
    path = f"{place}/{PLURALS[target.api_version, target.kind]}"
    return f"{path}/{quote(target.name)}" if target.name else path


def _error(verb: str, target: Ref, status: int, content: bytes, headers: Mapping[str, str]) -> ClusterError:
    try:
        status_object = json.loads(content)
    except ValueError:
        status_object = {}
    status_object = status_object if isinstance(status_object, dict) else {}
    retry_after = headers.get("Retry-After", "")
    retry_after_s = (
        min(MAX_RETRY_AFTER_S, float(retry_after)) if retry_after.isascii() and retry_after.isdecimal() else 0.0
    )
    text = str(status_object.get("message") or f"HTTP {status}")[:MAX_MESSAGE_CHARS]
    message = f"{verb} {target}: {text}"
    if status == 409:  # noqa: PLR2004 - HTTP's own number
        return ConflictError(message, status=status, retry_after_s=retry_after_s)
    causes = (status_object.get("details") or {}).get("causes") or ()
    terminating = any(cause.get("reason") == "NamespaceTerminating" for cause in causes)
    if terminating or status in _TRANSIENT or status >= 500:  # noqa: PLR2004 - HTTP's own number
        return UnavailableError(message, status=status, retry_after_s=retry_after_s)
    return RefusedError(message, status=status)


@asynccontextmanager
async def connect(
    on_write: Callable[[str, str], None], *, watches: int = 0
) -> AsyncIterator[tuple[ApiServer, ConnectionInfo]]:
    """Connect to the cluster this process runs in, else to that of KUBECONFIG; raise ConfigurationError."""
    settings = client.Configuration()
    settings.connection_pool_maxsize = MAX_CONNECTIONS + watches
    try:
        if os.environ.get("KUBERNETES_SERVICE_HOST"):
            config.load_incluster_config(client_configuration=settings)
        else:
            path = os.environ.get("KUBECONFIG") or "~/.kube/config"
            await config.load_kube_config(config_file=path, client_configuration=settings)
    except (config.ConfigException, OSError) as exc:
        message = f"no cluster can be reached by a service account, KUBECONFIG or ~/.kube/config: {exc}"
        raise ConfigurationError(message) from exc
    settings.proxy = _proxy(settings.host)
    # trust_env has aiohttp read the environment and ~/.netrc for each request: a fifth of the operator's CPU.
    settings.client_session_kwargs = {"trust_env": False}
    async with client.ApiClient(settings) as api:
        api.user_agent = names.FIELD_MANAGER
        yield ApiServer(api, on_write), _connection_info(settings)


def _proxy(server: str) -> str | None:
    """Return the HTTP proxy of the environment for *server*."""
    url = urlsplit(server)
    return None if proxy_bypass(url.hostname or "") else getproxies().get(url.scheme)


def _connection_info(settings: client.Configuration) -> ConnectionInfo:
    async def token() -> str | None:
        header: str | None = await settings.get_api_key_with_prefix("BearerToken")
        return header.split(" ")[-1].strip() if header else None

    return ConnectionInfo(
        server=settings.host,
        ca_path=settings.ssl_ca_cert,
        certificate_path=settings.cert_file,
        key_path=settings.key_file,
        verify=settings.verify_ssl,
        token=token,
    )
