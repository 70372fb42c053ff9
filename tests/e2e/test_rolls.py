"""Roll after roll under load, for each reason that there is: callers notice nothing."""

from collections.abc import Callable

import pytest

from e2e.kube import Kube, eventually, trainer_job
from e2e.proxies import ECHO, STORE, an_llmproxy, gateway_pods, running, spans, start_rollout, wait_rolled

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

NAME = "restless"
ROLLS = 20


def models(temperature: float) -> dict[str, object]:
    """Return the spec's models, called with a key and a default for the body."""
    key = {"secretKeyRef": {"name": NAME, "key": "api-key"}}
    server = {"model": "hosted_vllm/echo", "apiBase": ECHO, "apiKey": key, "params": {"temperature": temperature}}
    return {"models": [{"name": "echo", "deployments": [server]}]}


def edits(team: Kube) -> list[Callable[[int], None]]:
    """Return what rolls pods: each takes a number that has not been given before."""
    return [
        lambda i: team.patch("llmproxy", NAME, {"spec": {"rateLimits": {"rpm": 6000 + i}}}),
        lambda i: team.patch("llmproxy", NAME, {"spec": models(i / 100)}),
        lambda i: team.patch("secret", NAME, {"stringData": {"api-key": f"key-{i}"}}),
        lambda i: team.patch("llmproxy", NAME, {"metadata": {"annotations": {"llmproxy.dev/restart": str(i)}}}),
    ]


def generation(team: Kube) -> int:
    made: int = team.get("deployment", NAME)["metadata"]["generation"]
    return made


@pytest.mark.long
def test_twenty_rolls_under_load_fail_no_request_and_cut_no_stream(team: Kube) -> None:
    team.run("create", "secret", "generic", NAME, "--from-literal=api-key=key")
    manifest = an_llmproxy(NAME, **models(0), rateLimits={"rpm": 6000}, spans={"store": STORE}, drainTimeout="60s")
    with running(team, manifest):
        rollout, attempt = start_rollout(team)
        arguments = ("1000", "echo", "6", rollout, attempt)

        with trainer_job(team, "traffic-restless", "traffic", *arguments, endpoint=f"{NAME}-endpoint") as job:
            job.wait_started()
            for i in range(ROLLS):
                before = generation(team)
                edits(team)[i % 4](i + 1)
                eventually(lambda: generation(team), before.__lt__, 150, f"roll {i + 1} begun")
                wait_rolled(team, NAME, 120)
            job.stop()
            calls = [line for line in job.result(60) if "done" not in line]

        failed = [c for c in calls if c["status"] != 200]
        assert not failed, failed[:3]
        streams = [c for c in calls if c["kind"] == "stream"]
        assert [c for c in streams if (c["finish"], c["chunks"] >= 20) != ("stop", True)] == []
        passed_s = max(float(c["at"]) for c in calls) - min(float(c["at"]) for c in calls)
        assert sum(float(c["took"]) for c in streams) > 2 * passed_s, "streams were open all the time"
        answered = {c["id"] for c in calls}
        found = eventually(
            lambda: [s["attributes"]["gen_ai.response.id"] for s in spans(team, rollout, attempt, "litellm_request")],
            lambda ids: set(ids) >= answered,
            60,
            "every answered call in the store",
        )
        assert sorted(found) == sorted(answered), "a call is there twice, or was never answered"
        eventually(lambda: gateway_pods(team, NAME), lambda pods: len(pods) == 1, 120, "old pods gone")
