"""Progress of a Deployment and the problem that holds it up, read from it and its pods. Pure.

A problem is final if time alone will not cure it. Pods of older templates do not count: they serve until they end.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from llmproxy_api import scaling
from llmproxy_operator import names
from llmproxy_operator.manifest import Manifest
from llmproxy_operator.reasons import Problem, Reason
from llmproxy_operator.redact import redact

CRASHES = 2
"""Exits of a container from which it counts as a crash loop."""
CRASH_WINDOW_S = 300.0
"""Age of the last run's start up to which its exit counts: older ones, as of a rebooted node, are no crash loop."""

_PULL = frozenset({"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable"})
_PULL_FINAL = frozenset({"InvalidImageName", "ErrImageNeverPull"})
_CONFIG = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_BEFORE_ENVIRONMENT = _PULL | _PULL_FINAL | {"CreateContainerConfigError"}
"""Set by the kubelet before it resolves a container's environment: these messages quote no Secret's content."""
NOT_QUOTED = "its output is in its log only, because no Secret is read while the proxy is paused"


@dataclass(frozen=True)
class Rollout:
    """State of a Deployment; all zero and not current if there is none."""

    desired: int = 0
    pods: int = 0
    updated: int = 0
    ready: int = 0
    available: int = 0
    current: bool = False
    """The numbers are about the newest template."""
    problem: Problem | None = None
    """The cause that keeps new pods from becoming ready."""
    min_ready: int | None = None
    """With autoscaling: number of ready pods that is enough, while the autoscaler starts or ends others."""

    @property
    def complete(self) -> bool:
        """Every desired pod runs the newest template and is ready, and no other pod is left."""
        if self.min_ready is not None:
            return self.current and self.pods == self.updated and self.ready >= min(self.min_ready, self.desired)
        return self.current and self.desired == self.pods == self.updated == self.ready


def rollout(
    deployment: Manifest | None,
    pods: Iterable[Manifest],
    *,
    now: datetime,
    secrets: Iterable[str] | None = (),
    min_ready: int | None = None,
) -> Rollout:
    """Return the state of *deployment*; *pods* are all pods of the proxy, *secrets* the contents to redact.

    Without *secrets* (None) nothing can be redacted, so no container is quoted.
    With *min_ready* an autoscaler decides the number of pods, and so many ready ones are enough.
    """
    if deployment is None:
        return Rollout()
    spec, status = deployment["spec"], deployment.get("status") or {}
    progress = Rollout(
        desired=int(spec.get("replicas", 1)),
        pods=int(status.get("replicas") or 0),
        updated=int(status.get("updatedReplicas") or 0),
        ready=int(status.get("readyReplicas") or 0),
        available=int(status.get("availableReplicas") or 0),
        current=int(status.get("observedGeneration") or 0) >= int(deployment["metadata"].get("generation") or 0),
        min_ready=min_ready,
    )
    if progress.complete or progress.desired == 0:
        return progress
    newest = [pod for pod in pods if _template_hash(pod) == _template_hash(spec["template"])]
    problem = _of_pods(newest, now, None if secrets is None else tuple(secrets)) or (
        _of_deployment(status, newest) if progress.current else None
    )
    return replace(progress, problem=problem)


def min_ready_of(spec: Mapping[str, Any]) -> int | None:
    """Return the number of pods that is enough by the *spec* of an LLMProxy; None without autoscaling."""
    bounds = spec.get("autoscaling")
    return int(bounds.get("minReplicas") or scaling.DEFAULT_MIN_REPLICAS) if bounds else None


def _template_hash(item: Mapping[str, Any]) -> str | None:
    return (item["metadata"].get("annotations") or {}).get(names.ANNOTATION_TEMPLATE_HASH)


