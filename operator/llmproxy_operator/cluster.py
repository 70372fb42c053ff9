"""The seam to Kubernetes: the few things a pass asks of a cluster, and how the API server is asked for them.

The only module that imports the Kubernetes client. It decides nothing: whose an object is and whether it must change
is known to the callers. Objects are plain data, as JSON has them.
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
"""Every kind that is spoken of, with its name in URLs."""

TIMEOUT_S = 15
"""For one request: the API server answers in milliseconds or is in trouble."""
MAX_CONNECTIONS = 64
"""For requests; each watch has one besides."""
PART = 500
"""Objects in one part of a list."""
MAX_AGAIN_S = 60.0
"""No `Retry-After` is waited for longer."""
MAX_MESSAGE_CHARS = 1000
_PLAIN = {"Accept": "application/json", "Accept-Encoding": "identity"}
"""Compressing long lists costs the API server more than sending them."""
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_CREATED = 201
_OK = 200
_NOT_FOUND = 404
_AGAIN = frozenset({401, 404, 408, 409, 410, 429})
"""Besides 5xx: answers that may be others the next time. 404 to a write: the namespace or the object is just going."""


class Applied(NamedTuple):
    """What an apply led to."""

    live: Manifest
    created: bool
    """False: there was an object of that name."""


class Listed(NamedTuple):
    """A whole list of one kind."""

    items: tuple[Manifest, ...]
    version: str
    """To watch from; empty if the kind is not served."""

    @property
    def served(self) -> bool:
        """Whether the API server knows the kind."""
        return bool(self.version)


class Change(NamedTuple):
    """What a watch tells."""

    type: str
    """ADDED, MODIFIED, DELETED; or BOOKMARK, which has no more than a version."""
    object: Manifest


class Cluster(Protocol):
    """What the operator needs of a cluster. Every method may raise ClusterError."""

    async def get(self, target: Ref, *, maybe_old: bool = False) -> Manifest | None:
        """Return an object, None if there is none; a moment ago, with *maybe_old*, which costs less."""

    async def list(
        self, api_version: str, kind: str, namespace: str, labels: Mapping[str, str], *, fresh: bool = False
    ) -> tuple[Manifest, ...]:
        """Return the objects of a namespace with these labels; none of a kind that is not served.

        With *fresh* it is the API server that is asked, whatever is known.
        """

    async def serves(self, api_version: str, kind: str) -> bool:
        """Return whether the API server knows a kind that is no part of Kubernetes itself."""

    async def apply(self, manifest: Manifest, *, force: bool, manager: str = names.FIELD_MANAGER) -> Applied:
        """Server-side apply; without *force* a field of somebody else's is a ConflictError."""

    async def apply_status(self, manifest: Manifest) -> Manifest:
        """Server-side apply of the status alone."""

    async def delete(self, target: Ref, *, uid: str) -> None:
        """Delete exactly this object, none that took its name; one that is gone is as good as deleted."""

    async def create(self, manifest: Manifest) -> Manifest:
        """Create an object; ConflictError if there is one of that name."""

    async def replace(self, manifest: Manifest) -> Manifest:
        """Replace an object; ConflictError if it is not at the manifest's resourceVersion any more."""

    async def merge(self, target: Ref, change: Mapping[str, Any]) -> Manifest:
        """Merge a change into an object."""


class ConfigurationError(OperatorError):
    """No cluster can be found from here; the message says where it was looked for."""


@dataclass(frozen=True)
class Access:
    """How to reach the API server; kopf takes it from here too, so that both speak to the same one."""

    server: str
    ca_path: str | None
    certificate_path: str | None
    key_path: str | None
    verify: bool
    token: Callable[[], Awaitable[str | None]]
    """The bearer token of now, without its scheme: a service account's is renewed every hour."""


