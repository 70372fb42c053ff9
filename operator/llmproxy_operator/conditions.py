"""Status of an LLMProxy, from what a reconcile observed. Pure.

It follows kstatus, so that `kubectl wait`, Flux and Argo CD read it: observedGeneration at the top and in each
condition, Reconciling and Stalled never both True, and lastTransitionTime moves only when a condition's status flips.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmproxy_api import LLMProxy
from llmproxy_api.status import UNSEEN
from llmproxy_operator import names
from llmproxy_operator.reasons import Problem, Reason
from llmproxy_operator.rollout_status import Rollout

READY, AVAILABLE, RECONCILING, STALLED, PAUSED = "Ready", "Available", "Reconciling", "Stalled", "Paused"
TYPES = (READY, AVAILABLE, RECONCILING, STALLED, PAUSED)

MAX_MESSAGE_CHARS = 1024
_BEFORE_FIRST_RECONCILE = frozenset({Reason.CREATED, Reason.PAUSED})
"""Reasons of an object that was never reconciled: its readiness is Unknown."""
_OF_RECONCILES: Mapping[str, Reason] = {
    reason.value: reason
    for reason in (
        Reason.API_SERVER_UNAVAILABLE,
        Reason.CREATED,
        Reason.INVALID_SPEC,
        Reason.NAME_CONFLICT,
        Reason.NOT_ALLOWED,
        Reason.OBJECT_REFUSED,
        Reason.PAUSED,
        Reason.QUOTA_EXCEEDED,
        Reason.SECRET_KEY_NOT_FOUND,
        Reason.SECRET_NOT_FOUND,
        Reason.WAITING_FOR_DELETION,
    )
}
"""Reasons that only another reconcile can take back; the others are read from the Deployment and its pods."""


@dataclass(frozen=True)
class Condition:
    """One condition, without its times."""

    type: str
    status: str
    reason: Reason
    message: str


NOTHING = Rollout()


@dataclass(frozen=True)
class Observation:
    """Result of one reconcile: the observed state, and what is wrong."""

    generation: int | None
    """Generation that the status is about; None: paused before the first reconcile."""
    proxy: LLMProxy | None
    """None: the spec is invalid, or was not read."""
    config_hash: str | None = None
    """None: not known, because a Secret is missing or the spec is invalid."""
    rollout: Rollout = NOTHING
    problem: Problem | None = None
    """Problem that kept the objects from being applied."""
    secondary: Problem | None = None
    """Problem of an object beside the pods; a problem of the pods comes first."""
    store: Rollout | None = None
    """Rollout of the proxy's own store of shared limits; None: it has none, or it was not read."""
    image: str | None = None
    """Image of the gateway in the desired template."""
    scaling_note: str = ""
    """Why the autoscaler does not scale, for the message of a ready proxy."""
    paused: bool = False
    note: str = ""
    """Message of the condition Paused."""


def store_problem(store: Rollout, generation: int, before: Mapping[str, Any]) -> Problem | None:
    """Return the problem of the proxy's own store of shared limits.

    Restarts after the first start are no problem: the pods serve, and each applies its offline quota of every limit.
    """
    quota = "each pod applies its offline quota of every limit"
    if store.problem is not None and store.problem.final:
        message = f"the store of shared limits does not run: {store.problem.message}; {quota}"
        return Problem.of(Reason.LIMITS_STORE_FAILED, message)
    ready = condition(before, READY)
    if store.ready > 0 or (ready.get("status"), ready.get("observedGeneration")) == ("True", generation):
        return None
    return Problem.of(Reason.LIMITS_STORE_NOT_READY, f"the store of shared limits is starting; until then {quota}")


def is_paused(annotations: Mapping[str, str]) -> bool:
    """Return whether the annotations of an LLMProxy pause the operator."""
    return annotations.get(names.ANNOTATION_PAUSED) == "true"


def pause_note(annotations: Mapping[str, str]) -> str:
    """Return the message of the condition Paused."""
    value = annotations.get(names.ANNOTATION_PAUSED)
    if value == "true":
        return f"nothing is applied; remove the annotation {names.ANNOTATION_PAUSED} to continue"
    if value in {None, "", "false"}:
        return ""
    return f'the annotation {names.ANNOTATION_PAUSED} pauses only if it is "true"'


def paused(before: Mapping[str, Any], rollout: Rollout, annotations: Mapping[str, str]) -> Observation:
    """Return the observation of a paused LLMProxy: pods as they are, everything else as in the status *before*."""
    ready = condition(before, READY)
    problem = None
    if (reason := _OF_RECONCILES.get(str(ready.get("reason")))) is not None:
        stalled = condition(before, STALLED).get("status") == "True"
        problem = Problem(reason, str(ready["message"]), final=stalled)
    elif not ready:
        problem = Problem.of(Reason.PAUSED, "paused before the first reconcile")
    generation = before.get("observedGeneration")
    return Observation(generation, None, None, rollout, problem, paused=True, note=pause_note(annotations))


