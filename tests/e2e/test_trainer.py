"""Agent-Lightning's Trainer as a Job, with the proxy that it makes for itself; and a trainer without any of it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from e2e.kube import Job, Kube, Object, eventually
from e2e.proxies import an_llmproxy, gateway_pods, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]
EXAMPLES = Path(__file__).parents[2] / "examples/agent-lightning"


def manifests(name: str) -> list[Object]:
    return [item for item in yaml.safe_load_all((EXAMPLES / name).read_text()) if item]


@pytest.fixture
def scripts(team: Kube) -> Iterator[Kube]:
    """The trainer's programs and rights."""
    data = {name: (EXAMPLES / name).read_text() for name in ("train.py", "agents.py")}
    team.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "trainer"}, "data": data})
    team.apply(*manifests("rbac.yaml"))
    yield team
    for kind, name in (("job", "trainer"), ("configmap", "trainer"), ("serviceaccount", "trainer")):
        team.run("delete", kind, name, "--ignore-not-found", check=False)


def begin(team: Kube, *args: str) -> Job:
    """Run train.py as the example's Job."""
    job = manifests("trainer-job.yaml")[0]
    job["spec"]["template"]["spec"]["containers"][0]["command"][3:] = list(args)
    team.run("delete", "job", "trainer", "--ignore-not-found")
    team.apply(job)
    return Job(team, "trainer")


def train(team: Kube, *args: str) -> list[Object]:
    """Run train.py as the example's Job; return what it printed."""
    return begin(team, *args).result(timeout_s=300)


def check_rollouts(lines: list[Object], count: int) -> None:
    rollouts = [line for line in lines if "rollout" in line]
    assert len(rollouts) == count, lines
    for line in rollouts:
        assert line["status"] == "succeeded"
        assert len(line["tokens"]) == len(line["calls"]) == 2, line
        assert all(prompt > 0 and response > 0 for prompt, response in line["tokens"])
        assert (line["rewards"][0], line["rewards"][1] > 0) == (None, True)


def test_a_trainer_makes_its_own_proxy_and_every_call_is_an_example(scripts: Kube) -> None:
    lines = train(scripts, "--rollouts", "8")

    name = next(line["proxy"] for line in lines if "proxy" in line)
    assert next(line["endpoint"] for line in lines if "proxy" in line) == f"http://{name}.{scripts.namespace}.svc:4000"
    check_rollouts(lines, 8)
    assert lines[-1] == {"running": False}
    assert "NotFound" in scripts.run("get", "llmproxy", name, check=False) or name not in json.dumps(
        [item["metadata"]["name"] for item in scripts.list("llmproxies")]
    )


@pytest.mark.long
def test_a_limit_is_raised_while_it_trains(scripts: Kube) -> None:
    lines = train(scripts, "--rps", "2", "--raise-to", "100", "--rollouts", "4")

    check_rollouts(lines, 8)
    assert any(line.get("limit") == 100 for line in lines)


@pytest.mark.long
def test_weights_are_updated_while_the_proxy_is_paused(scripts: Kube) -> None:
    lines = train(scripts, "--update-weights", "--replicas", "2", "--rollouts", "8")

    check_rollouts(lines, 16)
    pause = next(line for line in lines if "paused_from" in line)
    calls = [at for line in lines for at in line.get("calls", ())]
    assert len(calls) == 32
    assert [at for at in calls if pause["paused_from"] < at < pause["paused_to"]] == []
    assert any(at > pause["paused_to"] for at in calls)


@pytest.mark.long
def test_a_gateway_pod_is_killed_while_it_trains(scripts: Kube) -> None:
    job = begin(scripts, "--replicas", "2", "--rps", "5", "--rollouts", "30")
    lines = eventually(job.lines, lambda found: sum("rollout" in line for line in found) >= 3, 200, "rollouts")
    name = next(line["proxy"] for line in lines if "proxy" in line)
    victim = gateway_pods(scripts, name)[0]["metadata"]["name"]

    scripts.run("delete", "pod", victim, "--grace-period=0", "--force", "--wait=false")

    assert sum("rollout" in line for line in job.lines()) < 30, "it had ended before"
    check_rollouts(job.result(timeout_s=300), 30)


def test_without_stop_the_proxy_goes_with_the_trainers_pod(scripts: Kube) -> None:
    lines = train(scripts, "--no-stop", "--rollouts", "2")
    check_rollouts(lines, 2)
    scripts.run("delete", "job", "trainer")

    eventually(
        lambda: [p["metadata"]["name"] for p in scripts.list("llmproxies") if p["metadata"]["name"].startswith("agl-")],
        lambda names: names == [],
        60,
        "the trainer's LLMProxy is collected",
    )


def test_a_trainer_without_agent_lightning_takes_the_endpoint_from_its_environment(team: Kube) -> None:
    with running(team, an_llmproxy("quickstart")):
        team.run("delete", "job", "openai-trainer", "--ignore-not-found")
        team.apply(*manifests("openai-job.yaml"))
        try:
            Job(team, "openai-trainer").result()
            said = team.run("logs", "job/openai-trainer")
        finally:
            team.run("delete", "job", "openai-trainer", check=False)

    assert "You said: hello" in said
