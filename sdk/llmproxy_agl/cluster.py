"""Backend for a cluster: applies an LLMProxy object, waits until it is ready, and deletes it.

The object is owned by the trainer's Pod or Job and garbage-collected with it, with or without `stop`. The only state is
the name, by which a copy in another process attaches.
"""

import base64
import contextlib
import http.client
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmproxy_agl import kube_client
from llmproxy_agl.errors import ProxyError
from llmproxy_agl.kube_client import APPLY, MERGE, ApiServerAccess, KubeError
from llmproxy_agl.manifest import Manifests
from llmproxy_agl.notices import log, progress, warn_once
from llmproxy_agl.pause import ControlPorts
from llmproxy_api import API_VERSION, GROUP, PLURAL, VERSION

READY_S = 240.0
AT_EXIT_S = 30.0
STOP_S = 420.0
"""A pod may drain for spec.drainTimeout (default 5m), then its shipper empties the spool."""
PORT = 4000
CONTROL_PORT = 9091
MANAGER = "llmproxy-agl"
MANAGED_BY = "app.kubernetes.io/managed-by"
_BY_KUBECTL = "http://127.0.0.1:8001/api/v1/namespaces/{}/services/{}:4000/proxy"
"""It survives the replacement of pods, which a port-forward does not."""
_INTERVAL_S = 0.5
_LOG_INTERVAL_S = 30.0
_KEEPALIVE_S = 2.0
"""A terminating gateway still serves requests that arrive within a second on open connections."""
_ACCESS_S = 20.0
_FORBIDDEN, _MISSING = 403, 404
_RIGHTS = (
    "allow the trainer's service account get, create, patch and delete of llmproxies.llmproxy.dev and secrets, and get "
    "and list of pods: examples/agent-lightning/rbac.yaml"
)


@dataclass(frozen=True)
class ClusterTarget:
    """Access to the cluster and to the proxy in it."""

    kubeconfig: str | None
    context: str | None
    namespace: str | None
    endpoint: str | None


