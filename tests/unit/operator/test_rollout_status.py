"""Progress and problems of a Deployment, read from it and its pods."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llmproxy_operator.rollout_status import Rollout, rollout

Manifest = dict[str, Any]
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def a_deployment(
    *, wanted: int = 1, observed: int = 2, conditions: tuple[Manifest, ...] = (), **status: int
) -> Manifest:
    return {
        "metadata": {"generation": 2},
        "spec": {"replicas": wanted, "template": {"metadata": {"annotations": {"llmproxy.dev/template-hash": "new"}}}},
        "status": {"observedGeneration": observed, "conditions": list(conditions), **status},
    }


def a_pod(*containers: Manifest, hash_: str = "new", age_s: float = 60, **status: Any) -> Manifest:
    return {
        "metadata": {
            "name": "p",
            "annotations": {"llmproxy.dev/template-hash": hash_},
            "creationTimestamp": (NOW - timedelta(seconds=age_s)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
        "status": {"containerStatuses": list(containers), **status},
    }


def waiting(reason: str, message: str = "", **more: Any) -> Manifest:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"name": "gateway", "image": "img:1", "restartCount": 0, "ready": False, "state": state, **more}


def crashed(words: str, restarts: int = 3, **ended: Any) -> Manifest:
    last = {"terminated": {"exitCode": 2, "message": words, **ended}}
    return waiting("CrashLoopBackOff", restartCount=restarts, lastState=last)


def failure_of(*pods: Manifest, **deployment: Any) -> tuple[str, bool] | None:
    found = rollout(a_deployment(**{"replicas": 1, "updatedReplicas": 1, **deployment}), pods, now=NOW).problem
    return None if found is None else (found.reason, found.final)


def test_a_deployment_whose_every_pod_is_new_and_ready_is_complete() -> None:
    seen = rollout(a_deployment(replicas=1, updatedReplicas=1, readyReplicas=1, availableReplicas=1), (), now=NOW)

    assert seen == Rollout(1, 1, 1, 1, 1, current=True)
    assert seen.complete


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({"observed": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1}, id="not seen yet"),
        pytest.param({"replicas": 2, "updatedReplicas": 1, "readyReplicas": 1}, id="an old pod is left"),
        pytest.param({"replicas": 1, "updatedReplicas": 1, "readyReplicas": 0}, id="not ready"),
        pytest.param({"replicas": 1, "updatedReplicas": 0, "readyReplicas": 1}, id="only an old pod"),
    ],
)
def test_a_deployment_on_its_way_is_not_complete(status: dict[str, Any]) -> None:
    assert not rollout(a_deployment(**status), (), now=NOW).complete


def test_no_deployment_is_not_complete() -> None:
    assert not rollout(None, (), now=NOW).complete


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff"])
def test_a_failing_pull_is_final_only_after_a_while(reason: str) -> None:
    assert failure_of(a_pod(waiting(reason), age_s=3)) == ("ImagePullFailed", False)
    assert failure_of(a_pod(waiting(reason), age_s=30)) == ("ImagePullFailed", True)


def test_an_image_that_can_never_be_pulled_is_named_at_once() -> None:
    assert failure_of(a_pod(waiting("ErrImageNeverPull"), age_s=1)) == ("ImagePullFailed", True)


def test_a_crash_loop_has_the_containers_last_words_without_keys() -> None:
    words = (
        '{"event": "bad"}\nfield rate_limits.rpm: must be at least 1\nkey sk-abcdefghijklmnopqrstuvwx and my-own-key'
    )
    seen = rollout(a_deployment(), [a_pod(crashed(words))], now=NOW, secrets=["my-own-key"])

    assert seen.problem is not None
    assert (seen.problem.reason, seen.problem.final) == ("CrashLoop", True)
    assert "container gateway exits with code 2 repeatedly" in seen.problem.message
    assert "rate_limits.rpm" in seen.problem.message
    assert "my-own-key" not in seen.problem.message
    assert "sk-abc" not in seen.problem.message


def test_one_crash_is_no_crash_loop() -> None:
    once = {"name": "gateway", "ready": False, "restartCount": 1, "lastState": {"terminated": {"exitCode": 1}}}

    assert failure_of(a_pod({**once, "state": {"running": {}}})) is None


def test_a_loop_is_seen_also_while_the_container_runs_for_a_moment() -> None:
    assert failure_of(a_pod(ran(restarts=4, began_s=20, code=1))) == ("CrashLoop", True)


def ran(*, restarts: int, began_s: float, code: int) -> Manifest:
    """A container that runs and is not ready, whose run before began so long ago."""
    start, end = NOW - timedelta(seconds=began_s), NOW - timedelta(seconds=min(began_s, 5))
    ended = {"exitCode": code, "startedAt": f"{start:%Y-%m-%dT%H:%M:%SZ}", "finishedAt": f"{end:%Y-%m-%dT%H:%M:%SZ}"}
    last = {"terminated": ended}
    return {"name": "gateway", "ready": False, "restartCount": restarts, "state": {"running": {}}, "lastState": last}


@pytest.mark.parametrize(
    "container",
    [
        pytest.param(ran(restarts=2, began_s=86_400, code=255), id="the node rebooted for the second time"),
        pytest.param(ran(restarts=3, began_s=60, code=0), id="clean ends"),
        pytest.param(ran(restarts=1, began_s=5, code=1), id="the first crash"),
    ],
)
def test_restarts_of_long_ago_and_clean_ends_are_no_crash_loop(container: Manifest) -> None:
    assert failure_of(a_pod(container, age_s=1e6)) is None


def test_a_back_off_of_the_node_is_a_crash_loop_whatever_the_code() -> None:
    assert failure_of(a_pod(crashed("", exitCode=0))) == ("CrashLoop", True)


def test_out_of_memory_is_said_in_words() -> None:
    seen = rollout(a_deployment(), [a_pod(crashed("", reason="OOMKilled"))], now=NOW)

    assert seen.problem is not None
    assert "exceeds its memory limit" in seen.problem.message


def test_trouble_of_older_and_of_ending_pods_does_not_count() -> None:
    ending = a_pod(crashed("x"))
    ending["metadata"]["deletionTimestamp"] = "2026-01-01T12:00:00Z"

    assert failure_of(a_pod(crashed("x"), hash_="old"), ending) is None


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (
            ({"type": "ReplicaFailure", "status": "True", "message": "pods is forbidden: exceeded quota: q"},),
            ("QuotaExceeded", True),
        ),
        (
            ({"type": "ReplicaFailure", "status": "True", "message": "failed quota: q: must specify limits.cpu"},),
            ("QuotaExceeded", True),
        ),
        (
            ({"type": "ReplicaFailure", "status": "True", "message": "violates PodSecurity"},),
            ("PodsRefused", True),
        ),
        (
            ({"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"},),
            ("ProgressDeadlineExceeded", True),
        ),
        (({"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated"},), None),
    ],
    ids=["quota", "a quota that demands an amount", "refused", "deadline", "on its way"],
)
def test_conditions_of_the_deployment(conditions: tuple[Manifest, ...], expected: tuple[str, bool] | None) -> None:
    assert failure_of(conditions=conditions) == expected


def test_conditions_of_an_older_template_do_not_count() -> None:
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}

    assert failure_of(conditions=(late,), observed=1) is None


def test_a_pod_without_a_node_waits_and_after_the_deadline_is_the_reason() -> None:
    homeless = a_pod(conditions=[{"type": "PodScheduled", "status": "False", "message": "0/1 nodes: Insufficient cpu"}])
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}

    assert failure_of(homeless) == ("Unschedulable", False)
    seen = rollout(a_deployment(conditions=(late,)), [homeless], now=NOW)
    assert seen.problem is not None
    assert seen.problem.reason == "ProgressDeadlineExceeded"
    assert "Insufficient cpu" in seen.problem.message


@pytest.mark.parametrize("reason", ["CreateContainerConfigError", "CreateContainerError", "RunContainerError"])
def test_a_container_that_cannot_be_made_is_final(reason: str) -> None:
    assert failure_of(a_pod(waiting(reason, 'secret "x" not found'))) == ("ContainerRefused", True)


def test_a_sidecar_counts_too() -> None:
    shipper = {**crashed("no spool"), "name": "shipper"}

    assert failure_of(a_pod(initContainerStatuses=[shipper])) == ("CrashLoop", True)


def test_without_the_secrets_a_container_is_not_quoted_and_the_node_is() -> None:
    def told(pod: Manifest) -> str:
        found = rollout(a_deployment(replicas=1, updatedReplicas=1), [pod], now=NOW, secrets=None).problem
        assert found is not None
        return found.message

    crash = told(a_pod(crashed("planted")))
    assert "planted" not in crash
    assert crash.startswith("container gateway exits with code 2 repeatedly: its output is in its log")
    assert "planted" not in told(a_pod(waiting("RunContainerError", "runc: --requirepass planted")))
    assert 'secret "x" not found' in told(a_pod(waiting("CreateContainerConfigError", 'secret "x" not found')))
    assert "no such tag" in told(a_pod(waiting("ErrImagePull", "no such tag")))
