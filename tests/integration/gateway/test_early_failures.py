"""Errors in a response of status 200: failed attempts until content has come."""

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from integration.gateway.conftest import Stage, deployment, document, gateway, scripted
from integration.gateway.test_begun import in_turn, sends, tries
from integration.gateway.test_ends import chunked, text_event
from integration.gateway.test_faults import STREAM_HEAD

OPENROUTER = {"error": {"code": 502, "message": "Provider returned error"}}
ROLE = b'data: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}]}\n\n'
GOOD = chunked(text_event("hel") + text_event("lo") + b"data: [DONE]\n\n")


def whole(body: object) -> bytes:
    data = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data)


def event(body: object) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


FAILING: dict[str, Callable[[], bytes]] = {
    "OpenRouter, plain": lambda: whole(OPENROUTER),
    "OpenRouter, a stream": lambda: chunked(b": OPENROUTER PROCESSING\n\n" + event(OPENROUTER)),
    "after a role": lambda: chunked(ROLE + event(OPENROUTER)),
    "finish_reason error": lambda: chunked(ROLE + event({"choices": [{"delta": {}, "finish_reason": "error"}]})),
}


@pytest.mark.parametrize("name", FAILING)
def test_an_error_before_any_content_is_a_failed_attempt(stage: Stage, name: str) -> None:
    stream = "plain" not in name
    good = GOOD if stream else whole({"choices": [{"message": {"role": "assistant", "content": "hi"}}]})
    stage.play(in_turn(sends(FAILING[name]()), sends(good)))
    before = tries(stage, "error")
    answer = stage.chat(stream=stream)
    assert answer.status_code == 200
    assert "error" not in answer.text
    assert tries(stage, "error") == before + 1


@pytest.mark.parametrize("stream", [False, True])
def test_in_the_end_the_client_gets_the_servers_words_and_status(tmp_path: Path, *, stream: bool) -> None:
    answer = chunked(event(OPENROUTER)) if stream else whole(OPENROUTER)
    with scripted(sends(answer)) as port, gateway(tmp_path, document(deployment(port), retries={"max": 1})) as here:
        response = here.chat(stream=stream)
        assert response.status_code == 502
        assert response.json()["error"]["message"] == "Provider returned error"
        assert here.metric("llmproxy_upstream_requests_total", outcome="error") == 2


def test_an_error_of_the_request_is_not_retried_and_not_the_deployments(tmp_path: Path) -> None:
    answer = whole({"error": {"code": 400, "message": "context too long"}})
    with scripted(sends(answer)) as port, gateway(tmp_path, document(deployment(port))) as here:
        for _ in range(6):
            assert here.chat().status_code == 400
        assert here.metric("llmproxy_upstream_requests_total", outcome="200") == 6
        assert here.metric("llmproxy_upstream_healthy") == 1


def test_after_content_an_error_goes_to_the_client(stage: Stage) -> None:
    stage.play(sends(chunked(text_event("hel") + event(OPENROUTER))))
    answer = stage.chat(stream=True)
    assert answer.status_code == 200
    assert "Provider returned error" in answer.text


def test_comments_do_not_end_the_time_of_the_first_byte(tmp_path: Path) -> None:
    def serve(connection: socket.socket, _request: bytes) -> None:
        connection.sendall(STREAM_HEAD)
        for _ in range(40):
            connection.sendall(b"3\r\n:\n\n\r\n")
            time.sleep(0.05)

    slow = deployment(1, first_byte_timeout_s=0.5)
    with scripted(serve) as port:
        told = document({**slow, "api_base": f"http://127.0.0.1:{port}/v1"}, retries={"max": 0})
        with gateway(tmp_path, told) as here:
            began = time.monotonic()
            assert here.chat(stream=True).status_code == 504
            assert time.monotonic() - began < 1.5
            assert here.metric("llmproxy_upstream_requests_total", outcome="first_byte_timeout") == 1
