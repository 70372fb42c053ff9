"""After the retries of a model another answers, if the limits of both let it; every try is in the record."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from integration.gateway.conftest import Echo, Gateway, deployment, document, gateway, unused_port


def served_by(answer: httpx2.Response) -> str:
    return str(answer.json()["model"])


def told(echo: Echo, **more: Any) -> dict[str, Any]:
    """Return a document with `echo`, whose server is not there, and two models that may answer for it."""
    dead = deployment(unused_port())
    made = document(dead, retries={"max": 1, "initial_delay_s": 0.01, "max_delay_s": 0.2}, **more)
    made["models"][0]["fallbacks"] = ["first", "second"]
    for name in ("first", "second"):
        there = deployment(echo.port, f"{name}/0", model=f"openai_like/{name}")
        made["models"].append({"name": name, "deployments": [there]})
    return made


@pytest.mark.parametrize("stream", [False, True])
def test_another_model_answers_after_the_retries(tmp_path: Path, echo: Echo, *, stream: bool) -> None:
    with gateway(tmp_path, told(echo)) as here:
        answer = here.chat(stream=stream)

        assert answer.status_code == 200
        assert '"model":"first"' in answer.text
        assert here.metric("llmproxy_upstream_requests_total", deployment="echo/0", outcome="connect") == 2
        assert here.metric("llmproxy_upstream_requests_total", deployment="first/0") == 1
        assert here.metric("llmproxy_fallbacks_total", model="echo", fallback="first") == 1
        assert here.metric("llmproxy_requests_total", model="echo", status="200") == 1


def test_an_upstream_that_stays_overloaded_is_replaced_and_one_that_refuses_is_not(tmp_path: Path, echo: Echo) -> None:
    made = told(echo)
    made["models"][0]["deployments"] = [deployment(echo.port, "echo/0", model="openai_like/asked")]
    with gateway(tmp_path, made) as here:
        overloaded = here.echo(status=503)  # every model gets the same directive
        tried = [
            here.metric("llmproxy_upstream_requests_total", deployment=f"{n}/0") for n in ("echo", "first", "second")
        ]
        refused = here.echo(status=400)

        assert (overloaded.status_code, tried) == (503, [2, 2, 2])
        assert refused.status_code == 400
        assert here.metric("llmproxy_upstream_requests_total", deployment="first/0") == 2, "a 400 is the caller's"


def test_a_retry_after_that_is_too_long_leads_to_the_next_model_at_once_and_in_the_end_to_the_caller(
    tmp_path: Path, echo: Echo
) -> None:
    made = told(echo)
    made["models"][0]["deployments"] = [deployment(echo.port, "echo/0", model="openai_like/asked")]
    with gateway(tmp_path, made) as here:
        answer = here.echo(status=429, retry_after="30")

        assert (answer.status_code, answer.headers["retry-after"]) == (429, "30")
        assert echo.stats()["calls"] == 3, "one try a model: each asks for more time than maxDelay"


def test_a_model_without_room_is_skipped(tmp_path: Path, echo: Echo) -> None:
    made = told(echo)
    made["models"][1]["rate_limits"] = {"rpm": 1}
    with gateway(tmp_path, made) as here:
        assert [served_by(here.chat()) for _ in range(3)] == ["first", "second", "second"]
        assert here.metric("llmproxy_rejections_total", model="first", kind="rpm") == 2


def test_the_call_is_a_request_of_both_models_and_holds_one_slot(tmp_path: Path, echo: Echo) -> None:
    made = told(echo, rate_limits={"max_parallel": 1, "tpm": 100_000})
    made["models"][0]["rate_limits"] = {"rpm": 2}
    with gateway(tmp_path, made) as here:
        assert [here.chat().status_code for _ in range(3)] == [200, 200, 429]
        assert used(here, "maxParallel") == 0
        assert 0 < used(here, "tpm") < 200, "what was charged to the model that failed is given back"


def test_the_call_is_one_request_of_the_proxy(tmp_path: Path, echo: Echo) -> None:
    made = told(echo, rate_limits={"rpm": 2})
    made["models"][1]["deployments"][0]["api_base"] = f"http://127.0.0.1:{unused_port()}/v1"
    with gateway(tmp_path, made) as here:
        assert [here.chat().status_code for _ in range(3)] == [200, 200, 429]
        assert used(here, "rpm") == 2
        assert here.metric("llmproxy_fallbacks_total", fallback="second") == 2


def used(here: Gateway, kind: str) -> float:
    return here.metric("llmproxy_limit_used", kind=kind, scope="proxy")


def test_nobody_left_to_answer_says_so(tmp_path: Path, echo: Echo) -> None:
    made = told(echo)
    for model in made["models"][1:]:
        model["deployments"][0]["api_base"] = f"http://127.0.0.1:{unused_port()}/v1"
    with gateway(tmp_path, made) as here:
        answer = here.chat()

        assert answer.status_code == 502
        assert "model 'second'" in answer.json()["error"]["message"]


def test_a_model_that_lacks_the_endpoint_is_skipped(tmp_path: Path, echo: Echo) -> None:
    made = told(echo)
    made["models"][1]["deployments"][0]["model"] = "anthropic/claude"
    with gateway(tmp_path, made) as here:
        answer = here.post({"model": "echo", "input": "hi"}, "/v1/embeddings")

        assert answer.status_code == 200
        assert here.metric("llmproxy_fallbacks_total", fallback="first") == 0


def test_a_fallback_that_is_not_there_is_refused(tmp_path: Path, echo: Echo) -> None:
    made = told(echo)
    made["models"][0]["fallbacks"] = ["nobody"]
    with pytest.raises(AssertionError, match="nobody"), gateway(tmp_path, made):
        pass
    assert json.dumps(made)