class ApiServer:
    """The cluster behind an API server. Every write is counted by *wrote*, called with its verb and kind."""

    def __init__(self, api: client.ApiClient, wrote: Callable[[str, str], None] = lambda _verb, _kind: None) -> None:
        self._api = api
        self._wrote = wrote
        self.before_write: Callable[[], None] = lambda: None
        """Called before every write but that of a Lease; what it raises keeps the write from being sent."""

    async def get(self, target: Ref, *, maybe_old: bool = False) -> Manifest | None:
        """See Cluster."""
        try:
            # Version 0 is whatever the API server has at hand; without one it asks etcd.
            return (await self._ask("GET", target, query={"resourceVersion": "0"} if maybe_old else None)).live
        except UnavailableError as exc:
            if exc.status == _NOT_FOUND:
                return None
            raise

    async def serves(self, api_version: str, kind: str) -> bool:
        """See Cluster."""
        try:
            found = await self._ask("GET", Ref(api_version, "", "", ""))
        except UnavailableError as exc:
            if exc.status == _NOT_FOUND:
                return False
            raise
        return any(item.get("kind") == kind for item in found.live.get("resources") or ())

    async def list(
        self,
        api_version: str,
        kind: str,
        namespace: str,
        labels: Mapping[str, str],
        *,
        fresh: bool = True,  # noqa: ARG002
    ) -> tuple[Manifest, ...]:
        """See Cluster; always fresh."""
        return (await self.collect(api_version, kind, namespace, labels)).items

    async def collect(self, api_version: str, kind: str, namespace: str, labels: Mapping[str, str]) -> Listed:
        """Return all objects with these labels, of all namespaces if *namespace* is empty, in parts."""
        target = Ref(api_version, kind, namespace, "")
        query = {**_selecting(labels), "limit": str(PART)}
        items: list[Manifest] = []
        while True:
            try:
                found = (await self._ask("GET", target, query=query)).live
            except UnavailableError as exc:
                if exc.status == _NOT_FOUND:
                    return Listed((), "")
                raise
            # Items of a list come without these two.
            items += ({"apiVersion": api_version, "kind": kind, **item} for item in found.get("items") or ())
            metadata = found.get("metadata") or {}
            if not metadata.get("continue"):
                return Listed(tuple(items), str(metadata.get("resourceVersion") or ""))
            query["continue"] = str(metadata["continue"])

    async def watch(
        self, api_version: str, kind: str, namespace: str, labels: Mapping[str, str], *, since: str, for_s: float
    ) -> AsyncGenerator[Change]:
        """Yield what happens to such objects after the version *since*, for so long."""
        target = Ref(api_version, kind, namespace, "")
        query = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": since}
        query |= {"timeoutSeconds": str(max(1, int(for_s))), **_selecting(labels)}
        rest = b""
        async with self._asking("GET", target, _Sent(), query=query, timeout_s=for_s + TIMEOUT_S) as answer:
            if answer.status != _OK:
                raise _error("WATCH", target, answer.status, await answer.read(), answer.headers)
            async for piece in answer.content.iter_any():
                *lines, rest = (rest + piece).split(b"\n")
                for line in filter(None, lines):
                    change = json.loads(line)
                    if change["type"] == "ERROR":
                        said = change["object"]
                        raise _error("WATCH", target, int(said.get("code") or 500), json.dumps(said).encode(), {})
                    yield Change(change["type"], {"apiVersion": api_version, "kind": kind, **change["object"]})

    async def apply(self, manifest: Manifest, *, force: bool, manager: str = names.FIELD_MANAGER) -> Applied:
        """See Cluster."""
        query = {"fieldManager": manager, "force": "true" if force else "false"}
        return await self._ask("PATCH", ref(manifest), body=manifest, query=query, content_type=_APPLY)

    async def apply_status(self, manifest: Manifest) -> Manifest:
        """See Cluster."""
        query = {"fieldManager": names.FIELD_MANAGER, "force": "true"}
        answer = await self._ask(
            "PATCH", ref(manifest), body=manifest, query=query, content_type=_APPLY, subresource="/status"
        )
        return answer.live

    async def delete(self, target: Ref, *, uid: str) -> None:
        """See Cluster."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        try:
            await self._ask("DELETE", target, body=body)
        except UnavailableError as exc:
            if exc.status not in {404, 409}:
                raise

    async def create(self, manifest: Manifest) -> Manifest:
        """See Cluster."""
        collection = ref(manifest)._replace(name="")
        query = {"fieldManager": names.FIELD_MANAGER}
        return (await self._ask("POST", collection, body=manifest, query=query)).live

    async def replace(self, manifest: Manifest) -> Manifest:
        """See Cluster."""
        query = {"fieldManager": names.FIELD_MANAGER}
        return (await self._ask("PUT", ref(manifest), body=manifest, query=query)).live

    async def merge(self, target: Ref, change: Mapping[str, Any]) -> Manifest:
        """See Cluster."""
        query = {"fieldManager": names.FIELD_MANAGER}
        return (await self._ask("PATCH", target, body=change, query=query, content_type=_MERGE)).live

    async def _ask(
        self,
        verb: str,
        target: Ref,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        subresource: str = "",
    ) -> Applied:
        if verb != "GET":
            if target.kind != "Lease":
                self.before_write()
            self._wrote(verb, target.kind + subresource)
        sent = _Sent(body, content_type, subresource)
        async with self._asking(verb, target, sent, query=query or {}, timeout_s=TIMEOUT_S) as answer:
            content: bytes = await answer.read()
            if answer.status >= 300:  # noqa: PLR2004 - HTTP's own number
                raise _error(verb, target, answer.status, content, answer.headers)
            return Applied(json.loads(content), created=answer.status == _CREATED)

    @asynccontextmanager
    async def _asking(
        self, verb: str, target: Ref, sent: "_Sent", *, query: Mapping[str, str], timeout_s: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; yield the answer before its content is read."""
        parts = await self._api.param_serialize(
            verb,
            _path(target) + sent.subresource,
            query_params=list(query.items()),
            header_params={**_PLAIN, "Content-Type": sent.content_type},
            body=sent.body,
            auth_settings=["BearerToken"],
        )
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._api.call_api(*parts, _request_timeout=aiohttp.ClientTimeout(total=timeout_s))
                async with answer.response as response:
                    yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            why = str(exc) or type(exc).__name__
            raise UnavailableError(f"{verb} {target}: no answer from the API server: {why}") from exc


