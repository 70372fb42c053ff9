"""A real Argo CD keeps LLMProxies as Git has them: sync, health, edits, failures, no drift, prune."""

import pytest

from e2e.argocd.conftest import World
from e2e.kube import Kube, eventually
from e2e.proxies import an_llmproxy, gateway_pods, wait_rolled

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

BOTH = pytest.mark.parametrize("name", ["plain", "server-side"])


def pods(kube: Kube, name: str) -> set[str]:
    return {pod["metadata"]["name"] for pod in gateway_pods(kube, name)}


@BOTH
def test_a_new_proxy_is_progressing_then_healthy(world: World, name: str) -> None:
    app = world.applications[name]

    app.wait("Healthy")

    assert app.healths() == ["Progressing", "Healthy"]
    assert len(pods(world.target, name)) == 1


@BOTH
def test_a_commit_that_edits_a_limit_rolls_the_pods(world: World, name: str) -> None:
    app = world.applications[name]
    app.wait("Healthy")
    before = pods(world.target, name)

    world.repository.commit(name, an_llmproxy(name, rateLimits={"rpm": 6}))

    app.wait("Healthy")
    assert app.healths() == ["Progressing", "Healthy"]
    assert world.target.get("llmproxy", name)["status"]["limits"]["rpm"] == 6
    eventually(lambda: pods(world.target, name), before.isdisjoint, 60, "the old pod is gone")


@BOTH
def test_what_people_and_the_operator_write_besides_git_is_no_drift(world: World, name: str) -> None:
    app, kube = world.applications[name], world.target
    app.wait("Healthy")

    kube.patch("llmproxy", name, {"spec": {"replicas": 0}})  # Git says nothing of replicas
    wait_rolled(kube, name)
    kube.run("annotate", "llmproxy", name, "llmproxy.dev/paused=true")
    eventually(lambda: app.state()[0], lambda health: health == "Suspended", 60, "Suspended")
    kube.run("annotate", "llmproxy", name, "llmproxy.dev/paused-")
    kube.run("scale", "llmproxy", name, "--replicas=1")
    wait_rolled(kube, name)

    app.compare()
    app.wait("Healthy")
    assert kube.get("llmproxy", name)["spec"]["replicas"] == 1
    assert app.drifted() == []


def test_a_commit_whose_pods_cannot_start_is_degraded_while_the_old_ones_serve(world: World) -> None:
    app, kube = world.applications["plain"], world.target
    app.wait("Healthy")
    good = kube.get("llmproxy", "plain")["spec"]["rateLimits"]
    [serving] = eventually(lambda: pods(kube, "plain"), lambda found: len(found) == 1, 60, "one pod")

    world.repository.commit("plain", an_llmproxy("plain", rateLimits=good, image="localhost/llmproxy:not-there"))

    app.wait("Degraded")
    assert "localhost/llmproxy:not-there" in app.message()
    ready = {c["type"]: c["status"] for c in kube.get("pod", serving)["status"]["conditions"]}["Ready"]
    assert ready == "True"

    world.repository.commit("plain", an_llmproxy("plain", rateLimits=good))
    app.wait("Healthy")
    eventually(lambda: pods(kube, "plain"), lambda found: found == {serving}, 60, "only the pod of before")


def test_a_proxy_without_its_secret_is_degraded_after_a_while_and_heals_by_itself(world: World) -> None:
    app = world.applications["keyless"]

    app.wait("Degraded", 120)

    assert app.healths(ever=True) == ["Progressing", "Degraded"]  # other Applications have moved the repository on
    assert "Secret 'provider' does not exist in namespace" in app.message()
    world.target.run("create", "secret", "generic", "provider", "--from-literal=api-key=x")
    app.wait("Healthy")


@BOTH
def test_what_is_taken_out_of_git_is_pruned_with_all_its_children(world: World, name: str) -> None:
    app, kube = world.applications[name], world.target
    app.wait("Healthy")

    world.repository.commit(name, None)

    mine = f"llmproxy.dev/name={name}"
    kinds = "deployments,services,configmaps,secrets,controllerrevisions,pods"
    eventually(lambda: kube.list(kinds, mine), lambda found: found == [], 90, "children gone")
    assert "NotFound" in kube.run("get", "llmproxy", name, check=False)
    app.wait("Healthy")  # an Application of nothing
    assert app.drifted() == []
