"""The proxy as an LLMProxy object in a cluster: the operator runs it, this applies, waits, and deletes.

What is applied is owned by the trainer's Pod or Job, so that it goes when they go, whether or not anybody calls `stop`.
Nothing is kept between calls but names: a copy of this in another process attaches by them.
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
from llmproxy_agl.kube_client import APPLY, MERGE, Access, KubeError
from llmproxy_agl.manifest import Wanted
from llmproxy_agl.notices import log, once, progress
from llmproxy_agl.pause import Pods
from llmproxy_api import API_VERSION, GROUP, PLURAL, VERSION

READY_S = 240.0
AT_EXIT_S = 30.0
STOP_S = 420.0
"""A pod may drain for spec.drainTimeout (5m unless said), then its shipper empties the spool."""
PORT = 4000
CONTROL_PORT = 9091
MANAGER = "llmproxy-agl"
MANAGED_BY = "app.kubernetes.io/managed-by"
_BY_KUBECTL = "http://127.0.0.1:8001/api/v1/namespaces/{}/services/{}:4000/proxy"
"""Goes on when pods are replaced, which a port-forward does not."""
_INTERVAL_S = 0.5
_SAY_AGAIN_S = 30.0
_KEPT_S = 2.0
"""A gateway that has begun to end answers what comes within a second on connections that are open."""
_ACCESS_S = 20.0
_FORBIDDEN, _NOT_FOUND = 403, 404
_RIGHTS = (
    "allow the trainer's service account get, create, patch and delete of llmproxies.llmproxy.dev and secrets, and get "
    "and list of pods: examples/agent-lightning/rbac.yaml"
)


@dataclass(frozen=True)
class Reach:
    """How the cluster is reached, and the proxy in it."""

    kubeconfig: str | None
    context: str | None
    namespace: str | None
    endpoint: str | None


class ClusterBackend:
    """Owns the object."""

    in_cluster = True

    def __init__(self, name: str, reach: Reach, *, keep: bool, fresh: bool, ready_timeout_s: float) -> None:
        if not reach.endpoint and reach.kubeconfig is not None and not kube_client.in_pod():
            place = _BY_KUBECTL.format(reach.namespace or "NAMESPACE", name)
            raise ValueError(
                "endpoint= is needed outside of the cluster, where its Services have no names: say how trainer and "
                f"runners reach the proxy, such as {place} of kubectl proxy"
            )
        self.name = name
        self._reach = reach
        self._keep = keep
        self._fresh = fresh
        self._ready_timeout_s = ready_timeout_s
        self._owner = 0
        self._namespace = reach.namespace
        self._last_access: tuple[float, Access | None] = (0.0, None)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to one process; the namespace is settled, as another machine has another."""
        return {**self.__dict__, "_owner": 0, "_namespace": self.namespace, "_last_access": (0.0, None)}

    @property
    def namespace(self) -> str:
        """Where the object is."""
        if self._namespace is None:
            path = self._reach.kubeconfig
            self._namespace = (
                kube_client.of_kubeconfig(path, self._reach.context).namespace if path else kube_client.pod_namespace()
            )
        return self._namespace

    @property
    def endpoint(self) -> str:
        """Where it is called, without /v1."""
        return (self._reach.endpoint or f"http://{self.name}.{self.namespace}.svc:{PORT}").rstrip("/")

    @property
    def started_here(self) -> bool:
        """Whether this very process has applied it."""
        return self._owner == os.getpid()

    def is_running(self) -> bool:
        """Whether it serves."""
        found = self._get()
        return (
            found is not None and bool(_wanted_pods(found)) and _condition(found, "Available").get("status") == "True"
        )

    def put(self, wanted: Wanted, cancelled: threading.Event) -> None:
        """Apply *wanted* and return when every pod runs it and it can be called; raise ProxyError."""
        deadline_s = time.monotonic() + self._ready_timeout_s
        before = self._get()
        self._check_ours(before)
        new_secret = self._apply_secret(wanted, before)
        try:
            live = self._apply(self._path(), _complete(wanted.proxy, _owners_of(before) or self._owners()))
        except KubeError:
            if before is None and wanted.secret is not None:
                self._drop(self._path("secrets", wanted.secret["metadata"]["name"]))
            raise
        self._owner = os.getpid()
        if before is None:
            self._apply_secret(wanted, live)
        generation = live["metadata"]["generation"]
        old_hash = (before or {}).get("status", {}).get("configHash") if new_secret and before is not None else None
        self._wait_ready(generation, old_hash, deadline_s, cancelled)
        if before is not None and (new_secret or generation != before["metadata"]["generation"]):
            self._wait_replaced(deadline_s, cancelled)
        self._wait_called(deadline_s, cancelled)

    def stop(self, limit_s: float = STOP_S) -> None:
        """Scale to zero, so that pods drain and deliver while the store is alive; then delete, unless it is kept."""
        live = self._get()
        if live is None:
            return
        self._check_ours(live)
        kept = {"metadata": {"ownerReferences": None}} if self._keep else {}  # else it went with this run's pod
        self._request("PATCH", self._path(), {"spec": {"replicas": 0}, **kept}, kind=MERGE)
        deadline_s = time.monotonic() + limit_s
        while (left := self._pods_left(live)) and time.monotonic() < deadline_s:
            time.sleep(_INTERVAL_S)
        if left:
            log.warning("LLMProxy %s: %s not gone after %g s; deleted all the same", self._full_name, left, limit_s)
        if not self._keep:
            self._drop(self._path(), {"preconditions": {"uid": live["metadata"]["uid"]}})

    def control(self) -> Pods:
        """Return the control ports of all pods, with those that start or end."""
        if self._reach.kubeconfig is not None and not kube_client.in_pod():
            raise ProxyError(
                f"LLMProxy {self._full_name}: its pods are paused one by one, and from outside of the cluster they are "
                "not reached: pause from a pod of the namespace (docs/control.md)"
            )
        live = self._get()
        if live is None:
            raise ProxyError(f"LLMProxy {self._full_name}: is not there, so there is nothing to pause")
        secret = self._request("GET", self._path("secrets", f"{self.name}-control"))
        token = base64.b64decode((secret.get("data") or {}).get("token", "")).decode()
        states = [pod.get("status") or {} for pod in self._pods_of(live)]
        found = [state.get("podIP") for state in states if state.get("phase") in {"Pending", "Running"}]
        return Pods(tuple(f"http://{f'[{ip}]' if ':' in ip else ip}:{CONTROL_PORT}" for ip in found if ip), token)

    @property
    def _full_name(self) -> str:
        return f"{self.namespace}/{self.name}"

    def _path(self, kind: str = PLURAL, name: str | None = None) -> str:
        group = f"/apis/{GROUP}/{VERSION}" if kind == PLURAL else "/api/v1"
        return f"{group}/namespaces/{self.namespace}/{kind}/{self.name if name is None else name}"

    def _access(self) -> Access:
        """Return how to get there, read anew every few seconds: tokens are replaced, and certificates take a while."""
        reach, (made_s, access) = self._reach, self._last_access
        if access is None or time.monotonic() - made_s > _ACCESS_S:
            access = (
                kube_client.of_kubeconfig(reach.kubeconfig, reach.context) if reach.kubeconfig else kube_client.of_pod()
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
            if exc.status != _NOT_FOUND:
                raise
            return None

    def _drop(self, path: str, options: Mapping[str, Any] | None = None) -> None:
        try:
            self._request("DELETE", path, {"propagationPolicy": "Background", **(options or {})})
        except KubeError as exc:
            if exc.status != _NOT_FOUND:
                raise

    def _check_ours(self, live: Mapping[str, Any] | None) -> None:
        if live is not None and (live["metadata"].get("labels") or {}).get(MANAGED_BY) != MANAGER:
            raise ProxyError(
                f"LLMProxy {self._full_name}: is somebody else's: choose another name=, or call it without a proxy of "
                "your own, by its endpoint"
            )

    def _apply(self, path: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self._request("PATCH", f"{path}?fieldManager={MANAGER}&force=true", manifest, kind=APPLY)
        except KubeError as exc:
            if exc.status == _NOT_FOUND and PLURAL in path:
                raise KubeError(
                    exc.status,
                    f"LLMProxy {self._full_name}: the cluster knows no {PLURAL}.{GROUP}, or no namespace "
                    f"{self.namespace}: install the operator (charts/llmproxy-operator), or say mode='local'",
                ) from exc
            raise

    def _apply_secret(self, wanted: Wanted, owner: Mapping[str, Any] | None) -> bool:
        """Apply the Secret, owned by the LLMProxy once that is there; return whether its content is new."""
        if wanted.secret is None:
            return False
        name = wanted.secret["metadata"]["name"]
        path = self._path("secrets", name)
        before: Mapping[str, Any] = {}
        with contextlib.suppress(KubeError):
            before = self._request("GET", path)
        if before and (before["metadata"].get("labels") or {}).get(MANAGED_BY) != MANAGER:
            raise ProxyError(f"Secret {self.namespace}/{name}: is somebody else's: choose another name=")
        uid = owner["metadata"]["uid"] if owner is not None else None
        owners = (
            [_reference(API_VERSION, "LLMProxy", self.name, uid)]
            if uid
            else before.get("metadata", {}).get("ownerReferences", [])
        )
        live = self._apply(path, _complete(wanted.secret, owners))
        return live.get("data") != before.get("data")

    def _owners(self) -> list[dict[str, Any]]:
        """Return the trainer's Pod, or the Job that runs it if its next pod is to find this proxy again."""
        pod = os.environ.get("POD_NAME") or os.environ.get("HOSTNAME", "")
        if not kube_client.in_pod() or not pod or kube_client.pod_namespace() != self.namespace:
            return []
        try:
            live = self._request("GET", self._path("pods", pod))
        except KubeError as exc:
            once(f"LLMProxy {self._full_name}: stays when this trainer ends without stop(): {exc}")
            return []
        meta = live["metadata"]
        controller = next((r for r in meta.get("ownerReferences") or () if r.get("controller")), None)
        if controller is not None and controller["kind"] == "Job" and not self._fresh:
            return [_reference(controller["apiVersion"], "Job", controller["name"], controller["uid"])]
        return [_reference("v1", "Pod", meta["name"], meta["uid"])]

    def _pods_left(self, live: Mapping[str, Any]) -> str:
        """Return the names of pods that still run, with those that drain."""
        try:
            found = self._pods_of(live)
        except KubeError as exc:
            if exc.status not in {0, 429} and exc.status < http.client.INTERNAL_SERVER_ERROR:
                raise
            return "its pods are"  # asked again
        return ", ".join(pod["metadata"]["name"] for pod in found)

    def _pods_of(self, live: Mapping[str, Any]) -> list[dict[str, Any]]:
        selector = str((live.get("status") or {}).get("selector") or "")
        if not selector:
            return []
        query = selector.replace("=", "%3D").replace(",", "%2C").replace("/", "%2F")
        found = self._request("GET", f"{self._path('pods', '')[:-1]}?labelSelector={query}")
        return list(found.get("items") or ())

    def _wait_ready(self, generation: int, old_hash: str | None, deadline_s: float, cancelled: threading.Event) -> None:
        began_s = time.monotonic()
        said, said_s = "", began_s

        def ready() -> str:
            nonlocal said, said_s
            live = self._get()
            if live is None:
                raise ProxyError(f"LLMProxy {self._full_name}: was deleted while it was waited for")
            why, now_s = _not_ready(live, generation, old_hash), time.monotonic()
            if why and (why != said or now_s - said_s > _SAY_AGAIN_S):
                progress(f"LLMProxy {self._full_name}: waiting for {now_s - began_s:.0f} s: {why}")
                said, said_s = why, now_s
            return why

        self._until(ready, deadline_s, cancelled)
        if said:
            progress(f"LLMProxy {self._full_name}: ready after {time.monotonic() - began_s:.0f} s")

    def _wait_replaced(self, deadline_s: float, cancelled: threading.Event) -> None:
        """Wait for the last call under what was before: a pod that ends takes calls until its preStop hook is over."""
        seen_s: dict[str, float] = {}

        def replaced() -> str:
            now_s = time.monotonic()
            pods = [pod for pod in self._pods_of(self._get() or {}) if pod["metadata"].get("deletionTimestamp")]
            since = {pod["metadata"]["uid"]: seen_s.setdefault(pod["metadata"]["uid"], now_s) for pod in pods}
            left = [p["metadata"] for p in pods if now_s < since[p["metadata"]["uid"]] + _last_calls_s(p)]
            return f"{', '.join(meta['name'] for meta in left)}: takes its last calls" if left else ""

        self._until(replaced, deadline_s, cancelled)

    def _wait_called(self, deadline_s: float, cancelled: threading.Event) -> None:
        """See that it answers from here: names and network policies are the cluster's, and can be wrong."""

        def called() -> str:
            try:
                with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                    f"{self.endpoint}/health", timeout=5
                ):
                    return ""
            except (OSError, http.client.HTTPException) as exc:
                return (
                    f"it is Ready, but {self.endpoint} does not answer here: {exc}: look at DNS and NetworkPolicies, "
                    "or say endpoint="
                )

        self._until(called, deadline_s, cancelled)

    def _until(self, look: Callable[[], str], deadline_s: float, cancelled: threading.Event) -> None:
        """Return when *look* has no reason to wait any more; an API server that is away is waited for."""
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
                raise ProxyError(f"LLMProxy {self._full_name}: nobody waits any more; it waited for: {why}")


def _owners_of(live: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return who owns *live*: what an apply leaves out, it takes away."""
    return list(live["metadata"].get("ownerReferences") or ()) if live is not None else []


def _complete(manifest: Mapping[str, Any], owners: list[dict[str, Any]]) -> dict[str, Any]:
    """Return *manifest* as this applies it: labelled as ours, owned, replicas said so that 0 is left behind."""
    metadata = {**manifest["metadata"], "labels": {MANAGED_BY: MANAGER}}
    if owners:
        metadata["ownerReferences"] = owners
    made = {**manifest, "metadata": metadata}
    if "spec" in made and "autoscaling" not in made["spec"]:
        made["spec"] = {"replicas": 1, **made["spec"]}
    return made


def _last_calls_s(pod: Mapping[str, Any]) -> float:
    """Return for how long *pod* takes calls once it is to end: its preStop hook, and a moment for kept connections."""
    hooks = [(container.get("lifecycle") or {}).get("preStop") or {} for container in pod["spec"]["containers"]]
    return max(float((hook.get("sleep") or {}).get("seconds", 0)) for hook in hooks) + _KEPT_S


def _reference(api_version: str, kind: str, name: str, uid: str) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "name": name, "uid": uid}


def _wanted_pods(live: Mapping[str, Any]) -> int:
    count = (live.get("spec") or {}).get("replicas", 1)
    return count if isinstance(count, int) else 1


def _condition(live: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    found: Mapping[str, Any]
    for found in (live.get("status") or {}).get("conditions") or ():
        if found.get("type") == kind:
            return found
    return {}


def _not_ready(live: Mapping[str, Any], generation: int, old_hash: str | None) -> str:
    """Return what is waited for, nothing if it is there; raise ProxyError if somebody must act first."""
    status = live.get("status") or {}
    if not status.get("conditions"):
        return "the operator has not looked at it yet: is llmproxy-operator running?"
    if _condition(live, "Paused").get("status") == "True":
        return str(_condition(live, "Paused").get("message") or "it is paused")
    if status.get("observedGeneration", 0) < generation:
        return "the operator has not seen this change yet"
    if old_hash is not None and status.get("configHash") == old_hash:
        return "the operator has not seen the new keys yet"
    stalled = _condition(live, "Stalled")
    if stalled.get("status") == "True":
        meta = live["metadata"]
        raise ProxyError(
            f"LLMProxy {meta['namespace']}/{meta['name']}: {stalled.get('reason')}: {stalled.get('message')}"
        )
    ready = _condition(live, "Ready")
    return "" if ready.get("status") == "True" else f"{ready.get('reason')}: {ready.get('message')}"
