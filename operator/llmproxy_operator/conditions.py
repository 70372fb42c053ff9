"""What the operator says about an LLMProxy: from what a pass saw to its status. Pure; all reasons live here.

In the way of kstatus, so that `kubectl wait`, Flux and Argo CD read it: observedGeneration at the top and in each
condition, Reconciling and Stalled never both True, and a time that moves only when a condition's status flips.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmproxy_api import LLMProxy
from llmproxy_api.status import UNSEEN
from llmproxy_operator import names
from llmproxy_operator.rollout_status import Rollout

READY, AVAILABLE, RECONCILING, STALLED, PAUSED = "Ready", "Available", "Reconciling", "Stalled", "Paused"
TYPES = (READY, AVAILABLE, RECONCILING, STALLED, PAUSED)

MAX_MESSAGE_CHARS = 1024
_UNSEEN = frozenset({"Created", "Paused"})
"""Reasons of an object that no pass has looked into yet: whether it is ready is not known."""

REASONS = {
    # Ready or Available is True
    "AllReplicasReady": "every wanted pod runs this configuration and is ready",
    "ScaledToZero": "spec.replicas is 0: no pod is wanted and none is left",
    "MinimumReplicasAvailable": "at least one pod serves",
    # on the way
    "Created": "the operator has seen the object, and the definition of LLMProxies is an older release's",
    "RollingOut": "pods of this configuration are starting, or older ones end",
    "ReplicasNotReady": "pods of this configuration run, and not all are ready",
    "WaitingForDeletion": "objects of a deleted LLMProxy of this name are still going away",
    "Unschedulable": "no node takes the new pod yet",
    "LimitsStoreNotReady": "the store of shared limits that belongs to the proxy starts for the first time",
    # on the way for 60 s, then stalled
    "SecretNotFound": "a Secret that the spec names is not there",
    "SecretKeyNotFound": "a Secret that the spec names lacks the key",
    # on the way for some seconds, then stalled
    "ImagePullFailed": "the node cannot get the image",
    # stalled
    "InvalidSpec": "the spec cannot be used; the API server took it before it knew better",
    "LimitsStoreFailed": "the store of shared limits that belongs to the proxy does not run; all else is done",
    "PodMonitorUnavailable": "spec.monitoring.podMonitor is true and the cluster knows no PodMonitor; all else is done",
    "NotAllowed": "the spec asks for what the operator's settings do not allow",
    "NameConflict": "an object of a name that the operator needs is somebody else's",
    "ObjectRefused": "the API server refuses an object that the operator wants",
    "QuotaExceeded": "the namespace's quota allows no more",
    "PodsRefused": "the API server refuses the pods",
    "ContainerRefused": "the node cannot make a container from the pod's template",
    "CrashLoop": "a container ends again and again",
    "ProgressDeadlineExceeded": "the new pod did not get ready in time",
    # Paused is True; Ready and Reconciling too, if nothing was ever applied
    "Paused": "the annotation llmproxy.dev/paused is true: nothing is applied until it is gone",
    # Available is False; Reconciling, Stalled or Paused is False
    "NoPodAvailable": "no pod serves",
    "UpToDate": "nothing is to be done",
    "Stalled": "someone must act first: see the condition Stalled",
    "NotStalled": "nobody needs to act",
    "NotPaused": "changes are applied",
}
"""Every reason and what it means; a reason never changes its meaning."""


@dataclass(frozen=True)
class Trouble:
    """Why a pass could not bring the objects to what is wanted."""

    reason: str
    message: str
    final: bool
    """Someone must act; else it goes on by itself."""


@dataclass(frozen=True)
class Condition:
    """One aspect, without its times."""

    type: str
    status: str
    reason: str
    message: str


NOTHING = Rollout()


@dataclass(frozen=True)
class View:
    """What one pass saw."""

    generation: int | None
    """What the status is about; None: paused before anything was looked at."""
    proxy: LLMProxy | None
    """None: the spec cannot be used, or nobody looked at it."""
    config_hash: str | None = None
    """None: not known, because a Secret is missing or the spec cannot be used."""
    rollout: Rollout = NOTHING
    trouble: Trouble | None = None
    lacks: Trouble | None = None
    """What cannot be made beside the pods, which come first."""
    store: Rollout | None = None
    """The proxy's own store of shared limits; None: it has none, or nobody looked."""
    paused: bool = False
    note: str = ""
    """Message of the condition Paused."""