def conditions(observation: Observation) -> tuple[Condition, ...]:
    """Return every condition."""
    problem = observation.problem or _rollout_problem(observation.rollout) or observation.secondary
    if problem is None:
        reason, message = _ready_reason(observation.rollout)
        message += f"; {observation.scaling_note}" if observation.scaling_note else ""
        main = (
            Condition(READY, "True", reason, message),
            Condition(RECONCILING, "False", Reason.UP_TO_DATE, ""),
            Condition(STALLED, "False", Reason.NOT_STALLED, ""),
        )
    elif problem.final:
        waiting = "waiting until the problem in the condition Stalled is resolved"
        main = (
            Condition(READY, "False", problem.reason, problem.message),
            Condition(RECONCILING, "False", Reason.STALLED, waiting),
            Condition(STALLED, "True", problem.reason, problem.message),
        )
    else:
        ready = "Unknown" if problem.reason in _BEFORE_FIRST_RECONCILE else "False"
        main = (
            Condition(READY, ready, problem.reason, problem.message),
            Condition(RECONCILING, "True", problem.reason, problem.message),
            Condition(STALLED, "False", Reason.NOT_STALLED, ""),
        )
    pause = (
        Condition(PAUSED, "True", Reason.PAUSED, observation.note)
        if observation.paused
        else Condition(PAUSED, "False", Reason.NOT_PAUSED, observation.note)
    )
    by_type = {item.type: item for item in (*main, _available(observation.rollout), pause)}
    return tuple(replace(by_type[kind], message=by_type[kind].message[:MAX_MESSAGE_CHARS]) for kind in TYPES)


def _ready_reason(rollout: Rollout) -> tuple[Reason, str]:
    if rollout.desired == 0:
        return Reason.SCALED_TO_ZERO, "spec.replicas is 0: set it to 1 to serve"
    message = f"{rollout.ready} of {rollout.desired} pods are ready and run this configuration"
    return Reason.ALL_REPLICAS_READY, message


def _available(rollout: Rollout) -> Condition:
    if rollout.available > 0:
        reason, message = Reason.MINIMUM_REPLICAS_AVAILABLE, f"{_pods_are(rollout.available)} available"
        return Condition(AVAILABLE, "True", reason, message)
    if rollout.current and rollout.desired == 0:
        return Condition(AVAILABLE, "False", Reason.SCALED_TO_ZERO, "spec.replicas is 0: set it to 1 to serve")
    return Condition(AVAILABLE, "False", Reason.NO_POD_AVAILABLE, "no pod is available")


def _rollout_problem(rollout: Rollout) -> Problem | None:
    if rollout.problem is not None:
        older = rollout.pods > rollout.updated and rollout.available > 0
        serving = "; the previous configuration keeps serving" if older else ""
        return replace(rollout.problem, message=rollout.problem.message + serving)
    if rollout.complete:
        return None
    if rollout.current and rollout.updated >= rollout.desired and rollout.pods == rollout.updated:
        return Problem.of(Reason.REPLICAS_NOT_READY, f"{rollout.ready} of {rollout.desired} pods are ready")
    if rollout.desired == 0:
        return Problem.of(Reason.ROLLING_OUT, f"scaling to 0: {_pods_are(rollout.pods)} still terminating")
    message = f"{rollout.updated} of {rollout.desired} pods run this configuration; {_pods_are(rollout.ready)} ready"
    return Problem.of(Reason.ROLLING_OUT, message)


def _pods_are(count: int) -> str:
    return "1 pod is" if count == 1 else f"{count} pods are"


def status(observation: Observation, before: Mapping[str, Any], *, now: str) -> dict[str, Any]:
    """Return the whole status; *before* is the present one, *now* a time in RFC 3339."""
    proxy, rollout = observation.proxy, observation.rollout
    fields: dict[str, Any] = {
        "observedGeneration": observation.generation,
        "conditions": [_dated(item, observation.generation, before, now) for item in conditions(observation)],
        "replicas": rollout.pods,
        "readyReplicas": rollout.ready,
        "updatedReplicas": rollout.updated,
        "configHash": observation.config_hash or before.get("configHash"),
        "models": before.get("models"),
        "limits": before.get("limits"),
        "image": before.get("image"),
    }
    if proxy is not None:
        name = proxy.metadata.name
        fields["endpoint"] = names.endpoint_url(name, proxy.metadata.namespace)
        fields["selector"] = names.selector(names.selector_labels(name))
        if observation.problem is None and rollout.complete:  # while pods roll, the previous values are in force
            fields["models"] = [model.name for model in proxy.spec.models]
            fields["limits"] = _limits(proxy)
            fields["image"] = observation.image
    else:
        fields["endpoint"], fields["selector"] = before.get("endpoint"), before.get("selector")
    if fields["limits"] and fields["limits"]["mode"] == "Managed" and observation.store is not None:
        fields["limits"] = {**fields["limits"], "storeReady": observation.store.ready > 0}
    return {key: value for key, value in fields.items() if value is not None}


def _limits(proxy: LLMProxy) -> dict[str, Any]:
    limits = proxy.spec.rate_limits
    values = {} if limits is None else limits.model_dump(by_alias=True, exclude_none=True)
    return {
        "mode": proxy.spec.sharing,
        **{key: values[key] for key in ("rpm", "rps", "tpm", "maxParallel") if key in values},
    }


def _dated(item: Condition, generation: int | None, before: Mapping[str, Any], now: str) -> dict[str, Any]:
    old = condition(before, item.type)
    flipped = old.get("status") != item.status or not old.get("lastTransitionTime")
    return {
        "type": item.type,
        "status": item.status,
        "reason": str(item.reason),
        "message": item.message,
        **({} if generation is None else {"observedGeneration": generation}),
        "lastTransitionTime": now if flipped else old["lastTransitionTime"],
    }


def reported(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the status that an operator wrote; an empty one if it is only the API server's default."""
    written: Mapping[str, Any] = raw.get("status") or {}
    if written.get("observedGeneration") != UNSEEN:
        return written
    return {name: value for name, value in written.items() if name != "observedGeneration"}


def condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """Return one condition of a status, an empty one if it has none."""
    items: list[Mapping[str, Any]] = status.get("conditions") or []
    return next((item for item in items if item.get("type") == kind), {})


def same(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Return whether two statuses say the same; conditions of other types than ours do not count."""
    ours = [item for kind in TYPES if (item := dict(condition(old, kind)))]
    return dict(new) == {**old, "conditions": ours}