class ClusterBackend:
    """Owns an LLMProxy object."""

    in_cluster = True

    def __init__(self, name: str, target: ClusterTarget, *, keep: bool, fresh: bool, ready_timeout_s: float) -> None:
        if not target.endpoint and target.kubeconfig is not None and not kube_client.in_pod():
            place = _BY_KUBECTL.format(target.namespace or "NAMESPACE", name)
            raise ValueError(
                "endpoint= is required outside of the cluster, where Services have no DNS names: the URL by which "
                f"trainer and runners reach the proxy, such as {place} of kubectl proxy"
            )
        self.name = name
        self._target = target
        self._keep = keep
        self._fresh = fresh
        self._ready_timeout_s = ready_timeout_s
        self._owner = 0
        self._namespace = target.namespace
        self._last_access: tuple[float, ApiServerAccess | None] = (0.0, None)

    def __getstate__(self) -> dict[str, Any]:
        """Drop state of this process; resolve the namespace, which may differ on another machine."""
        return {**self.__dict__, "_owner": 0, "_namespace": self.namespace, "_last_access": (0.0, None)}

    @property
    def namespace(self) -> str:
        """Namespace of the object."""
        if self._namespace is None:
            path = self._target.kubeconfig
            self._namespace = (
                kube_client.access_of_kubeconfig(path, self._target.context).namespace
                if path
                else kube_client.pod_namespace()
            )
        return self._namespace

    @property
    def endpoint(self) -> str:
        """URL of the proxy, without /v1."""
        return (self._target.endpoint or f"http://{self.name}.{self.namespace}.svc:{PORT}").rstrip("/")

    @property
    def started_here(self) -> bool:
        """True if this process has applied it."""
        return self._owner == os.getpid()

    def is_running(self) -> bool:
        """Return whether it serves."""
        live = self._get()
        return live is not None and bool(_desired_pods(live)) and _condition(live, "Available").get("status") == "True"

    def apply(self, manifests: Manifests, cancelled: threading.Event) -> None:
        """Apply *manifests* and return when every pod runs them and the endpoint responds; raise ProxyError."""
        deadline_s = time.monotonic() + self._ready_timeout_s
        before = self._get()
        self._check_managed(before)
        new_secret = self._apply_secrets(manifests, before)
        try:
            live = self._apply(self._path(), _applied_form(manifests.proxy, _owners_of(before) or self._owners()))
        except KubeError:
            for secret in manifests.secrets if before is None else ():
                self._delete(self._path("secrets", secret["metadata"]["name"]))
            raise
        self._owner = os.getpid()
        if before is None:
            self._apply_secrets(manifests, live)
        generation = live["metadata"]["generation"]
        old_hash = (before or {}).get("status", {}).get("configHash") if new_secret and before is not None else None
        self._wait_ready(generation, old_hash, deadline_s, cancelled)
        if before is not None and (new_secret or generation != before["metadata"]["generation"]):
            self._wait_replaced(deadline_s, cancelled)
        self._wait_reachable(deadline_s, cancelled)

    def stop(self, limit_s: float = STOP_S) -> None:
        """Scale to zero, so that pods drain and deliver while the store is alive; then delete, unless keep is set."""
        live = self._get()
        if live is None:
            return
        self._check_managed(live)
        owner_patch = (
            {"metadata": {"ownerReferences": None}} if self._keep else {}
        )  # else it is collected with this run's pod
        self._request("PATCH", self._path(), {"spec": {"replicas": 0}, **owner_patch}, kind=MERGE)
        deadline_s = time.monotonic() + limit_s
        while (remaining := self._remaining_pods(live)) and time.monotonic() < deadline_s:
            time.sleep(_INTERVAL_S)
        if remaining:
            log.warning("LLMProxy %s: deleted; after %g s still running: %s", self._full_name, limit_s, remaining)
        if not self._keep:
            self._delete(self._path(), {"preconditions": {"uid": live["metadata"]["uid"]}})

    def control(self) -> ControlPorts:
        """Return the control ports of all pods, including those that start or terminate."""
        if self._target.kubeconfig is not None and not kube_client.in_pod():
            raise ProxyError(
                f"LLMProxy {self._full_name}: a pause calls each pod, and pods are not reachable from outside of the "
                "cluster: pause from a pod of the namespace (docs/control.md)"
            )
        live = self._get()
        if live is None:
            raise ProxyError(f"LLMProxy {self._full_name}: does not exist, so there is nothing to pause")
        secret = self._request("GET", self._path("secrets", f"{self.name}-control"))
        token = base64.b64decode((secret.get("data") or {}).get("token", "")).decode()
        states = [pod.get("status") or {} for pod in self._pods_of(live)]
        ips = [state.get("podIP") for state in states if state.get("phase") in {"Pending", "Running"}]
        return ControlPorts(tuple(f"http://{f'[{ip}]' if ':' in ip else ip}:{CONTROL_PORT}" for ip in ips if ip), token)

    @property
    def _full_name(self) -> str:
        return f"{self.namespace}/{self.name}"

    def _path(self, kind: str = PLURAL, name: str | None = None) -> str:
        group = f"/apis/{GROUP}/{VERSION}" if kind == PLURAL else "/api/v1"
        return f"{group}/namespaces/{self.namespace}/{kind}/{self.name if name is None else name}"

    def _access(self) -> ApiServerAccess:
        """Return the access to the API server, cached for seconds: tokens rotate, and loading certificates is slow."""
        target, (read_s, access) = self._target, self._last_access
        if access is None or time.monotonic() - read_s > _ACCESS_S:
            access = (
                kube_client.access_of_kubeconfig(target.kubeconfig, target.context)
                if target.kubeconfig
                else kube_client.access_of_pod()
            )
            self._last_access = time.monotonic(), access
        return access

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        try:
            return kube_client.call(self._access(), method, path, body, **more)
        except KubeError as exc:
            where = f"LLMProxy {self._full_name}"
            if exc.status == _FORBIDDEN:
                raise KubeError(exc.status, f"{where}: {exc}: {_RIGHTS}") from exc
            raise KubeError(exc.status, f"{where}: {exc}") from exc

    def _get(self) -> dict[str, Any] | None:
        try:
            return self._request("GET", self._path())
        except KubeError as exc:
            if exc.status != _MISSING:
                raise
            return None

    def _delete(self, path: str, options: Mapping[str, Any] | None = None) -> None:
        try:
            self._request("DELETE", path, {"propagationPolicy": "Background", **(options or {})})
        except KubeError as exc:
            if exc.status != _MISSING:
                raise

    def _check_managed(self, live: Mapping[str, Any] | None) -> None:
        if live is not None and (live["metadata"].get("labels") or {}).get(MANAGED_BY) != MANAGER:
            raise ProxyError(
                f"LLMProxy {self._full_name}: belongs to another owner: choose another name=, or call its endpoint "
                "without a proxy of your own"
            )

    def _apply(self, path: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self._request("PATCH", f"{path}?fieldManager={MANAGER}&force=true", manifest, kind=APPLY)
        except KubeError as exc:
            if exc.status == _MISSING and PLURAL in path:
                raise KubeError(
                    exc.status,
                    f"LLMProxy {self._full_name}: the cluster knows no {PLURAL}.{GROUP}, or no namespace "
                    f"{self.namespace}: install the operator (charts/llmproxy-operator), or use mode='local'",
                ) from exc
            raise

    def _apply_secrets(self, manifests: Manifests, owner: Mapping[str, Any] | None) -> bool:
        """Apply the Secrets; return whether keys of servers changed, which is a roll. Callers' keys are not."""
        changed = {s["metadata"]["name"] for s in manifests.secrets if self._apply_secret(s, owner)}
        return f"{self.name}-keys" in changed

    def _apply_secret(self, secret: Mapping[str, Any], owner: Mapping[str, Any] | None) -> bool:
        """Apply a Secret, owned by the LLMProxy once that exists; return whether its contents changed."""
        name = secret["metadata"]["name"]
        path = self._path("secrets", name)
        before: Mapping[str, Any] = {}
        with contextlib.suppress(KubeError):
            before = self._request("GET", path)
        if before and (before["metadata"].get("labels") or {}).get(MANAGED_BY) != MANAGER:
            raise ProxyError(f"Secret {self.namespace}/{name}: belongs to another owner: choose another name=")
        uid = owner["metadata"]["uid"] if owner is not None else None
        owners = (
            [_reference(API_VERSION, "LLMProxy", self.name, uid)]
            if uid
            else before.get("metadata", {}).get("ownerReferences", [])
        )
        live = self._apply(path, _applied_form(secret, owners))
        return live.get("data") != before.get("data")

    def _owners(self) -> list[dict[str, Any]]:
        """Return the trainer's Pod, or its Job if the Job's next pod takes over this proxy."""
        pod = os.environ.get("POD_NAME") or os.environ.get("HOSTNAME", "")
        if not kube_client.in_pod() or not pod or kube_client.pod_namespace() != self.namespace:
            return []
        try:
            live = self._request("GET", self._path("pods", pod))
        except KubeError as exc:
            warn_once(f"LLMProxy {self._full_name}: has no owner and remains after a trainer without stop(): {exc}")
            return []
        meta = live["metadata"]
        controller = next((r for r in meta.get("ownerReferences") or () if r.get("controller")), None)
        if controller is not None and controller["kind"] == "Job" and not self._fresh:
            return [_reference(controller["apiVersion"], "Job", controller["name"], controller["uid"])]
        return [_reference("v1", "Pod", meta["name"], meta["uid"])]

    def _remaining_pods(self, live: Mapping[str, Any]) -> str:
        """Return the names of pods that still run or drain."""
        try:
            pods = self._pods_of(live)
        except KubeError as exc:
            if exc.status not in {0, 429} and exc.status < http.client.INTERNAL_SERVER_ERROR:
                raise
            return "unknown, as the API server does not answer"
        return ", ".join(pod["metadata"]["name"] for pod in pods)

    def _pods_of(self, live: Mapping[str, Any]) -> list[dict[str, Any]]:
        selector = str((live.get("status") or {}).get("selector") or "")
        if not selector:
            return []
        query = selector.replace("=", "%3D").replace(",", "%2C").replace("/", "%2F")
        pods = self._request("GET", f"{self._path('pods', '')[:-1]}?labelSelector={query}")
        return list(pods.get("items") or ())

    def _wait_ready(self, generation: int, old_hash: str | None, deadline_s: float, cancelled: threading.Event) -> None:
        began_s = time.monotonic()
        last_reason, last_log_s = "", began_s

        def ready() -> str:
            nonlocal last_reason, last_log_s
            live = self._get()
            if live is None:
                raise ProxyError(f"LLMProxy {self._full_name}: was deleted before it was ready")
            why, now_s = _not_ready(live, generation, old_hash), time.monotonic()
            if why and (why != last_reason or now_s - last_log_s > _LOG_INTERVAL_S):
                progress(f"LLMProxy {self._full_name}: waiting for {now_s - began_s:.0f} s: {why}")
                last_reason, last_log_s = why, now_s
            return why

        self._until(ready, deadline_s, cancelled)
        if last_reason:
            progress(f"LLMProxy {self._full_name}: ready after {time.monotonic() - began_s:.0f} s")

    def _wait_replaced(self, deadline_s: float, cancelled: threading.Event) -> None:
        """Wait until no pod of the previous generation accepts requests: it does until its preStop hook is over."""
        first_seen_s: dict[str, float] = {}

        def replaced() -> str:
            now_s = time.monotonic()
            pods = [pod for pod in self._pods_of(self._get() or {}) if pod["metadata"].get("deletionTimestamp")]
            since = {pod["metadata"]["uid"]: first_seen_s.setdefault(pod["metadata"]["uid"], now_s) for pod in pods}
            remaining = [p["metadata"] for p in pods if now_s < since[p["metadata"]["uid"]] + _last_calls_s(p)]
            return f"{', '.join(meta['name'] for meta in remaining)}: still accepts requests" if remaining else ""

        self._until(replaced, deadline_s, cancelled)

    def _wait_reachable(self, deadline_s: float, cancelled: threading.Event) -> None:
        """Wait until the endpoint responds from here: DNS and NetworkPolicies can be wrong."""

        def called() -> str:
            try:
                with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                    f"{self.endpoint}/health", timeout=5
                ):
                    return ""
            except (OSError, http.client.HTTPException) as exc:
                return (
                    f"it is Ready, but {self.endpoint} does not respond: {exc}: check DNS and NetworkPolicies, or set "
                    "endpoint="
                )

        self._until(called, deadline_s, cancelled)

    def _until(self, look: Callable[[], str], deadline_s: float, cancelled: threading.Event) -> None:
        """Return when *look* returns no reason to wait; an unavailable API server is waited for."""
        while True:
            try:
                why = look()
            except KubeError as exc:
                if exc.status not in {0, 429} and exc.status < http.client.INTERNAL_SERVER_ERROR:
                    raise
                why = str(exc)
            if not why:
                return
            if time.monotonic() > deadline_s:
                raise ProxyError(f"LLMProxy {self._full_name}: not ready within {self._ready_timeout_s:g} s: {why}")
            if cancelled.wait(_INTERVAL_S):
                raise ProxyError(f"LLMProxy {self._full_name}: the wait was cancelled; it waited for: {why}")


