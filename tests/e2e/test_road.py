"""The whole road: a person applies an LLMProxy, a trainer calls it, limits hold, spans arrive, and it goes away."""

import json
import time

import pytest

from e2e.kube import Kube, eventually, trainer_job
from e2e.proxies import (
    STORE,
    an_llmproxy,
    echo_calls,
    gateway_pods,
    reset_echo,
    running,
    spans,
    start_rollout,
    wait_rolled,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def test_twenty_rapid_requests_against_rpm_5_give_five_answers_and_five_upstream_calls(team: Kube) -> None:
    with running(team, an_llmproxy("five", rateLimits={"rpm": 5})):
        reset_echo(team)

        with trainer_job(team, "burst-five", "burst", "20", "echo", endpoint="five-endpoint") as job:
            lines = job.result()

        answered = [line for line in lines if line["status"] == 200]
        rejected = [line for line in lines if line["status"] == 429]
        assert (len(answered), len(rejected)) == (5, 15), lines
        assert echo_calls(team) == 5
        first = min(answered, key=lambda line: line["at"])
        for line in rejected:
            # True: the oldest admission leaves the window of 60 s then, rounded up to a whole second and one bucket.
            # Both moments are known to lie within their calls, which take long on a busy machine.
            wait = float(line["retry_after"])
            assert line["at"] + line["took"] + wait >= first["at"] + 60, line
            assert line["at"] + wait <= first["at"] + first["took"] + 63, line
            assert line["body"]["type"], line


def test_answered_calls_are_in_the_store_in_order_with_their_ids(team: Kube) -> None:
    with running(team, an_llmproxy("told", spans={"store": STORE})):
        rollout, attempt = start_rollout(team)

        with trainer_job(team, "burst-told", "burst", "10", "echo", rollout, attempt, endpoint="told-endpoint") as job:
            lines = job.result()

        answered = {line["id"] for line in lines if line["status"] == 200}
        assert len(answered) == 10, lines
        seen = eventually(lambda: spans(team, rollout, attempt, "litellm_request"), lambda s: len(s) >= 10, 20, "spans")
        assert {s["attributes"]["gen_ai.response.id"] for s in seen} == answered
        assert len(seen) == 10
        assert [s["sequence_id"] for s in seen] == list(range(1, 11))
        assert {(s["rollout_id"], s["attempt_id"]) for s in seen} == {(rollout, attempt)}


def test_an_edit_of_the_limit_rolls_the_pods_and_nobody_notices_but_by_the_limit(team: Kube) -> None:
    manifest = an_llmproxy("rolling", rateLimits={"rpm": 600}, spans={"store": STORE}, drainTimeout="60s")
    with running(team, manifest):
        rollout, attempt = start_rollout(team)
        [before] = gateway_pods(team, "rolling")
        arguments = ("45", "echo", "4", rollout, attempt)

        with trainer_job(team, "traffic-rolling", "traffic", *arguments, endpoint="rolling-endpoint") as job:
            job.wait_started()
            team.patch("llmproxy", "rolling", {"spec": {"rateLimits": {"rpm": 700}}})
            wait_rolled(team, "rolling")
            lines = job.result(180)

        calls = [line for line in lines if "done" not in line]
        bad = [line for line in calls if line["status"] not in {200, 429}]
        cut = [
            line for line in calls if line["kind"] == "stream" and line["status"] == 200 and line["finish"] != "stop"
        ]
        assert (bad, cut) == ([], [])
        limits = [line["limit"] for line in sorted(calls, key=lambda c: float(c["at"])) if line.get("limit")]
        assert (limits[0], limits[-1]) == ("600", "700")
        after = eventually(lambda: gateway_pods(team, "rolling"), lambda pods: len(pods) == 1, 120, "old pod gone")
        assert after[0]["metadata"]["uid"] != before["metadata"]["uid"]
        answered = {line["id"] for line in calls if line["status"] == 200}
        seen = eventually(
            lambda: {s["attributes"]["gen_ai.response.id"] for s in spans(team, rollout, attempt, "litellm_request")},
            lambda ids: ids >= answered,
            30,
            "every answered call in the store",
        )
        assert seen == answered


def test_no_answered_call_is_lost_when_the_gateway_pod_is_deleted_in_traffic(team: Kube) -> None:
    with running(team, an_llmproxy("deleted", spans={"store": STORE}, drainTimeout="60s")):
        rollout, attempt = start_rollout(team)
        [pod] = gateway_pods(team, "deleted")

        with trainer_job(
            team, "traffic-deleted", "traffic", "25", "echo", "4", rollout, attempt, endpoint="deleted-endpoint"
        ) as job:
            job.wait_started()
            team.run("delete", "pod", pod["metadata"]["name"], "--wait=false")
            lines = job.result(180)

        answered = {line["id"] for line in lines if line.get("status") == 200}
        assert len(answered) > 20, lines
        found = eventually(
            lambda: [s["attributes"]["gen_ai.response.id"] for s in spans(team, rollout, attempt, "litellm_request")],
            lambda ids: set(ids) >= answered,
            60,
            "every answered call in the store",
        )
        assert sorted(found) == sorted(set(found)), "a call is there twice"


KILL = """
import os, signal
from pathlib import Path

for folder in Path("/proc").glob("[0-9]*"):
    line = (folder / "cmdline").read_bytes()
    if b"llmproxy.shipper" in line and b"llmproxy.supervisor" not in line and int(folder.name) != os.getpid():
        os.kill(int(folder.name), signal.SIGKILL)
        print("killed")
"""


def test_a_shipper_that_is_killed_takes_nobody_out_of_service(team: Kube) -> None:
    with running(team, an_llmproxy("partless", spans={"store": STORE})):
        rollout, attempt = start_rollout(team)
        [pod] = gateway_pods(team, "partless")
        name = pod["metadata"]["name"]

        with trainer_job(
            team, "traffic-partless", "traffic", "45", "echo", "4", rollout, attempt, endpoint="partless-endpoint"
        ) as job:
            job.wait_started()
            time.sleep(12)  # a part that ran for less ends the container: its configuration may be wrong
            for _ in range(3):
                assert "killed" in team.run("exec", f"pod/{name}", "-c", "shipper", "--", "python", "-c", KILL)
                time.sleep(4)
            lines = job.result(180)

        assert {line["status"] for line in lines if "status" in line} == {200}, lines
        [pod] = gateway_pods(team, "partless")
        [shipper] = [item for item in pod["status"]["initContainerStatuses"] if item["name"] == "shipper"]
        assert (shipper["restartCount"], shipper["ready"]) == (0, True)
        assert "sidecar_restarted" in team.run("logs", f"pod/{name}", "-c", "shipper")


def test_deleting_the_proxy_removes_every_child(team: Kube) -> None:
    kinds = "deployments,replicasets,pods,services,configmaps,secrets,endpointslices"
    with running(team, an_llmproxy("leaving", spans={"store": STORE}, drainTimeout="1s")):
        assert len(team.list(kinds, "llmproxy.dev/name=leaving")) >= 6

        team.run("delete", "llmproxy", "leaving")

        def left() -> list[str]:
            return [f"{o['kind']}/{o['metadata']['name']}" for o in team.list(kinds, "llmproxy.dev/name=leaving")]

        eventually(left, lambda names: not names, 90, "children gone")
        assert [c for c in team.list("configmaps") if c["metadata"]["name"].startswith("leaving")] == []


@pytest.mark.alone
def test_a_settled_proxy_is_not_written_to(team: Kube, operator: Kube) -> None:
    with running(team, an_llmproxy("settled", spans={"store": STORE})):
        kinds = "llmproxies,deployments,services,configmaps"

        def versions() -> dict[str, str]:
            found = [*team.list(kinds, "llmproxy.dev/name=settled"), team.get("llmproxy", "settled")]
            return {f"{o['kind']}/{o['metadata']['name']}": o["metadata"]["resourceVersion"] for o in found}

        eventually(lambda: (operator_writes(operator), versions()), _Settled(), 60, "writes come to rest")
        before, written, passes = versions(), operator_writes(operator), operator_passes(operator)
        team.run("label", "llmproxy", "settled", "touched=1")  # wakes the operator; changes nothing that it renders
        eventually(lambda: operator_passes(operator), lambda n: n > passes, 60, "another pass")

        after = versions()
        assert operator_writes(operator) == written
        del before["LLMProxy/settled"], after["LLMProxy/settled"]
        assert after == before


class _Settled:
    """True when a value is the same three times in a row."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def __call__(self, value: object) -> bool:
        self.seen.append(value)
        return len(self.seen) >= 4 and all(v == value for v in self.seen[-4:])


def operator_metrics(operator: Kube, name: str) -> float:
    """Return the sum over all operator pods of the samples of one counter."""
    total = 0.0
    for pod in operator.list("pods", "app.kubernetes.io/name=llmproxy-operator"):
        for line in operator.pod(pod["metadata"]["name"], 8080, "/metrics").splitlines():
            if line.startswith(name) and not line.startswith("#"):
                total += float(line.rsplit(" ", 1)[1])
    return total


def operator_writes(operator: Kube) -> float:
    return operator_metrics(operator, "llmproxy_operator_writes_total")


def operator_passes(operator: Kube) -> float:
    return operator_metrics(operator, "llmproxy_operator_reconciles_total")


def test_status_says_where_it_serves_and_under_which_limits(team: Kube) -> None:
    with running(team, an_llmproxy("spoken", rateLimits={"rpm": 60, "maxParallel": 4})):
        status = team.get("llmproxy", "spoken")["status"]

        assert status["endpoint"] == f"http://spoken.{team.namespace}.svc:4000"
        assert status["models"] == ["echo"]
        assert (status["replicas"], status["readyReplicas"]) == (1, 1)
        assert {k: status["limits"][k] for k in ("mode", "rpm", "maxParallel")} == {
            "mode": "Local",
            "rpm": 60,
            "maxParallel": 4,
        }
        table = team.run("get", "llmp")
        assert "spoken" in table, json.dumps(status)
