"""Several pods behind one Service: a limit stays one limit, and pods that come, go and die are not noticed."""

import json
import time
from typing import Any

import pytest

from e2e.kube import Kube, Object, eventually, trainer_job
from e2e.proxies import STORE, an_llmproxy, echo_calls, gateway_pods, reset_echo, running, start_rollout, wait_rolled

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

CHILDREN = (
    "deployments,replicasets,pods,services,configmaps,secrets,endpointslices,networkpolicies,"
    "horizontalpodautoscalers,poddisruptionbudgets,controllerrevisions"
)
Line = dict[str, Any]

STEADY_CALLS = 40
"""Answers of a trainer's traffic after which its streams are under way too."""


def serving(kube: Kube, name: str, count: int) -> list[Object]:
    """Wait until so many pods serve and no other is left; return them."""

    def settled(pods: list[Object]) -> bool:
        ready = [p for p in pods if any(c["type"] == "Ready" and c["status"] == "True" for c in conditions(p))]
        return len(pods) == len(ready) == count and not any("deletionTimestamp" in p["metadata"] for p in pods)

    return eventually(lambda: gateway_pods(kube, name), settled, 150, f"{count} pods of {name}")


def counting(kube: Kube, name: str, count: int) -> list[Object]:
    """Wait until so many pods serve and count together; return them.

    A store that has just been made cannot know what was admitted before: until it is a window old, each pod takes only
    its share.
    """
    pods = serving(kube, name, count)

    def modes() -> set[str]:
        return {json.loads(kube.pod(p["metadata"]["name"], 9090, "/readyz"))["limiter"] for p in pods}

    eventually(modes, lambda found: found == {"shared"}, 150, f"{name} counts in its store")
    return pods


def conditions(pod: Object) -> list[Object]:
    found: list[Object] = pod.get("status", {}).get("conditions", [])
    return found


def granted(kube: Kube, pod: Object) -> int:
    """Return how many calls a pod has admitted since it started."""
    lines = kube.pod(pod["metadata"]["name"], 9090, "/metrics").splitlines()
    [line] = [line for line in lines if line.startswith('llmproxy_limit_decisions_total{decision="granted"}')]
    return int(float(line.rsplit(" ", 1)[1]))


def of(lines: list[Line], *statuses: int) -> list[Line]:
    return [line for line in lines if line.get("status") in statuses]


def most_in_a_minute(calls: list[Line]) -> int:
    """Return the most short calls that surely fall within one window of 60 s: begun after it began, ended before."""
    spans = sorted((float(c["at"]), float(c["at"]) + float(c["took"])) for c in calls if c["kind"] == "short")
    return max(sum(start <= begin and end <= start + 60 for begin, end in spans) for start, _ in spans)


def test_two_pods_admit_what_one_limit_allows(team: Kube) -> None:
    with running(team, an_llmproxy("both", replicas=2, rateLimits={"rpm": 20}), timeout_s=150):
        status = team.get("llmproxy", "both")["status"]
        assert status["limits"] == {"mode": "Managed", "rpm": 20, "storeReady": True}
        assert (status["replicas"], status["readyReplicas"]) == (2, 2)
        pods = counting(team, "both", 2)
        reset_echo(team)

        with trainer_job(team, "burst-both", "burst", "80", "echo", endpoint="both-endpoint") as job:
            lines = job.result()

        assert (len(of(lines, 200)), len(of(lines, 429))) == (20, 60), lines
        assert echo_calls(team) == 20
        assert sum(granted(team, pod) for pod in pods) == 20


@pytest.mark.long
def test_each_of_two_pods_is_stopped_by_what_the_other_admitted(team: Kube) -> None:
    with running(team, an_llmproxy("turns", replicas=2, rateLimits={"rpm": 10}), timeout_s=150):
        pods = counting(team, "turns", 2)
        body = json.dumps({"model": "echo", "messages": [{"role": "user", "content": "x"}], "max_tokens": 4}).encode()

        statuses = [team.pod_answer(p["metadata"]["name"], 4000, "/v1/chat/completions", body) for p in pods * 10]

        assert sorted(statuses) == [200] * 10 + [429] * 10
        assert [granted(team, pod) for pod in pods] == [5, 5]


