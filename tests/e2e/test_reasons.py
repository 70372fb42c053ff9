"""What real nodes, controllers and people do to a proxy, each with its own reason, and how each heals."""

import time

import pytest

import kstatus
from e2e.kube import Kube, Object, eventually
from e2e.proxies import an_llmproxy, gateway_pods, running, wait_rolled
from e2e.test_bad_input import keyed
from llmproxy_operator.render.deployment import PROGRESS_DEADLINE_S

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(600)]


def told(kube: Kube, name: str, kind: str, reason: str, timeout_s: float = 60) -> Object:
    """Wait until a condition is True for this reason, and kstatus reads the proxy so; return the condition."""
    wanted = kstatus.FAILED if kind == "Stalled" else kstatus.IN_PROGRESS

    def probe() -> tuple[Object, str]:
        proxy = kube.get("llmproxy", name)
        found = [c for c in proxy.get("status", {}).get("conditions", []) if (c["type"], c["status"]) == (kind, "True")]
        return (found[0] if found else {}), kstatus.verdict(proxy)

    said, _ = eventually(
        probe, lambda v: (v[0].get("reason"), v[1]) == (reason, wanted), timeout_s, f"{name}: {kind} {reason}"
    )
    return said


def test_a_pod_that_no_node_takes_is_waited_for_and_given_up_after_its_deadline(team: Kube) -> None:
    team.apply(an_llmproxy("homeless", pod={"nodeSelector": {"example.com/disk": "none-has-it"}}))
    begun = time.monotonic()
    try:
        waiting = told(team, "homeless", "Reconciling", "Unschedulable")
        assert "node" in waiting["message"]

        stalled = told(team, "homeless", "Stalled", "ProgressDeadlineExceeded", PROGRESS_DEADLINE_S + 90)

        assert time.monotonic() - begun >= PROGRESS_DEADLINE_S
        assert waiting["message"] in stalled["message"]  # it still says what the scheduler says
        team.run("patch", "llmproxy", "homeless", "--type=json", "-p", '[{"op": "remove", "path": "/spec/pod"}]')
        assert kstatus.verdict(wait_rolled(team, "homeless")) == kstatus.CURRENT
    finally:
        team.run("delete", "llmproxy", "homeless", "--ignore-not-found")


def test_pods_that_are_refused_are_made_once_their_account_is_there(team: Kube) -> None:
    team.apply(an_llmproxy("anonymous", pod={"serviceAccountName": "comes-later"}))
    try:
        assert "comes-later" in told(team, "anonymous", "Stalled", "PodsRefused")["message"]

        team.run("create", "serviceaccount", "comes-later")

        wait_rolled(team, "anonymous", 180)  # the ReplicaSet tries again ever more rarely
    finally:
        team.run("delete", "llmproxy", "anonymous", "--ignore-not-found")
        team.run("delete", "serviceaccount", "comes-later", "--ignore-not-found")


def test_a_secret_that_is_deleted_is_missed_while_the_pods_serve_on(team: Kube) -> None:
    team.run("create", "secret", "generic", "robbed", "--from-literal=api-key=x")
    with running(team, keyed("robbed", "robbed")):
        [pod] = [pod["metadata"]["uid"] for pod in gateway_pods(team, "robbed")]
        team.run("delete", "secret", "robbed")

        assert "'robbed'" in told(team, "robbed", "Reconciling", "SecretNotFound", 120)["message"]
        told(team, "robbed", "Stalled", "SecretNotFound", 120)

        assert team.condition("llmproxy", "robbed", "Available")["status"] == "True"
        team.run("create", "secret", "generic", "robbed", "--from-literal=api-key=x")
        wait_rolled(team, "robbed", 120)
        assert [pod["metadata"]["uid"] for pod in gateway_pods(team, "robbed")] == [pod]
    team.run("delete", "secret", "robbed")


def test_a_name_that_is_still_being_deleted_is_waited_for(team: Kube) -> None:
    manifest, hold = an_llmproxy("again", drainTimeout="1s"), '{"metadata": {"finalizers": ["example.com/hold"]}}'
    with running(team, manifest):
        before = team.get("configmap", "again-endpoint")["metadata"]["uid"]
        team.run("patch", "configmap", "again-endpoint", "--type=merge", "-p", hold)
        try:
            team.run("delete", "llmproxy", "again")
            team.apply(manifest)

            assert "again-endpoint" in told(team, "again", "Reconciling", "WaitingForDeletion")["message"]
        finally:
            free = '{"metadata": {"finalizers": null}}'
            team.run("patch", "configmap", "again-endpoint", "--type=merge", "-p", free, check=False)
        wait_rolled(team, "again", 120)
        assert team.get("configmap", "again-endpoint")["metadata"]["uid"] != before
