"""Calls that go well, by OpenAI's own SDK and by hand, and requests that cannot be served."""

import json
import socket
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from integration.gateway.conftest import PATH, Echo, Gateway, Stage, deployment, document, gateway, scripted

ODD = "next\u0085line \u2028 \u2029 \U0001f468\u200d\U0001f469\u200d\U0001f467 e\u0301 end"
MESSAGES: Any = [{"role": "user", "content": json.dumps({"echo": {"say": ODD}})}]


def test_a_plain_answer(plain: Gateway) -> None:
    answer = plain.sdk().chat.completions.create(model="echo", messages=MESSAGES)
    assert ODD in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    assert answer.usage.total_tokens > 0


def test_a_stream(plain: Gateway) -> None:
    stream = plain.sdk().chat.completions.create(model="echo", messages=MESSAGES, stream=True)
    chunks = list(stream)
    assert ODD in "".join(c.choices[0].delta.content or "" for c in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(c.usage is None for c in chunks)


def test_the_usage_of_a_stream_for_those_who_ask(plain: Gateway) -> None:
    chunks = list(
        plain.sdk().chat.completions.create(
            model="echo", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens > 0


def test_completions_embeddings_and_models(plain: Gateway) -> None:
    sdk = plain.sdk()
    assert "hi" in sdk.completions.create(model="echo", prompt="hi").choices[0].text
    assert len(sdk.embeddings.create(model="echo", input=["a", "b"]).data) == 2
    assert [model.id for model in sdk.models.list()] == ["echo"]
    assert sdk.models.retrieve("echo").id == "echo"


def test_azures_client_names_the_model_in_the_path(plain: Gateway) -> None:
    client = openai.AzureOpenAI(azure_endpoint=plain.url, api_key="none", api_version="2024-10-21", max_retries=0)
    answer = client.chat.completions.create(model="echo", messages=MESSAGES)
    assert ODD in (answer.choices[0].message.content or "")


def test_the_first_event_comes_before_the_last_is_made(plain: Gateway) -> None:
    directive = json.dumps({"echo": {"chunks": 3, "chunk_ms": 300}})
    body = {"model": "echo", "stream": True, "messages": [{"role": "user", "content": directive}]}
    with httpx2.stream("POST", plain.url + PATH, json=body, timeout=20) as answer:
        parts = answer.iter_raw()
        first = next(parts)
        rest = b"".join(parts)
    assert first.count(b"data:") < 3
    assert rest.endswith(b"data: [DONE]\n\n")


def test_nothing_of_the_clients_head_reaches_the_upstream(plain: Gateway, echo: Echo) -> None:
    head = {
        "authorization": "Bearer client-key",
        "x-rollout-id": "ro-1",
        "x-attempt-id": "at-1",
        "x-sequence-id": "3",
        "x-litellm-num-retries": "9",
        "x-litellm-timeout": "1",
        "cookie": "a=b",
    }
    body = {"model": "echo", "messages": MESSAGES, "num_retries": 9, "timeout": 1, "api_key": "k"}
    assert plain.post(body, headers=head).status_code == 200
    last = echo.stats()["last"]
    assert set(last["headers"]) == {"host", "user-agent", "accept", "accept-encoding", "content-type", "content-length"}
    assert last["body"] == {"model": "there", "messages": MESSAGES}


def test_the_key_of_a_deployment_is_sent_and_said_nowhere(tmp_path: Path) -> None:
    seen: list[bytes] = []

    def serve(connection: socket.socket, request: bytes) -> None:
        seen.append(request)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    with scripted(serve) as port:
        told = document(deployment(port, api_key_env="THE_KEY"))
        with gateway(tmp_path, told, env={"THE_KEY": "sk-planted-0815\n"}) as here:
            assert here.chat().status_code == 200
            told_of = here.admin("/readyz").text + here.admin("/metrics").text + here.process.output
    assert b"\r\nauthorization: Bearer sk-planted-0815\r\n" in seen[0]
    assert "sk-planted-0815" not in told_of


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        pytest.param(b"no json", 400, "invalid_request", None, id="no JSON"),
        pytest.param(b"[]", 400, "invalid_request", None, id="no object"),
        pytest.param(b"", 400, "invalid_request", None, id="nothing"),
        pytest.param({"messages": []}, 400, "invalid_request", "model", id="no model"),
        pytest.param({"model": 7}, 400, "invalid_request", "model", id="a number as model"),
        pytest.param(b'{"model": "echo", "model": "other"}', 400, "invalid_request", "model", id="two models"),
        pytest.param({"model": "echo", "stream": "yes"}, 400, "invalid_request", "stream", id="a text as stream"),
        pytest.param({"model": "nobody"}, 404, "model_not_found", "model", id="a model that is not there"),
    ],
)
def test_a_bad_body_is_told_in_openais_shape(
    plain: Gateway, body: Any, status: int, code: str, param: str | None
) -> None:
    answer = plain.post(body)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"], error["param"]) == (
        status, "invalid_request_error", code, param,
    )  # fmt: skip
    assert answer.headers["content-type"] == "application/json"


def test_an_unknown_model_is_told_what_there_is(plain: Gateway) -> None:
    with pytest.raises(openai.NotFoundError, match="there is echo"):
        plain.sdk().chat.completions.create(model="nobody", messages=MESSAGES)


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("GET", "/v1/chat/completions", 405, "POST"),
        ("POST", "/v1/models", 405, "GET"),
        ("DELETE", "/health", 405, "GET"),
        ("GET", "/", 404, "POST /v1/chat/completions"),
        ("POST", "/v1/nonsense", 404, "POST /v1/chat/completions"),
        ("GET", "/v1/models/nobody", 404, "there is echo"),
    ],
)
def test_a_path_or_method_that_is_not_ours(plain: Gateway, method: str, path: str, status: int, says: str) -> None:
    answer = httpx2.request(method, plain.url + path)
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]
    assert (status == 405) == ("allow" in answer.headers)


@pytest.mark.parametrize("path", ["/health", "/healthz", "/health/readiness", "/health/liveliness"])
def test_health_on_the_data_port_costs_no_completion(plain: Gateway, echo: Echo, path: str) -> None:
    assert httpx2.get(plain.url + path).json() == {"status": "ok"}
    assert echo.stats()["calls"] == 0


def test_a_body_that_is_too_large_is_refused_before_it_is_read(plain: Gateway, echo: Echo) -> None:
    answer = plain.post(b'{"model": "echo", "x": "' + b"x" * (33 << 20) + b'"}')
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert echo.stats()["calls"] == 0
    assert plain.chat().status_code == 200


def test_an_error_of_the_upstream_is_passed_on_as_it_is(plain: Gateway) -> None:
    answer = plain.echo(status=422)
    assert answer.status_code == 422
    assert "error" in answer.json()


def test_a_stream_cut_at_every_byte_arrives_whole(stage: Stage) -> None:
    event = json.dumps({"choices": [{"index": 0, "delta": {"content": ODD}}]}, ensure_ascii=False)
    whole = f"data: {event}\n\ndata: [DONE]\n\n".encode()

    def serve(connection: socket.socket, request: bytes) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for i in range(len(whole)):
            connection.sendall(b"1\r\n%b\r\n" % whole[i : i + 1])
        connection.sendall(b"0\r\n\r\n")

    stage.play(serve)
    raw = stage.chat(stream=True).content
    stream = stage.sdk().chat.completions.create(model="echo", messages=MESSAGES, stream=True)
    text = "".join(c.choices[0].delta.content or "" for c in stream)
    assert raw == whole
    assert text == ODD