def _of_pods(pods: Iterable[Manifest], now: datetime, secrets: tuple[str, ...] | None) -> Problem | None:
    problems = []
    for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["name"])):
        if pod["metadata"].get("deletionTimestamp"):
            continue
        status = pod.get("status") or {}
        containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
        age_s = (now - datetime.fromisoformat(pod["metadata"]["creationTimestamp"])).total_seconds()
        problems += [
            problem for item in containers if (problem := _of_container(item, now, age_s, secrets)) is not None
        ]
    return next((item for item in problems if item.final), problems[0] if problems else None)


def _of_container(
    container: Mapping[str, Any], now: datetime, age_s: float, secrets: tuple[str, ...] | None
) -> Problem | None:
    name = container["name"]
    waiting = (container.get("state") or {}).get("waiting") or {}
    reason = str(waiting.get("reason") or "")
    text = _message(waiting, () if reason in _BEFORE_ENVIRONMENT else secrets)
    if reason in _PULL | _PULL_FINAL:
        message = f"container {name}: image {container.get('image')!r} cannot be pulled: {text or reason}"
        return Problem.of(Reason.IMAGE_PULL_FAILED, message, age_s=math.inf if reason in _PULL_FINAL else age_s)
    if reason in _CONFIG:
        return Problem.of(Reason.CONTAINER_REFUSED, f"container {name} cannot be created: {text or reason}")
    exit_state = (container.get("state") or {}).get("terminated") or (container.get("lastState") or {}).get(
        "terminated"
    )
    if exit_state and (reason == "CrashLoopBackOff" or _crashes(container, exit_state, now)):
        text = _message(exit_state, secrets)
        message = f"container {name} {_exit_cause(exit_state)} repeatedly{': ' + text if text else ''}"
        return Problem.of(Reason.CRASH_LOOP, message)
    return None


def _crashes(container: Mapping[str, Any], exit_state: Mapping[str, Any], now: datetime) -> bool:
    """Return whether a container that is not ready failed twice within the last minutes.

    A run that is not the first begins right after an exit, so its start dates the exit before its own.
    """
    if container.get("ready") or int(container.get("restartCount") or 0) < CRASHES or exit_state.get("exitCode") == 0:
        return False
    start = exit_state.get("startedAt")
    return start is not None and (now - datetime.fromisoformat(start)).total_seconds() <= CRASH_WINDOW_S


def _message(state: Mapping[str, Any], secrets: tuple[str, ...] | None) -> str:
    """Return the message of a container's state, as far as it may be quoted."""
    text = str(state.get("message") or "")
    return redact(text, secrets) if secrets is not None else NOT_QUOTED if text else ""


def _exit_cause(exit_state: Mapping[str, Any]) -> str:
    if exit_state.get("reason") == "OOMKilled":
        return "exceeds its memory limit"
    return f"exits with code {exit_state.get('exitCode')}"


def _of_deployment(status: Mapping[str, Any], pods: Iterable[Manifest]) -> Problem | None:
    conditions = {item["type"]: item for item in status.get("conditions") or ()}
    failing = conditions.get("ReplicaFailure") or {}
    if failing.get("status") == "True":
        text = str(failing.get("message") or "")
        reason = Reason.QUOTA_EXCEEDED if is_quota(text) else Reason.PODS_REFUSED
        return Problem.of(reason, f"pods cannot be created: {redact(text)}")
    unscheduled = next((text for pod in pods if (text := _unschedulable(pod))), "")
    progressing = conditions.get("Progressing") or {}
    if progressing.get("status") == "False" and progressing.get("reason") == "ProgressDeadlineExceeded":
        cause = unscheduled or "see the pod's events and its log"
        return Problem.of(Reason.PROGRESS_DEADLINE_EXCEEDED, f"the new pod does not become ready: {cause}")
    return Problem.of(Reason.UNSCHEDULABLE, unscheduled) if unscheduled else None


def is_quota(message: str) -> bool:
    """Return whether the API server refused an object for a quota: one too many, or one that must state an amount."""
    return "exceeded quota" in message or "failed quota" in message


def _unschedulable(pod: Manifest) -> str:
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"no node takes pod {pod['metadata']['name']}: {condition.get('message') or 'no reason given'}"
    return ""