@pytest.mark.long
def test_scaling_and_rolling_under_load_keep_the_bound_and_fail_nothing(team: Kube) -> None:
    manifest = an_llmproxy("wide", replicas=2, rateLimits={"rpm": 120}, spans={"store": STORE}, drainTimeout="60s")
    with running(team, manifest, timeout_s=150):
        before = {p["metadata"]["uid"] for p in counting(team, "wide", 2)}
        rollout, attempt = start_rollout(team)
        arguments = ("100", "echo", "6", rollout, attempt)

        with trainer_job(team, "traffic-wide", "traffic", *arguments, endpoint="wide-endpoint") as job:
            job.wait_started()
            team.run("scale", "llmproxy", "wide", "--replicas=3")
            scaled = {p["metadata"]["uid"] for p in serving(team, "wide", 3)}
            assert scaled > before  # nothing is rolled for it
            team.run("annotate", "llmproxy", "wide", "llmproxy.dev/restart=now")
            wait_rolled(team, "wide", 150)
            lines = job.result(240)

        calls = [line for line in lines if "done" not in line]
        assert [c for c in calls if c["status"] not in {200, 429}] == []
        assert [c for c in of(calls, 200) if c["kind"] == "stream" and c["finish"] != "stop"] == []
        assert of(calls, 429), "the load was below the limit"
        assert most_in_a_minute(of(calls, 200)) <= 120
        assert len(of(calls, 200)) >= 120  # and it is used, not only kept
        assert not scaled & {p["metadata"]["uid"] for p in serving(team, "wide", 3)}


def test_a_pod_that_dies_takes_only_its_own_calls_along(team: Kube) -> None:
    manifest = an_llmproxy("mortal", replicas=3, rateLimits={"rpm": 6000}, spans={"store": STORE})
    with running(team, manifest, timeout_s=150):
        victim = serving(team, "mortal", 3)[0]["metadata"]["name"]
        rollout, attempt = start_rollout(team)

        with trainer_job(
            team, "traffic-mortal", "traffic", "40", "echo", "6", rollout, attempt, endpoint="mortal-endpoint"
        ) as job:
            eventually(job.lines, lambda lines: len(lines) >= STEADY_CALLS, 60, "calls under way")
            began = time.time()
            team.run("delete", "pod", victim, "--grace-period=0", "--force", "--wait=false")
            ended = time.time()
            lines = job.result(180)

        calls = [line for line in lines if "done" not in line]
        failed = [c for c in calls if c["status"] not in {200, 429} or (c["kind"] == "stream" and not whole(c))]
        # It is out of the Service a moment after it is gone, and a call that was sent to it meanwhile was in flight.
        late = [c for c in failed if float(c["at"]) > ended + 5 or float(c["at"]) + float(c["took"]) < began]
        assert late == []
        assert len(failed) < len(calls) / 4, failed
        assert len(of(calls, 200)) > 100
        serving(team, "mortal", 3)


def whole(call: Line) -> bool:
    return call.get("finish") == "stop"


def test_deleting_it_removes_every_child(team: Kube) -> None:
    manifest = an_llmproxy(
        "family",
        autoscaling={"minReplicas": 2, "maxReplicas": 3},
        rateLimits={"rpm": 60},
        access={"namespaces": []},
        drainTimeout="1s",
    )
    with running(team, manifest, timeout_s=150):
        kinds = {o["kind"] for o in team.list(CHILDREN, "llmproxy.dev/name=family")}
        assert {"HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy", "ControllerRevision"} <= kinds

        team.run("delete", "llmproxy", "family")

        def left() -> list[str]:
            return [f"{o['kind']}/{o['metadata']['name']}" for o in team.list(CHILDREN, "llmproxy.dev/name=family")]

        eventually(left, lambda names: not names, 120, "children gone")
