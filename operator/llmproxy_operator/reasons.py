"""Reasons of conditions, with meaning, finality and delay of the next reconcile; and problems that have one. Pure."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """Reason of a condition. A reason never changes its meaning; messages are for people and may change."""

    meaning: str
    final_after_s: float | None
    """Age in seconds from which somebody must act: 0 at once, None never."""
    requeue_after_s: float
    """Delay of the next reconcile, for causes that no watch reports; if they turn final with age, until then."""

    def __new__(
        cls, value: str, meaning: str, final_after_s: float | None = None, requeue_after_s: float = math.inf
    ) -> Self:
        """Attach the attributes to the string *value*."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        member.final_after_s = final_after_s
        member.requeue_after_s = requeue_after_s
        return member

    # Ready or Available is True
    ALL_REPLICAS_READY = "AllReplicasReady", "every desired pod runs this configuration and is ready"
    SCALED_TO_ZERO = "ScaledToZero", "spec.replicas is 0 and no pod is left"
    MINIMUM_REPLICAS_AVAILABLE = "MinimumReplicasAvailable", "at least one pod is available"
    # in progress
    CREATED = "Created", "accepted for the first time; written only where the CRD is an older release's"
    ROLLING_OUT = "RollingOut", "pods of this configuration are starting, or older ones are terminating"
    REPLICAS_NOT_READY = "ReplicasNotReady", "pods of this configuration run, and not all are ready"
    WAITING_FOR_DELETION = (
        "WaitingForDeletion",
        "objects of a deleted LLMProxy of this name are still being deleted",
        None,
        1.0,
    )
    UNSCHEDULABLE = "Unschedulable", "the new pod is not scheduled yet"
    LIMITS_STORE_NOT_READY = (
        "LimitsStoreNotReady",
        "the proxy's own store of shared limits is starting for the first time",
        None,
        20.0,
    )
    API_SERVER_UNAVAILABLE = (
        "ApiServerUnavailable",
        "requests to the API server keep failing, often in an admission webhook; they are repeated",
    )
    # in progress for 60 s, then stalled: a Secret may be applied after the LLMProxy that names it
    SECRET_NOT_FOUND = "SecretNotFound", "a Secret that the spec names does not exist", 60.0
    SECRET_KEY_NOT_FOUND = "SecretKeyNotFound", "a Secret that the spec names lacks the key", 60.0
    # in progress for 15 s, then stalled: the node tries again within this time
    IMAGE_PULL_FAILED = "ImagePullFailed", "the node cannot pull the image", 15.0, 5.0
    # stalled
    INVALID_SPEC = "InvalidSpec", "the spec is invalid; the API server accepted it under an older CRD", 0.0
    LIMITS_STORE_FAILED = (
        "LimitsStoreFailed",
        "the proxy's own store of shared limits does not run; everything else is applied",
        0.0,
        20.0,
    )
    POD_MONITOR_UNAVAILABLE = (
        "PodMonitorUnavailable",
        "spec.monitoring.podMonitor is true and the cluster has no such CRD; everything else is applied",
        0.0,
        20.0,
    )
    NOT_ALLOWED = "NotAllowed", "the spec asks for something that the operator's settings do not allow", 0.0
    NAME_CONFLICT = "NameConflict", "an object of a name that the operator needs belongs to somebody else", 0.0, 20.0
    OBJECT_REFUSED = "ObjectRefused", "the API server refuses an object of the operator", 0.0, 20.0
    QUOTA_EXCEEDED = (
        "QuotaExceeded",
        "the namespace's quota refuses an object, or demands an amount that it does not state",
        0.0,
        20.0,
    )
    PODS_REFUSED = "PodsRefused", "the API server refuses the pods", 0.0
    CONTAINER_REFUSED = "ContainerRefused", "the node cannot create a container from the pod's template", 0.0
    CRASH_LOOP = "CrashLoop", "a container exits repeatedly", 0.0
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded", "the new pod did not become ready in time", 0.0
    # Paused is True; Ready and Reconciling too, if nothing was ever applied
    PAUSED = "Paused", "the annotation llmproxy.dev/paused is true: nothing is applied until it is removed"
    # Available is False; Reconciling, Stalled or Paused is False
    NO_POD_AVAILABLE = "NoPodAvailable", "no pod is available"
    UP_TO_DATE = "UpToDate", "nothing is left to do"
    STALLED = "Stalled", "somebody must act first: see the condition Stalled"
    NOT_STALLED = "NotStalled", "nobody needs to act"
    NOT_PAUSED = "NotPaused", "changes are applied"

    def is_final(self, age_s: float) -> bool:
        """Return whether somebody must act about a problem of this age; until then it may go away by itself."""
        return self.final_after_s is not None and age_s >= self.final_after_s


@dataclass(frozen=True)
class Problem:
    """The cause that keeps an LLMProxy from being ready."""

    reason: Reason
    message: str
    final: bool
    """Somebody must act; else it goes on by itself."""

    @classmethod
    def of(cls, reason: Reason, message: str, *, age_s: float = 0.0) -> Self:
        """Return a problem of that age."""
        return cls(reason, message, reason.is_final(age_s))

    @property
    def requeue_after_s(self) -> float:
        """Delay of the next reconcile, infinite if a watch reports the end of the problem."""
        if self.final and self.reason.final_after_s:
            return math.inf
        return self.reason.requeue_after_s
