"""One of each kind of upstream, in pods: a vLLM-like one with token ids, and one that LiteLLM translates."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from e2e.kube import HERE, Kube, Object, eventually, trainer_job
from e2e.proxies import STORE, an_llmproxy, gateway_pods, running, spans, start_rollout

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
FAKE = Path(__file__).parents[1] / "fakes"


def test_a_vllm_like_server_gives_token_ids_that_the_caller_did_not_ask_for(team: Kube) -> None:
    with running(team, an_llmproxy("ids", spans={"store": STORE})):
        rollout, attempt = start_rollout(team)

        with trainer_job(team, "burst-ids", "burst", "3", "echo", rollout, attempt, endpoint="ids-endpoint") as job:
            assert [line["status"] for line in job.result()] == [200] * 3

        seen = eventually(lambda: spans(team, rollout, attempt, "litellm_request"), lambda s: len(s) == 3, 20, "spans")
        for span in seen:
            for name in ("prompt_token_ids", "response_token_ids"):
                ids = yaml.safe_load(str(span["attributes"][name]))
                assert ids, span
                assert all(isinstance(token, int) for token in ids), span
        assert [len(pod["spec"]["containers"]) for pod in gateway_pods(team, "ids")] == [1]
        assert parts(team, "ids") == {"gateway", "shipper"}, "a translator that nothing needs"


def parts(team: Kube, name: str) -> set[str]:
    [pod] = gateway_pods(team, name)
    return {c["name"] for c in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]}


@pytest.fixture
def gemini(team: Kube) -> Iterator[Kube]:
    """A fake of Google's API, and the Secret with its key."""
    source: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "gemini"}}
    files = {name: (FAKE / name).read_text() for name in ("gemini.py", "asgi.py")}
    team.apply(source | {"data": files}, HERE / "manifests/gemini.yaml")
    team.run("create", "secret", "generic", "google", "--from-literal=api-key=planted-key-of-google")
    team.wait("deployment/gemini", "condition=Available")
    yield team
    team.run("delete", "-f", str(HERE / "manifests/gemini.yaml"))
    team.run("delete", "secret/google", "configmap/gemini")


def test_a_translated_provider_answers_openai_clients_and_is_recorded(gemini: Kube) -> None:
    deployment = {
        "model": "gemini/gemini-2.0-flash",
        "apiBase": "http://gemini:8000/v1beta",
        "apiKey": {"secretKeyRef": {"name": "google", "key": "api-key"}},
    }
    proxy = an_llmproxy("translated", models=[{"name": "flash", "deployments": [deployment]}], spans={"store": STORE})
    with running(gemini, proxy, timeout_s=120):
        assert parts(gemini, "translated") == {"gateway", "shipper", "translator"}
        rollout, attempt = start_rollout(gemini)

        arguments = ("3", "flash", rollout, attempt)
        with trainer_job(gemini, "burst-flash", "burst", *arguments, endpoint="translated-endpoint") as job:
            lines = job.result()

        assert [(line["status"], line["text"]) for line in lines] == [(200, f"request {i}") for i in range(3)]
        assert gemini.service("gemini", 8000, "/stats")["calls"] == 3
        answered = {line["id"] for line in lines}
        seen = eventually(
            lambda: spans(gemini, rollout, attempt, "litellm_request"), lambda s: len(s) == 3, 20, "spans"
        )
        assert {span["attributes"]["gen_ai.response.id"] for span in seen} == answered
        assert "planted-key-of-google" not in str(seen)
