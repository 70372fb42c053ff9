"""Agent-Lightning's Trainer as a Job, with the proxy that it makes for itself; and a trainer without any of it."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import procs
from e2e.kube import HERE, Job, Kube, Object, eventually, proxied, trainer_job
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
    assert "waiting for 0 s: " in scripts.run("logs", "job/trainer")
    assert "NotFound" in scripts.run("get", "llmproxy", name, check=False) or name not in json.dumps(
        [item["metadata"]["name"] for item in scripts.list("llmproxies")]
    )


def test_rewards_that_are_emitted_and_spans_of_a_tracing_runner_fit(scripts: Kube) -> None:
    check_rollouts(train(scripts, "--agent", "anthropic", "--tracer", "agentops", "--rollouts", "8"), 8)


def most_in_a_second(lines: list[Object]) -> int:
    at: list[float] = sorted(start for line in lines for start in line.get("calls", ()))
    return max(sum(first <= other < first + 1 for other in at) for first in at)


@pytest.mark.long
def test_a_limit_is_raised_while_it_trains(scripts: Kube) -> None:
    lines = train(scripts, "--rps", "2", "--raise-to", "100", "--rollouts", "6")

    check_rollouts(lines, 12)
    raised = next(i for i, line in enumerate(lines) if line.get("limit") == 100)
    # Spans begin when a call arrives: admissions are at most 2 a second, arrivals nearly so.
    assert most_in_a_second(lines[:raised]) <= 3 < most_in_a_second(lines[raised:])


def test_a_new_limit_is_in_force_on_both_pods_when_restart_returns_and_no_call_fails(scripts: Kube) -> None:
    with trainer_job(scripts, "limits", "limits", account="trainer") as job:
        _, unchanged, changed = job.result(timeout_s=300)

    assert unchanged["same"], unchanged
    assert min(unchanged["took"]) < 0.5, unchanged
    assert (changed["statuses"], changed["owners"]) == ([200], ["Pod"])
    assert (changed["before"], changed["after"]) == (["60000"], ["50000"]), changed
    assert min(changed["meanwhile"], changed["calls_after"]) > 10, changed


@pytest.fixture
def two_contexts(kubeconfig: str, tmp_path: Path) -> Path:
    """A kubeconfig whose current context leads nowhere; the one called `training` leads to the cluster."""
    there: dict[str, Any] = yaml.safe_load(Path(kubeconfig).read_text())
    current = next(c for c in there["contexts"] if c["name"] == there["current-context"])
    there["contexts"] = [
        {"name": "training", "context": current["context"]},
        {"name": "wrong", "context": {**current["context"], "cluster": "nowhere"}},
    ]
    there["clusters"].append({"name": "nowhere", "cluster": {"server": "https://127.0.0.1:9"}})
    there["current-context"] = "wrong"
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(there))
    return path


def test_a_trainer_outside_of_the_cluster_gets_there_by_a_kubeconfig(
    team: Kube, two_contexts: Path, tmp_path: Path
) -> None:
    endpoint = f"{proxied(team)}/api/v1/namespaces/{team.namespace}/services/outside:4000/proxy"
    goes_on = tmp_path / "go-on"
    arguments = (str(two_contexts), "training", team.namespace, endpoint, str(goes_on))
    command = (str(procs.AGL_PYTHON), "-W", "ignore", str(HERE / "outside.py"), *arguments)
    with procs.running(*command, ready='{"text"', env={"LITELLM_LOCAL_MODEL_COST_MAP": "True"}) as trainer:
        first = json.loads(trainer.ready_line)
        live, secret = team.get("llmproxy", "outside"), team.get("secret", "outside-keys")
        goes_on.touch()
        code = trainer.wait(200)
        said = trainer.output
    assert code == 0, said

    assert "You said: hello" in first["text"]
    assert first["limit"] == "600"
    assert f"LLMProxy {team.namespace}/outside: waiting for 0 s: " in said
    assert "sk-of-the-trainer" not in json.dumps(live)
    assert base64.b64decode(secret["data"]["hosted-vllm"]) == b"sk-of-the-trainer"
    assert [owner["name"] for owner in secret["metadata"]["ownerReferences"]] == ["outside"]
    _, stopped, late, stalled = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert stopped == {"running": False}
    assert team.get("llmproxy", "outside")["spec"]["replicas"] == 0  # keep=True
    assert "outside-late: not ready within 5 s: SecretNotFound: " in late["late"], late
    assert "of-nobody" in late["late"]
    assert "outside-stalled: NotAllowed: " in stalled["stalled"], stalled
    team.run("delete", "llmproxy", "outside")


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