_OF_PASSES = frozenset(
    {
        *("Created", "InvalidSpec", "NameConflict", "NotAllowed", "ObjectRefused", "Paused", "QuotaExceeded"),
        *("SecretKeyNotFound", "SecretNotFound", "WaitingForDeletion"),
    }
)
"""Reasons that only another pass can take back; the others are seen in the Deployment and its pods."""


def store_trouble(store: Rollout, generation: int, before: Mapping[str, Any]) -> Trouble | None:
    """Return what is wrong with the proxy's own store of shared limits.

    Once it has run, its restarts are no trouble: the pods serve, and each goes on with its share of every limit.
    """
    shares = "each pod goes on with its share of every limit"
    if store.failure is not None and store.failure.final:
        message = f"the store of shared limits does not run: {store.failure.message}; {shares}"
        return Trouble("LimitsStoreFailed", message, final=True)
    was = condition(before, READY)
    if store.ready > 0 or (was.get("status"), was.get("observedGeneration")) == ("True", generation):
        return None
    return Trouble("LimitsStoreNotReady", f"the store of shared limits starts; until then {shares}", final=False)


def is_paused(annotations: Mapping[str, str]) -> bool:
    """Whether an LLMProxy asks that nothing be applied."""
    return annotations.get(names.ANNOTATION_PAUSED) == "true"


def pause_note(annotations: Mapping[str, str]) -> str:
    """Return what the condition Paused says."""
    asked = annotations.get(names.ANNOTATION_PAUSED)
    if asked == "true":
        return f"nothing is applied: remove the annotation {names.ANNOTATION_PAUSED} to go on"
    if asked in {None, "", "false"}:
        return ""
    return f'the annotation {names.ANNOTATION_PAUSED} pauses only if it is "true"'


def paused(before: Mapping[str, Any], seen: Rollout, annotations: Mapping[str, str]) -> View:
    """Return the view of a pass that may apply nothing: pods as they are, all else as it was before."""
    was = condition(before, READY)
    trouble = None
    if was.get("reason") in _OF_PASSES:
        stalled = condition(before, STALLED).get("status") == "True"
        trouble = Trouble(str(was["reason"]), str(was["message"]), final=stalled)
    elif not was:
        trouble = Trouble("Paused", "it was paused before anything was made of it", final=False)
    generation = before.get("observedGeneration")
    return View(generation, None, None, seen, trouble, paused=True, note=pause_note(annotations))


def conditions(view: View) -> tuple[Condition, ...]:
    """Return what is so."""
    seen, trouble = view.rollout, view.trouble or _of_rollout(view.rollout) or view.lacks
    if trouble is None:
        reason, message = _done(seen)
        main = (
            Condition(READY, "True", reason, message),
            Condition(RECONCILING, "False", "UpToDate", ""),
            Condition(STALLED, "False", "NotStalled", ""),
        )
    elif trouble.final:
        main = (
            Condition(READY, "False", trouble.reason, trouble.message),
            Condition(
                RECONCILING, "False", "Stalled", "waits until the cause that the condition Stalled names is gone"
            ),
            Condition(STALLED, "True", trouble.reason, trouble.message),
        )
    else:
        main = (
            Condition(READY, "Unknown" if trouble.reason in _UNSEEN else "False", trouble.reason, trouble.message),
            Condition(RECONCILING, "True", trouble.reason, trouble.message),
            Condition(STALLED, "False", "NotStalled", ""),
        )
    pause = Condition(PAUSED, "True" if view.paused else "False", "Paused" if view.paused else "NotPaused", view.note)
    made = {item.type: item for item in (*main, _available(seen), pause)}
    return tuple(replace(made[kind], message=made[kind].message[:MAX_MESSAGE_CHARS]) for kind in TYPES)


def _done(seen: Rollout) -> tuple[str, str]:
    if seen.wanted == 0:
        return "ScaledToZero", "spec.replicas is 0: set it to 1 to serve"
    return "AllReplicasReady", f"{seen.ready} of {seen.wanted} pods are ready and run this configuration"


