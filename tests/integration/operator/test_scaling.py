"""The owner of `replicas`, on a real API server with its real autoscaler and its rules about owned fields."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from e2e.kube import Kube, Object, eventually
from e2e.proxies import an_llmproxy
from integration.operator.conftest import Operator, settled

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

MINE = "app.kubernetes.io/managed-by=llmproxy-operator"
BESIDE = "deployments,services,networkpolicies,horizontalpodautoscalers,poddisruptionbudgets"


def count(kube: Kube, name: str) -> int:
    found: int = kube.get("deployment", name)["spec"]["replicas"]
    return found


def owners(kube: Kube, name: str) -> set[str]:
    """Return who owns the Deployment's `replicas`."""
    live = json.loads(kube.run("get", "deployment", name, "-o", "json", "--show-managed-fields"))
    entries = live["metadata"]["managedFields"]
    return {e["manager"] for e in entries if "f:replicas" in e["fieldsV1"].get("f:spec", {})}


def seen(kube: Kube, name: str) -> object:
    proxy = kube.get("llmproxy", name)
    return proxy["status"].get("observedGeneration") == proxy["metadata"]["generation"]


def edit(kube: Kube, name: str, spec: Object) -> None:
    kube.patch("llmproxy", name, {"spec": spec})
    eventually(lambda: seen(kube, name), bool, 30, "the edit seen")


def beside(kube: Kube) -> set[str]:
    return {f"{o['kind']}/{o['metadata']['name']}" for o in kube.list(BESIDE, MINE)}


@contextmanager
def counts(kube: Kube, name: str) -> Iterator[list[int]]:
    """Yield every count that the Deployment wants while the block runs; it is whole when the block has ended."""
    command = [kube.kubectl, "--kubeconfig", kube.kubeconfig, "--namespace", kube.namespace]
    command += ["get", "deployment", name, "--watch", "-o", 'jsonpath={.spec.replicas}{"\\n"}']
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    found: list[int] = []
    try:
        time.sleep(1)
        yield found
        time.sleep(1)
    finally:
        process.terminate()
        found += [int(line) for line in process.communicate()[0].split()]


def test_switching_autoscaling_on_and_off_never_drops_a_pod(team: Kube, operator: Operator) -> None:
    team.apply(an_llmproxy("scaled", replicas=4))
    eventually(lambda: beside(team), lambda c: "Deployment/scaled" in c, 30, "children")
    eventually(lambda: seen(team, "scaled"), bool, 30, "seen")

    with counts(team, "scaled") as found:
        edit(team, "scaled", {"replicas": None, "autoscaling": {"minReplicas": 2, "maxReplicas": 6}})
        eventually(lambda: beside(team), lambda c: "HorizontalPodAutoscaler/scaled" in c, 30, "an autoscaler")
        settled(lambda: operator.metric("llmproxy_operator_writes_total"))
        assert owners(team, "scaled").isdisjoint({"llmproxy-operator"})
    assert set(found) == {4}

    # The real autoscaler has no metrics here, but it holds its bounds: its write takes the field.
    edit(team, "scaled", {"autoscaling": {"minReplicas": 2, "maxReplicas": 3}})
    eventually(lambda: count(team, "scaled"), lambda n: n == 3, 90, "the autoscaler's own count")
    settled(lambda: operator.metric("llmproxy_operator_reconciles_total"))
    assert count(team, "scaled") == 3
    assert "kube-controller-manager" in owners(team, "scaled")

    with counts(team, "scaled") as found:
        edit(team, "scaled", {"autoscaling": None, "replicas": 5})
        eventually(lambda: beside(team), lambda c: "HorizontalPodAutoscaler/scaled" not in c, 30, "no autoscaler")
        eventually(lambda: count(team, "scaled"), lambda n: n == 5, 30, "the count of the spec")
    assert set(found) == {3, 5}
    assert owners(team, "scaled") == {"llmproxy-operator"}


def test_a_new_autoscaled_proxy_begins_with_its_minimum(team: Kube, operator: Operator) -> None:
    team.apply(an_llmproxy("fresh", autoscaling={"minReplicas": 3, "maxReplicas": 6}))

    eventually(lambda: beside(team), lambda c: "HorizontalPodAutoscaler/fresh" in c, 30, "children")

    eventually(lambda: seen(team, "fresh"), bool, 30, "seen")
    assert count(team, "fresh") == 3
    eventually(lambda: owners(team, "fresh"), lambda who: "llmproxy-operator" not in who, 30, "the count handed over")
    assert count(team, "fresh") == 3


def test_kubectl_scale_goes_by_the_proxy(team: Kube, operator: Operator) -> None:
    team.apply(an_llmproxy("wide", replicas=2, rateLimits={"rpm": 60}))
    eventually(lambda: beside(team), lambda c: "Deployment/wide" in c, 30, "children")
    template = team.get("deployment", "wide")["spec"]["template"]

    team.run("scale", "llmproxy", "wide", "--replicas=3")

    eventually(lambda: count(team, "wide"), lambda n: n == 3, 30, "three pods wanted")
    assert team.get("deployment", "wide")["spec"]["template"] == template
    scale = json.loads(team.raw(f"/apis/llmproxy.dev/v1alpha1/namespaces/{team.namespace}/llmproxies/wide/scale"))
    assert scale["spec"]["replicas"] == 3
    assert "llmproxy.dev/name=wide" in scale["status"]["selector"]
    assert "component=gateway" in scale["status"]["selector"]

    # What would multiply the limits is refused by the API server, also on this way.
    team.run("scale", "llmproxy", "wide", "--replicas=1")
    edit(team, "wide", {"rateLimits": {"shared": {"mode": "Local"}}})
    said = team.run("scale", "llmproxy", "wide", "--replicas=2", check=False)
    assert "set its mode to Managed or Redis" in said


def test_what_several_need_comes_and_goes_with_them(team: Kube, operator: Operator) -> None:
    team.apply(an_llmproxy("many", replicas=0, rateLimits={"rpm": 60}))
    one = {"Deployment/many", "Service/many", "Service/many-peers"}
    eventually(lambda: beside(team), lambda c: c == one, 30, "children")

    # No pod may run here, so what is left of a store that nobody counts in any more can be seen only without pods.
    edit(team, "many", {"rateLimits": {"rpm": 60, "shared": {"mode": "Managed"}}})
    store = {"Deployment/many-limits", "Service/many-limits", "NetworkPolicy/many-limits"}
    eventually(lambda: beside(team), lambda c: c == one | store, 30, "a store")
    edit(team, "many", {"disruptionBudget": {"maxUnavailable": 1}})
    eventually(lambda: beside(team), lambda c: c == one | store | {"PodDisruptionBudget/many"}, 30, "a budget")

    edit(team, "many", {"disruptionBudget": None, "rateLimits": {"rpm": 60, "shared": None}})
    eventually(lambda: beside(team), lambda c: c == one, 30, "nothing left")


def test_an_autoscaler_or_budget_that_somebody_deletes_comes_back(team: Kube, operator: Operator) -> None:
    team.apply(an_llmproxy("kept", autoscaling={"minReplicas": 2, "maxReplicas": 6}))
    wanted = {"HorizontalPodAutoscaler/kept", "PodDisruptionBudget/kept"}
    eventually(lambda: beside(team), lambda c: wanted <= c, 30, "children")
    settled(lambda: operator.metric("llmproxy_operator_reconciles_total"))

    team.run("delete", "hpa,pdb", "kept")

    eventually(lambda: beside(team), lambda c: wanted <= c, 30, "both again")