def _owners_of(live: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the owners of *live*: an apply removes owners that it leaves out."""
    return list(live["metadata"].get("ownerReferences") or ()) if live is not None else []


def _applied_form(manifest: Mapping[str, Any], owners: list[dict[str, Any]]) -> dict[str, Any]:
    """Return *manifest* with our label, its owners, and replicas, which may be 0 in the live object."""
    metadata = {**manifest["metadata"], "labels": {MANAGED_BY: MANAGER}}
    if owners:
        metadata["ownerReferences"] = owners
    applied = {**manifest, "metadata": metadata}
    if "spec" in applied and "autoscaling" not in applied["spec"]:
        applied["spec"] = {"replicas": 1, **applied["spec"]}
    return applied


def _last_calls_s(pod: Mapping[str, Any]) -> float:
    """Return for how long a terminating *pod* accepts requests: its preStop hook, and open connections for a moment."""
    hooks = [(container.get("lifecycle") or {}).get("preStop") or {} for container in pod["spec"]["containers"]]
    return max(float((hook.get("sleep") or {}).get("seconds", 0)) for hook in hooks) + _KEEPALIVE_S


def _reference(api_version: str, kind: str, name: str, uid: str) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "name": name, "uid": uid}


def _desired_pods(live: Mapping[str, Any]) -> int:
    count = (live.get("spec") or {}).get("replicas", 1)
    return count if isinstance(count, int) else 1


def _condition(live: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    conditions: list[Mapping[str, Any]] = (live.get("status") or {}).get("conditions") or []
    return next((condition for condition in conditions if condition.get("type") == kind), {})


def _not_ready(live: Mapping[str, Any], generation: int, old_hash: str | None) -> str:
    """Return the reason to wait, empty if it is ready; raise ProxyError if someone must act first."""
    status = live.get("status") or {}
    if not status.get("conditions"):
        return "the operator has not reconciled it yet: is llmproxy-operator running?"
    if _condition(live, "Paused").get("status") == "True":
        return str(_condition(live, "Paused").get("message") or "it is paused")
    if status.get("observedGeneration", 0) < generation:
        return "the operator has not reconciled this change yet"
    if old_hash is not None and status.get("configHash") == old_hash:
        return "the operator has not reconciled the new keys yet"
    stalled = _condition(live, "Stalled")
    if stalled.get("status") == "True":
        meta = live["metadata"]
        raise ProxyError(
            f"LLMProxy {meta['namespace']}/{meta['name']}: {stalled.get('reason')}: {stalled.get('message')}"
        )
    ready = _condition(live, "Ready")
    return "" if ready.get("status") == "True" else f"{ready.get('reason')}: {ready.get('message')}"
