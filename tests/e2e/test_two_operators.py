"""The chart with two replicas: when the one that works is killed, the other goes on, and both cannot be evicted."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from e2e.kube import Kube, Object, eventually
from e2e.proxies import an_llmproxy, running, wait_rolled
from llmproxy_operator.leader_election import LeaseTiming

# Nobody else's proxies can wait meanwhile.
pytestmark = [pytest.mark.e2e, pytest.mark.alone, pytest.mark.timeout(600)]

OPERATOR = "llmproxy-operator"
PODS = f"app.kubernetes.io/name={OPERATOR}"


def lease(operator: Kube) -> Object:
    spec: Object = operator.get("lease", OPERATOR)["spec"]
    return spec


def leader(operator: Kube) -> str:
    """Return the pod that works; empty while none does."""
    holder = lease(operator)["holderIdentity"]
    names = [pod["metadata"]["name"] for pod in operator.list("pods", PODS)]
    return next((name for name in names if holder.startswith(name)), "")


def kill(pod: str) -> None:
    """End the operator of a pod as a crash does: no signal that it could act on, no way to give the Lease back."""
    mark = f"OPERATOR_POD_NAME={pod}".encode()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
                return
        except OSError:  # it ended, or is not ours to read
            continue
    pytest.skip("the node is not on this machine, so a process of a pod cannot be killed")


def evict(operator: Kube, pod: str) -> int:
    """Ask for a pod's eviction as a drain does; return the status."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    path = f"/api/v1/namespaces/{operator.namespace}/pods/{pod}/eviction"
    return operator.posted(path, json.dumps(body).encode())[0]


def test_the_other_goes_on_when_the_leader_is_killed(team: Kube, operator: Kube) -> None:
    first = eventually(lambda: leader(operator), bool, 60, "a leader")
    before = lease(operator)["leaseTransitions"]
    with running(team, an_llmproxy("heir", replicas=0)):
        kill(first)
        killed = time.monotonic()
        team.patch("llmproxy", "heir", {"spec": {"replicas": 1}})

        second = eventually(lambda: leader(operator), lambda name: name not in {"", first}, 60, "another leader")
        took_s = time.monotonic() - killed
        wait_rolled(team, "heir")

        terms = LeaseTiming()
        # It waits the Lease out, as long as it has seen it unchanged, and not much longer on a busy machine either.
        assert took_s < terms.duration_s + 2 * terms.retry_s + 15
        assert lease(operator)["leaseTransitions"] == before + 1
        assert leader(operator) == second

    operator.run("rollout", "status", f"deployment/{OPERATOR}", "--timeout=60s")
    budget = eventually(
        lambda: operator.get("pdb", OPERATOR)["status"], lambda s: s["currentHealthy"] == 2, 60, "both are healthy"
    )
    assert (budget["desiredHealthy"], budget["expectedPods"], budget["disruptionsAllowed"]) == (1, 2, 1)
    assert [evict(operator, pod) for pod in (second, first)] == [201, 429]
    operator.run("rollout", "status", f"deployment/{OPERATOR}", "--timeout=60s")
    eventually(lambda: leader(operator), lambda name: name not in {"", second}, 60, "a leader again")
