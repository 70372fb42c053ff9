"""An answer has begun with the first byte of its body: what fails before is tried again, all counts."""

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from integration.gateway.conftest import (
    Echo,
    Gateway,
    Serve,
    Stage,
    deployment,
    document,
    gateway,
    read_request,
    scripted,
)
from integration.gateway.test_ends import chunked, closing, text_event
from integration.gateway.test_faults import OK, STREAM_HEAD, event

JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
WHOLE = chunked(text_event("hel") + b"data: [DONE]\n\n")
HEADS = {
    "chunked": STREAM_HEAD,
    "chunked and over": STREAM_HEAD + b"0\r\n\r\n",
    "with its connection": closing(b""),
    "of a known length": JSON_HEAD + b"Content-Length: 9\r\n\r\n",
    "of no length": JSON_HEAD + b"Content-Length: 0\r\n\r\n",
}


def sends(data: bytes) -> Serve:
    def serve(connection: socket.socket, request: bytes) -> None:
        connection.sendall(data)

    return serve


def in_turn(*serves: Serve) -> Serve:
    """Serve each connection by the next of *serves*, those after the last by it."""
    left = list(serves)

    def serve(connection: socket.socket, request: bytes) -> None:
        now = left.pop(0) if len(left) > 1 else left[0]
        now(connection, request)

    return serve


def tries(here: Gateway, outcome: str) -> float:
    return here.metric("llmproxy_upstream_requests_total", outcome=outcome)


def patient(port: int, retries: int, **more: Any) -> dict[str, Any]:
    return document(deployment(port, **more), retries={"max": retries, "initial_delay_s": 0.01, "max_delay_s": 0.1})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_a_head_alone_is_no_answer(stage: Stage, head: str, *, stream: bool) -> None:
    stage.play(in_turn(sends(HEADS[head]), sends(WHOLE if stream else OK)))
    before = stage.metric("llmproxy_upstream_requests_total"), tries(stage, "200")

    answer = stage.chat(stream=stream)

    assert answer.status_code == 200
    assert answer.content in WHOLE + OK
    assert (stage.metric("llmproxy_upstream_requests_total"), tries(stage, "200")) == (before[0] + 2, before[1] + 1)


def test_a_time_that_is_over_after_a_head_is_tried_again(tmp_path: Path) -> None:
    def silent(connection: socket.socket, request: bytes) -> None:
        connection.sendall(STREAM_HEAD)
        connection.recv(1)

    with (
        scripted(in_turn(silent, sends(WHOLE))) as port,
        gateway(tmp_path, patient(port, 1, first_byte_timeout_s=0.3)) as here,
    ):
        assert here.chat(stream=True).text.endswith("[DONE]\n\n")
        assert (tries(here, "first_byte_timeout"), tries(here, "200")) == (1, 1)


def test_without_retries_a_head_alone_is_an_error_at_once(tmp_path: Path) -> None:
    with scripted(sends(STREAM_HEAD)) as port, gateway(tmp_path, patient(port, 0)) as here:
        answer = here.chat(stream=True)
        assert answer.status_code == 502
        assert "after 1 try" in answer.json()["error"]["message"]
        assert here.metric("llmproxy_upstream_requests_total") == 1


