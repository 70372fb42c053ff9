"""The seam to Kubernetes: the few things a pass asks of a cluster, and how the API server is asked for them.

The only module that imports the Kubernetes client. It decides nothing: whose an object is and whether it must change
is known to the callers. Objects are plain data, as JSON has them.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

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
MAX_MESSAGE_CHARS = 1000
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


class Cluster(Protocol):
    """What the operator needs of a cluster. Every method may raise ClusterError."""

    async def get(self, target: Ref) -> Manifest | None:
        """Return an object, None if there is none."""

    async def list(self, api_version: str, kind: str, namespace: str, selector: str) -> tuple[Manifest, ...]:
        """Return the objects of a namespace that a label selector picks; none of a kind that is not served."""

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

    async def get(self, target: Ref) -> Manifest | None:
        """See Cluster."""
        try:
            return (await self._ask("GET", target)).live
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

    async def list(self, api_version: str, kind: str, namespace: str, selector: str) -> tuple[Manifest, ...]:
        """See Cluster."""
        try:
            found = await self._ask("GET", Ref(api_version, kind, namespace, ""), query={"labelSelector": selector})
        except UnavailableError as exc:
            if exc.status == _NOT_FOUND:
                return ()
            raise
        # Items of a list come without these two.
        return tuple({"apiVersion": api_version, "kind": kind, **item} for item in found.live.get("items") or ())

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
            self._wrote(verb, target.kind + subresource)
        parts = await self._api.param_serialize(
            verb,
            _path(target) + subresource,
            query_params=list((query or {}).items()),
            header_params={"Accept": "application/json", "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await self._api.call_api(*parts, _request_timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
                content: bytes = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            why = str(exc) or type(exc).__name__
            raise UnavailableError(f"{verb} {target}: no answer from the API server: {why}") from exc
        if answer.status >= 300:  # noqa: PLR2004 - HTTP's own number
            raise _error(verb, target, answer.status, content)
        return Applied(json.loads(content), created=answer.status == _CREATED)


def _path(target: Ref) -> str:
    root = f"/apis/{target.api_version}" if "/" in target.api_version else f"/api/{target.api_version}"
    if not target.kind:
        return root  # what the API server serves of a group
    path = f"{root}/namespaces/{quote(target.namespace)}/{PLURALS[target.api_version, target.kind]}"
    return f"{path}/{quote(target.name)}" if target.name else path


def _error(verb: str, target: Ref, status: int, content: bytes) -> ClusterError:
    try:
        said = json.loads(content)
    except ValueError:
        said = {}
    said = said if isinstance(said, dict) else {}
    words = str(said.get("message") or f"HTTP {status}")[:MAX_MESSAGE_CHARS]
    message = f"{verb} {target}: {words}"
    if status == 409:  # noqa: PLR2004 - HTTP's own number
        return ConflictError(message, status=status)
    causes = (said.get("details") or {}).get("causes") or ()
    going = any(cause.get("reason") == "NamespaceTerminating" for cause in causes)
    if going or status in _AGAIN or status >= 500:  # noqa: PLR2004 - HTTP's own number
        return UnavailableError(message, status=status)
    return RefusedError(message, status=status)


@asynccontextmanager
async def connect(wrote: Callable[[str, str], None]) -> AsyncIterator[tuple[ApiServer, Access]]:
    """Reach the cluster this process runs in, else the one of KUBECONFIG; raise ConfigurationError."""
    settings = client.Configuration()
    settings.connection_pool_maxsize = MAX_CONNECTIONS
    try:
        if os.environ.get("KUBERNETES_SERVICE_HOST"):
            config.load_incluster_config(client_configuration=settings)
        else:
            where = os.environ.get("KUBECONFIG") or "~/.kube/config"
            await config.load_kube_config(config_file=where, client_configuration=settings)
    except (config.ConfigException, OSError) as exc:
        message = f"no cluster can be reached by a service account, KUBECONFIG or ~/.kube/config: {exc}"
        raise ConfigurationError(message) from exc
    async with client.ApiClient(settings) as api:
        api.user_agent = names.FIELD_MANAGER
        yield ApiServer(api, wrote), _access(settings)


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
