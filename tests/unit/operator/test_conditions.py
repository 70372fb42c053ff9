"""Conditions and status: complete, stable, and readable by kstatus."""

import itertools
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import kstatus
from llmproxy_api import LLMProxy, parse
from llmproxy_api.status import Status
from llmproxy_operator.conditions import Observation, condition, conditions, reported, same, status
from llmproxy_operator.reasons import Problem, Reason
from llmproxy_operator.rollout_status import Rollout

NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"
DONE = Rollout(1, 1, 1, 1, 1, current=True)
ROLLING = Rollout(1, 2, 1, 1, 1, current=True)
STARTING = Rollout(1, 1, 1, 0, 0, current=True)
ZERO = Rollout(0, 0, 0, 0, 0, current=True)
STUCK = Rollout(1, 2, 1, 1, 1, current=True, problem=Problem(Reason.CRASH_LOOP, "ends", final=True))
PULLING = Rollout(1, 1, 1, 0, 0, current=True, problem=Problem(Reason.IMAGE_PULL_FAILED, "no", final=False))
PROBLEMS = (
    None,
    Problem(Reason.CREATED, "", final=False),
    Problem(Reason.SECRET_NOT_FOUND, "Secret 'a'", final=False),
    Problem(Reason.SECRET_NOT_FOUND, "Secret 'a'", final=True),
    Problem(Reason.NAME_CONFLICT, "Service n/a", final=True),
    Problem(Reason.INVALID_SPEC, "spec.models: is required", final=True),
)


def a_proxy(**spec: Any) -> LLMProxy:
    deployments = [{"model": "hosted_vllm/echo", "apiBase": "http://echo:8000/v1"}]
    return parse(
        {
            "apiVersion": "llmproxy.dev/v1alpha1",
            "kind": "LLMProxy",
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 3},
            "spec": {"models": [{"name": "echo", "deployments": deployments}], **spec},
        }
    )


def a_view(seen: Rollout = DONE, problem: Problem | None = None, proxy: LLMProxy | None = None) -> Observation:
    return Observation(3, proxy or a_proxy(), "abc", seen, problem)


@pytest.mark.parametrize(
    ("seen", "problem", "ready", "available", "read"),
    [
        pytest.param(DONE, None, "True", "True", "Current", id="done"),
        pytest.param(ROLLING, None, "False", "True", "InProgress", id="rolling"),
        pytest.param(STARTING, None, "False", "False", "InProgress", id="starting"),
        pytest.param(ZERO, None, "True", "False", "Current", id="scaled to zero"),
        pytest.param(STUCK, None, "False", "True", "Failed", id="a failing roll"),
        pytest.param(PULLING, None, "False", "False", "InProgress", id="a pull that may still succeed"),
        pytest.param(Rollout(), PROBLEMS[1], "Unknown", "False", "InProgress", id="first sight"),
        pytest.param(DONE, PROBLEMS[2], "False", "True", "InProgress", id="a Secret is missing"),
        pytest.param(DONE, PROBLEMS[3], "False", "True", "Failed", id="a Secret is missing for long"),
        pytest.param(Rollout(), PROBLEMS[4], "False", "False", "Failed", id="a name is taken"),
    ],
)
def test_each_state_reads_as_it_should(
    seen: Rollout, problem: Problem | None, ready: str, available: str, read: str
) -> None:
    made = status(a_view(seen, problem), {}, now=NOW)

    assert condition(made, "Ready")["status"] == ready
    assert condition(made, "Available")["status"] == available
    assert kstatus.verdict({"metadata": {"generation": 3}, "status": made}) == read
    # Who asks for Ready alone reads the same.
    assert (ready == "True") == (read == kstatus.CURRENT)


def test_every_state_is_told_in_known_words_and_never_as_both_reconciling_and_stalled() -> None:
    for seen, problem in itertools.product((Rollout(), DONE, ROLLING, STARTING, ZERO, STUCK, PULLING), PROBLEMS):
        told = {item.type: item for item in conditions(a_view(seen, problem))}

        assert list(told) == ["Ready", "Available", "Reconciling", "Stalled", "Paused"]
        assert {item.reason for item in told.values()} <= set(Reason)
        assert (told["Reconciling"].status, told["Stalled"].status) != ("True", "True")
        done = (told["Reconciling"].status, told["Stalled"].status) == ("False", "False")
        assert done == (told["Ready"].status == "True")


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason.final_after_s])
def test_a_reason_that_turns_final_with_age_needs_a_look_until_then_and_none_after(reason: Reason) -> None:
    assert reason.final_after_s is not None
    young = Problem.of(reason, "", age_s=reason.final_after_s - 1)
    old = Problem.of(reason, "", age_s=reason.final_after_s)

    assert (young.final, old.final) == (False, True)
    assert young.requeue_after_s == reason.requeue_after_s
    assert old.requeue_after_s == math.inf