def test_an_errors_head_is_enough(tmp_path: Path) -> None:
    """Its body is not waited for: the next try comes at once."""

    def overloaded(connection: socket.socket, request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 503 X\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.recv(1)

    with scripted(in_turn(overloaded, sends(OK))) as port, gateway(tmp_path, patient(port, 1)) as here:
        assert here.chat(timeout_s=60).status_code == 200
        assert (tries(here, "http_503"), tries(here, "200")) == (1, 1)


def test_another_model_answers_for_one_that_sends_heads_only(tmp_path: Path, echo: Echo) -> None:
    with scripted(sends(STREAM_HEAD)) as port:
        told = patient(port, 1)
        told["models"][0]["fallbacks"] = ["other"]
        there = deployment(echo.port, "other/0", model="openai_like/other")
        told["models"].append({"name": "other", "deployments": [there]})
        with gateway(tmp_path, told) as here:
            answer = here.chat(stream=True)
            assert (answer.status_code, '"model":"other"' in answer.text) == (200, True)
            assert here.metric("llmproxy_upstream_requests_total", deployment="echo/0", outcome="closed") == 2
            assert here.metric("llmproxy_fallbacks_total", model="echo", fallback="other") == 1


BREAKS: dict[str, tuple[bytes, bool, str]] = {
    "a head": (STREAM_HEAD, True, "closed"),
    "a stream": (STREAM_HEAD + event("hel"), True, "closed"),
    "a stream in order": (chunked(text_event("hel")), True, "incomplete"),
    "a plain answer": (OK[:-5], False, "closed"),
    "JSON without a length": (JSON_HEAD + b'Connection: close\r\n\r\n{"choices": [{"mess', False, "incomplete"),
    "an error in a stream": (chunked(b'data: {"error": {"message": "x"}}\n\n'), True, "error"),
}  # fmt: skip


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize("what", BREAKS)
def test_a_deployment_that_breaks_off_again_and_again_is_set_aside(
    tmp_path: Path, echo: Echo, what: str, path: str
) -> None:
    data, stream, outcome = BREAKS[what]
    if path == "/v1/messages" and outcome == "incomplete" and stream:
        outcome = "error"  # a mapped stream tells of its end itself
    with scripted(sends(data)) as port:
        told = document(deployment(port, "breaks/0", weight=1_000_000), deployment(echo.port))
        with gateway(tmp_path, told) as here:
            for _ in range(7):
                here.chat(stream=stream, path=path, max_tokens=9)
            assert here.metric("llmproxy_upstream_healthy", deployment="breaks/0") == 0
            assert here.metric("llmproxy_upstream_requests_total", deployment="breaks/0") == 5
            assert here.metric("llmproxy_upstream_requests_total", deployment="breaks/0", outcome=outcome) == 5
            assert here.metric("llmproxy_upstream_healthy", deployment="echo/0") == 1


def test_a_caller_who_leaves_says_nothing_of_a_deployment(tmp_path: Path) -> None:
    def serve(connection: socket.socket, request: bytes) -> None:
        connection.sendall(STREAM_HEAD + event("hel"))
        connection.recv(1)

    with scripted(serve) as port, gateway(tmp_path, patient(port, 0)) as here:
        for _ in range(6):
            stream = here.sdk().chat.completions.create(model="echo", messages=[], stream=True)
            next(iter(stream))
            stream.close()
        until = time.monotonic() + 30
        while here.metric("llmproxy_client_disconnects_total") < 6 and time.monotonic() < until:
            time.sleep(0.05)
        assert tries(here, "200") == here.metric("llmproxy_upstream_requests_total") == 6
        assert here.metric("llmproxy_upstream_healthy", deployment="echo/0") == 1


def works_then_closes(seen: list[float], close: Callable[[socket.socket], None]) -> Serve:
    """Answer the first request of a connection, and close it some time after the second has come."""

    def serve(connection: socket.socket, request: bytes) -> None:
        seen.append(time.monotonic())
        connection.sendall(OK)
        if read_request(connection):
            seen.append(time.monotonic())
            close(connection)

    return serve


@pytest.mark.parametrize("retries", [0, 1])
def test_a_request_that_was_worked_on_is_not_sent_again_unseen(tmp_path: Path, retries: int) -> None:
    """On a kept connection too: what the server took and then dropped is a try like any other."""
    seen: list[float] = []
    serve = works_then_closes(seen, lambda connection: time.sleep(0.5))
    with scripted(serve) as port, gateway(tmp_path, patient(port, retries)) as here:
        assert here.chat().status_code == 200
        assert here.chat().status_code == (200 if retries else 502)
        assert len(seen) == 2 + retries
        assert tries(here, "closed") == 1
        assert here.metric("llmproxy_upstream_requests_total") == 2 + retries
