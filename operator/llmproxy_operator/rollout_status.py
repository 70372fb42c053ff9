"""How far a Deployment is, and what stands in its way: read from it and its pods. Pure.

A failure is final if time alone will not cure it. Pods of older templates do not count: they serve until they end.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from llmproxy_api import scaling
from llmproxy_operator import names
from llmproxy_operator.manifest import Manifest
from llmproxy_operator.redact import scrub

PULL_GRACE_S = 15
"""One failed pull may be a hiccup; the node tries again within this time."""
CRASHES = 2
"""So many ends of a container in a row are no accident."""

_PULL = frozenset({"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable"})
_PULL_FINAL = frozenset({"InvalidImageName", "ErrImageNeverPull"})
_CONFIG = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_BEFORE = _PULL | _PULL_FINAL | {"CreateContainerConfigError"}
"""Told by the node before it gives a container its environment: its words quote no Secret's content."""
UNTOLD = "its last words are in its log only, for no Secret is read while the proxy is paused"


@dataclass(frozen=True)
class Failure:
    """What keeps new pods from getting ready."""

    reason: str
    message: str
    final: bool


@dataclass(frozen=True)
class Rollout:
    """The state of a Deployment; all zero and not current if there is none."""

    wanted: int = 0
    pods: int = 0
    updated: int = 0
    ready: int = 0
    available: int = 0
    current: bool = False
    """The numbers are about the newest template."""
    failure: Failure | None = None
    floor: int | None = None
    """With autoscaling: so many pods are enough, while the autoscaler starts or ends others."""

    @property
    def complete(self) -> bool:
        """Every wanted pod runs the newest template and is ready, and no other pod is left."""
        if self.floor is not None:
            return self.current and self.pods == self.updated and self.ready >= min(self.floor, self.wanted)
        return self.current and self.wanted == self.pods == self.updated == self.ready


def rollout(
    deployment: Manifest | None,
    pods: Iterable[Manifest],
    *,
    now: datetime,
    secrets: Iterable[str] | None = (),
    floor: int | None = None,
) -> Rollout:
    """Return how far *deployment* is; *pods* are all pods of the proxy, *secrets* what must not be repeated.

    Without *secrets* (None) nobody knows what a container may not be quoted with: its words are left out.
    With *floor* it is an autoscaler that says how many are wanted, and so many are enough.
    """
    if deployment is None:
        return Rollout()
    spec, status = deployment["spec"], deployment.get("status") or {}
    wanted = int(spec.get("replicas", 1))
    made = Rollout(
        wanted=wanted,
        pods=int(status.get("replicas") or 0),
        updated=int(status.get("updatedReplicas") or 0),
        ready=int(status.get("readyReplicas") or 0),
        available=int(status.get("availableReplicas") or 0),
        current=int(status.get("observedGeneration") or 0) >= int(deployment["metadata"].get("generation") or 0),
        floor=floor,
    )
    if made.complete or wanted == 0:
        return made
    newest = [pod for pod in pods if _hash(pod) == _hash(spec["template"])]
    failure = _of_pods(newest, now, None if secrets is None else tuple(secrets)) or (
        _of_deployment(status, newest) if made.current else None
    )
    return replace(made, failure=failure)


def floor_of(spec: Mapping[str, Any]) -> int | None:
    """Return how many pods are enough by the *spec* of an LLMProxy; None without autoscaling."""
    bounds = spec.get("autoscaling")
    return int(bounds.get("minReplicas") or scaling.DEFAULT_MIN_REPLICAS) if bounds else None


def _hash(item: Mapping[str, Any]) -> str | None:
    return (item["metadata"].get("annotations") or {}).get(names.ANNOTATION_TEMPLATE_HASH)


def _of_pods(pods: Iterable[Manifest], now: datetime, secrets: tuple[str, ...] | None) -> Failure | None:
    found = []
    for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["name"])):
        if pod["metadata"].get("deletionTimestamp"):
            continue
        status = pod.get("status") or {}
        containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
        age_s = (now - datetime.fromisoformat(pod["metadata"]["creationTimestamp"])).total_seconds()
        for container in containers:
            failure = _of_container(container, age_s, secrets)
            if failure is not None:
                found.append(failure)
    return next((item for item in found if item.final), found[0] if found else None)


def _of_container(container: Mapping[str, Any], age_s: float, secrets: tuple[str, ...] | None) -> Failure | None:
    name = container["name"]
    waiting = (container.get("state") or {}).get("waiting") or {}
    reason = str(waiting.get("reason") or "")
    said = _words(waiting, () if reason in _BEFORE else secrets)
    if reason in _PULL | _PULL_FINAL:
        message = f"container {name}: image {container.get('image')!r} cannot be pulled: {said or reason}"
        return Failure("ImagePullFailed", message, final=reason in _PULL_FINAL or age_s >= PULL_GRACE_S)
    if reason in _CONFIG:
        return Failure("ContainerRefused", f"container {name} cannot be made: {said or reason}", final=True)
    ended = (container.get("state") or {}).get("terminated") or (container.get("lastState") or {}).get("terminated")
    crashed = int(container.get("restartCount") or 0) >= CRASHES and not container.get("ready")
    if ended and (crashed or reason == "CrashLoopBackOff"):
        words = _words(ended, secrets)
        how = _how_it_ended(ended)
        return Failure(
            "CrashLoop", f"container {name} {how} again and again{': ' + words if words else ''}", final=True
        )
    return None


def _words(state: Mapping[str, Any], secrets: tuple[str, ...] | None) -> str:
    """Return what the state of a container says, as far as it may be repeated."""
    said = str(state.get("message") or "")
    return scrub(said, secrets) if secrets is not None else UNTOLD if said else ""


def _how_it_ended(ended: Mapping[str, Any]) -> str:
    if ended.get("reason") == "OOMKilled":
        return "runs out of its memory limit"
    return f"ends with code {ended.get('exitCode')}"


def _of_deployment(status: Mapping[str, Any], pods: Iterable[Manifest]) -> Failure | None:
    conditions = {item["type"]: item for item in status.get("conditions") or ()}
    failing = conditions.get("ReplicaFailure") or {}
    if failing.get("status") == "True":
        words = str(failing.get("message") or "")
        reason = "QuotaExceeded" if "exceeded quota" in words else "PodsRefused"
        return Failure(reason, f"no pod can be made: {scrub(words)}", final=True)
    waits_for_node = next((words for pod in pods if (words := _unschedulable(pod))), "")
    progressing = conditions.get("Progressing") or {}
    if progressing.get("status") == "False" and progressing.get("reason") == "ProgressDeadlineExceeded":
        why = waits_for_node or "see the pod's events and its log"
        return Failure("ProgressDeadlineExceeded", f"the new pod does not get ready: {why}", final=True)
    return Failure("Unschedulable", waits_for_node, final=False) if waits_for_node else None


def _unschedulable(pod: Manifest) -> str:
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"no node takes pod {pod['metadata']['name']}: {condition.get('message') or 'no reason given'}"
    return ""