class _Sent(NamedTuple):
    """What goes with a request."""

    body: Mapping[str, Any] | None = None
    content_type: str = "application/json"
    subresource: str = ""


def _selecting(labels: Mapping[str, str]) -> dict[str, str]:
    return {"labelSelector": names.selector(labels)} if labels else {}


def _path(target: Ref) -> str:
    root = f"/apis/{target.api_version}" if "/" in target.api_version else f"/api/{target.api_version}"
    if not target.kind:
        return root  # what the API server serves of a group
    place = f"{root}/namespaces/{quote(target.namespace)}" if target.namespace else root
    path = f"{place}/{PLURALS[target.api_version, target.kind]}"
    return f"{path}/{quote(target.name)}" if target.name else path


def _error(verb: str, target: Ref, status: int, content: bytes, headers: Mapping[str, str]) -> ClusterError:
    try:
        said = json.loads(content)
    except ValueError:
        said = {}
    said = said if isinstance(said, dict) else {}
    asked = headers.get("Retry-After", "")
    again_s = min(MAX_AGAIN_S, float(asked)) if asked.isascii() and asked.isdecimal() else 0.0
    words = str(said.get("message") or f"HTTP {status}")[:MAX_MESSAGE_CHARS]
    message = f"{verb} {target}: {words}"
    if status == 409:  # noqa: PLR2004 - HTTP's own number
        return ConflictError(message, status=status, again_s=again_s)
    causes = (said.get("details") or {}).get("causes") or ()
    going = any(cause.get("reason") == "NamespaceTerminating" for cause in causes)
    if going or status in _AGAIN or status >= 500:  # noqa: PLR2004 - HTTP's own number
        return UnavailableError(message, status=status, again_s=again_s)
    return RefusedError(message, status=status)


@asynccontextmanager
async def connect(wrote: Callable[[str, str], None], *, watches: int = 0) -> AsyncIterator[tuple[ApiServer, Access]]:
    """Reach the cluster this process runs in, else the one of KUBECONFIG; raise ConfigurationError."""
    settings = client.Configuration()
    settings.connection_pool_maxsize = MAX_CONNECTIONS + watches
    try:
        if os.environ.get("KUBERNETES_SERVICE_HOST"):
            config.load_incluster_config(client_configuration=settings)
        else:
            where = os.environ.get("KUBECONFIG") or "~/.kube/config"
            await config.load_kube_config(config_file=where, client_configuration=settings)
    except (config.ConfigException, OSError) as exc:
        message = f"no cluster can be reached by a service account, KUBECONFIG or ~/.kube/config: {exc}"
        raise ConfigurationError(message) from exc
    settings.proxy = _proxy(settings.host)
    # Else aiohttp would read the environment and ~/.netrc for each request: a fifth of what the operator costs.
    settings.client_session_kwargs = {"trust_env": False}
    async with client.ApiClient(settings) as api:
        api.user_agent = names.FIELD_MANAGER
        yield ApiServer(api, wrote), _access(settings)


def _proxy(server: str) -> str | None:
    """Return the proxy by which the environment wants *server* reached."""
    url = urlsplit(server)
    return None if proxy_bypass(url.hostname or "") else getproxies().get(url.scheme)


def _access(settings: client.Configuration) -> Access:
    async def token() -> str | None:
        written: str | None = await settings.get_api_key_with_prefix("BearerToken")
        return written.split(" ")[-1].strip() if written else None

    return Access(
        server=settings.host,
        ca_path=settings.ssl_ca_cert,
        certificate_path=settings.cert_file,
        key_path=settings.key_file,
        verify=settings.verify_ssl,
        token=token,
    )