def test_a_problem_that_no_watch_reports_is_looked_at_again() -> None:
    assert Problem.of(Reason.WAITING_FOR_DELETION, "").requeue_after_s == 1
    assert Problem.of(Reason.NAME_CONFLICT, "").requeue_after_s == 20
    assert Problem.of(Reason.INVALID_SPEC, "").requeue_after_s == math.inf


def test_the_documentation_lists_every_reason() -> None:
    text = (Path(__file__).parents[3] / "docs/status.md").read_text()

    assert dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", text.split("## Reasons")[1], re.MULTILINE)) == {
        reason.value: reason.meaning for reason in Reason
    }


def test_the_guide_for_trouble_has_a_heading_for_every_reason_and_no_other() -> None:
    text = (Path(__file__).parents[3] / "docs/troubleshooting.md").read_text()

    assert sorted(re.findall(r"^### (\w+)$", text, re.MULTILINE)) == sorted(reason.value for reason in Reason)


def test_a_status_is_what_the_crd_describes() -> None:
    made = status(a_view(proxy=a_proxy(rateLimits={"rpm": 5, "maxParallel": 2})), {}, now=NOW)

    read = Status.model_validate(made)
    assert read.endpoint == "http://p.n.svc:4000"
    assert read.models == ("echo",)
    assert read.limits is not None
    assert (read.limits.mode, read.limits.rpm, read.limits.max_parallel) == ("Local", 5, 2)
    assert (read.replicas, read.ready_replicas, read.updated_replicas, read.config_hash) == (1, 1, 1, "abc")


def test_a_time_moves_only_when_a_status_flips() -> None:
    first = status(a_view(ROLLING), {}, now=NOW)
    second = status(a_view(STARTING), first, now=LATER)
    third = status(a_view(DONE), second, now=LATER)

    assert {item["lastTransitionTime"] for item in first["conditions"]} == {NOW}
    assert condition(second, "Ready")["lastTransitionTime"] == NOW
    assert condition(second, "Ready")["reason"] != condition(first, "Ready")["reason"]
    assert condition(second, "Available")["lastTransitionTime"] == LATER
    assert condition(third, "Ready")["lastTransitionTime"] == LATER
    assert condition(third, "Stalled")["lastTransitionTime"] == NOW


def test_the_same_view_makes_the_same_status_at_any_time() -> None:
    first = status(a_view(), {}, now=NOW)

    assert status(a_view(), first, now=LATER) == first
    assert same(first, first)


def test_conditions_of_others_and_their_order_make_no_difference() -> None:
    made = status(a_view(), {}, now=NOW)
    there = {**made, "conditions": [{"type": "Theirs", "status": "True"}, *reversed(made["conditions"])]}

    assert same(made, there)
    assert not same(made, {**there, "replicas": 7})
    assert not same(made, {**there, "limits": {"mode": "Local", "rpm": 7}})
    assert not same(made, {})


def test_while_pods_roll_the_limits_in_force_are_those_of_before() -> None:
    before = status(a_view(proxy=a_proxy(rateLimits={"rpm": 5})), {}, now=NOW)

    rolling = status(a_view(ROLLING, proxy=a_proxy(rateLimits={"rpm": 6})), before, now=LATER)
    after = status(a_view(DONE, proxy=a_proxy(rateLimits={"rpm": 6})), rolling, now=LATER)

    assert rolling["limits"]["rpm"] == 5
    assert after["limits"]["rpm"] == 6


def test_a_spec_that_cannot_be_used_leaves_what_is_known_of_the_pods() -> None:
    before = status(a_view(), {}, now=NOW)

    made = status(Observation(4, None, rollout=DONE, problem=PROBLEMS[5]), before, now=LATER)

    assert made["observedGeneration"] == 4
    assert {key: made[key] for key in ("endpoint", "models", "limits", "configHash", "replicas")} == {
        key: before[key] for key in ("endpoint", "models", "limits", "configHash", "replicas")
    }


def test_a_failing_roll_says_that_the_old_pods_serve() -> None:
    told = condition(status(a_view(STUCK), {}, now=NOW), "Stalled")

    assert told["message"].endswith("; the previous configuration keeps serving")


def test_a_message_has_a_bound() -> None:
    made = status(a_view(DONE, Problem(Reason.INVALID_SPEC, "x" * 100_000, final=True)), {}, now=NOW)

    assert all(len(item["message"]) <= 1024 for item in made["conditions"])


def test_the_default_of_the_api_server_is_no_status_of_an_operator() -> None:
    assert reported({"status": {"observedGeneration": -1}}) == {}
    assert reported({"status": {"observedGeneration": 1, "replicas": 2}}) == {"observedGeneration": 1, "replicas": 2}
    assert reported({}) == {}


def test_the_image_in_force_is_that_of_before_while_pods_roll() -> None:
    before = status(replace(a_view(), image="img:1"), {}, now=NOW)
    rolling = status(replace(a_view(ROLLING), image="img:2"), before, now=NOW)
    done = status(replace(a_view(), image="img:2"), rolling, now=NOW)

    assert [item["image"] for item in (before, rolling, done)] == ["img:1", "img:1", "img:2"]