def _available(seen: Rollout) -> Condition:
    if seen.available > 0:
        return Condition(AVAILABLE, "True", "MinimumReplicasAvailable", f"{_pods(seen.available)} can be called")
    if seen.current and seen.wanted == 0:
        return Condition(AVAILABLE, "False", "ScaledToZero", "spec.replicas is 0: set it to 1 to serve")
    return Condition(AVAILABLE, "False", "NoPodAvailable", "no pod can be called")


def _of_rollout(seen: Rollout) -> Trouble | None:
    if seen.failure is not None:
        older = seen.pods > seen.updated and seen.available > 0
        serving = "; the configuration before keeps serving" if older else ""
        return Trouble(seen.failure.reason, seen.failure.message + serving, final=seen.failure.final)
    if seen.complete:
        return None
    if seen.current and seen.updated >= seen.wanted and seen.pods == seen.updated:
        return Trouble("ReplicasNotReady", f"{seen.ready} of {seen.wanted} pods are ready", final=False)
    if seen.wanted == 0:
        return Trouble("RollingOut", f"{_pods(seen.pods)} of none that is wanted still runs", final=False)
    message = f"{seen.updated} of {seen.wanted} pods run this configuration, {_pods(seen.ready)} of all are ready"
    return Trouble("RollingOut", message, final=False)


def _pods(count: int) -> str:
    return "1 pod" if count == 1 else f"{count} pods"


def status(view: View, before: Mapping[str, Any], *, now: str) -> dict[str, Any]:
    """Return the whole status; *before* is the one that is there, *now* a time in RFC 3339."""
    proxy, seen = view.proxy, view.rollout
    made: dict[str, Any] = {
        "observedGeneration": view.generation,
        "conditions": [_dated(item, view.generation, before, now) for item in conditions(view)],
        "replicas": seen.pods,
        "readyReplicas": seen.ready,
        "updatedReplicas": seen.updated,
        "configHash": view.config_hash or before.get("configHash"),
        "models": before.get("models"),
        "limits": before.get("limits"),
    }
    if proxy is not None:
        name = proxy.metadata.name
        made["endpoint"] = names.endpoint_url(name, proxy.metadata.namespace)
        made["selector"] = names.selector(names.selector_labels(name))
        if view.trouble is None and seen.complete:  # while pods roll, what is in force is what was
            made["models"] = [model.name for model in proxy.spec.models]
            made["limits"] = _limits(proxy)
    else:
        made["endpoint"], made["selector"] = before.get("endpoint"), before.get("selector")
    if made["limits"] and made["limits"]["mode"] == "Managed" and view.store is not None:
        made["limits"] = {**made["limits"], "storeReady": view.store.ready > 0}
    return {key: value for key, value in made.items() if value is not None}


def _limits(proxy: LLMProxy) -> dict[str, Any]:
    limits = proxy.spec.rate_limits
    set_ones = {} if limits is None else limits.model_dump(by_alias=True, exclude_none=True)
    return {
        "mode": proxy.spec.sharing,
        **{key: set_ones[key] for key in ("rpm", "rps", "tpm", "maxParallel") if key in set_ones},
    }


def _dated(item: Condition, generation: int | None, before: Mapping[str, Any], now: str) -> dict[str, Any]:
    old = condition(before, item.type)
    flipped = old.get("status") != item.status or not old.get("lastTransitionTime")
    return {
        "type": item.type,
        "status": item.status,
        "reason": item.reason,
        "message": item.message,
        **({} if generation is None else {"observedGeneration": generation}),
        "lastTransitionTime": now if flipped else old["lastTransitionTime"],
    }


def reported(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the status that an operator wrote; an empty one if it is only the API server's default."""
    there: Mapping[str, Any] = raw.get("status") or {}
    if there.get("observedGeneration") != UNSEEN:
        return there
    return {name: value for name, value in there.items() if name != "observedGeneration"}


def condition(there: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """Return one condition of a status, an empty one if there is none."""
    found: Mapping[str, Any] = next((item for item in there.get("conditions") or () if item.get("type") == kind), {})
    return found


def same(wanted: Mapping[str, Any], there: Mapping[str, Any]) -> bool:
    """Whether a status says what is wanted; conditions of other people's types do not count."""
    ours = [item for kind in TYPES if (item := dict(condition(there, kind)))]
    return dict(wanted) == {**there, "conditions": ours}
