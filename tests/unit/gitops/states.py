"""Status of an LLMProxy in each state that Argo CD tells apart, as the operator writes it."""

from typing import Any

from llmproxy_api import LLMProxy, parse
from llmproxy_api.status import UNSEEN
from llmproxy_operator import conditions as reporting
from llmproxy_operator.conditions import Observation
from llmproxy_operator.reasons import Problem, Reason
from llmproxy_operator.rollout_status import Rollout

NOW = "2026-01-01T00:00:00Z"
DONE = Rollout(1, 1, 1, 1, 1, current=True)
ROLLING = Rollout(1, 2, 1, 1, 1, current=True)
STUCK = Rollout(
    1,
    2,
    1,
    1,
    1,
    current=True,
    problem=Problem(Reason.CRASH_LOOP, "container gateway exits with code 2 repeatedly", final=True),
)

State = tuple[dict[str, Any], str]


def _raw(generation: int, **annotations: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": "qwen", "namespace": "training", "uid": "u", "generation": generation}
    deployments = [{"model": "hosted_vllm/Qwen2.5-7B", "apiBase": "http://vllm:8000/v1"}]
    return {
        "apiVersion": "llmproxy.dev/v1alpha1",
        "kind": "LLMProxy",
        "metadata": metadata | ({"annotations": annotations} if annotations else {}),
        "spec": {"models": [{"name": "qwen", "deployments": deployments}], "rateLimits": {"rpm": 60}},
    }


def _seen(view: Observation, *, generation: int = 2, before: dict[str, Any] | None = None) -> dict[str, Any]:
    return {**_raw(generation), "status": reporting.status(view, before or {}, now=NOW)}


def states() -> dict[str, State]:
    """Return each state by name: the object, and the health that it must have."""
    proxy: LLMProxy = parse(_raw(2))
    ready = _seen(Observation(2, proxy, "abc", DONE))
    marks = {"llmproxy.dev/paused": "true"}
    paused = reporting.status(reporting.paused(ready["status"], DONE, marks), ready["status"], now=NOW)
    created = Problem(Reason.CREATED, "accepted; creating resources", final=False)
    waiting = Problem(
        Reason.SECRET_NOT_FOUND, "Secret 'openai' does not exist in namespace 'training': create it", final=False
    )
    missing = Problem(
        Reason.SECRET_NOT_FOUND, "Secret 'openai' does not exist in namespace 'training': create it", final=True
    )
    return {
        "new": ({**_raw(1), "status": {"observedGeneration": UNSEEN}}, "Progressing"),
        "created": (_seen(Observation(1, None, problem=created), generation=1), "Progressing"),
        "rolling": (_seen(Observation(2, proxy, "abc", ROLLING)), "Progressing"),
        "waiting_for_secret": (_seen(Observation(2, proxy, rollout=DONE, problem=waiting)), "Progressing"),
        "edited": ({**_raw(3), "status": ready["status"]}, "Progressing"),
        "ready": (ready, "Healthy"),
        "stopped": (_seen(Observation(2, proxy, "abc", Rollout(current=True))), "Healthy"),
        "missing_secret": (_seen(Observation(2, proxy, rollout=DONE, problem=missing)), "Degraded"),
        "failing_roll": (_seen(Observation(2, proxy, "abc", STUCK)), "Degraded"),
        "paused": ({**_raw(3, **marks), "status": paused}, "Suspended"),
    }
