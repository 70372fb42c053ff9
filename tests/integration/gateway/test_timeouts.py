"""Every time limit of a try, what is tried again after it, and what the caller is told."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from integration.gateway.conftest import Gateway, deployment, document, gateway, scripted
from integration.gateway.test_faults import ANSWER, OK, STREAM_HEAD, event

WAIT_S = 60.0
"""What an upstream sleeps that is to be given up; no test waits for it."""


@pytest.fixture
def silent_backlog() -> Iterator[int]:
    """A port that takes no connection: its backlog is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        full = []
        for _ in range(3):
            one = socket.socket()
            one.settimeout(0)
            one.connect_ex(("127.0.0.1", port))
            full.append(one)
        yield port
        for one in full:
            one.close()


def one_model(port: int, **times: Any) -> dict[str, Any]:
    return document(deployment(port, **times), retries={"max": 1, "initial_delay_s": 0.01, "max_delay_s": 0.1})


def tries(here: Gateway, outcome: str) -> float:
    return here.metric("llmproxy_upstream_requests_total", outcome=outcome)


def test_connect(tmp_path: Path, silent_backlog: int) -> None:
    with gateway(tmp_path, one_model(silent_backlog, connect_timeout_s=0.3)) as here:
        answer = here.chat()

        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (504, "upstream_timeout")
        assert "took no connection within 0.3 s, after 2 tries" in error["message"]
        assert "timeouts.connect" in error["message"]
        assert tries(here, "connect_timeout") == 2


def test_first_byte(tmp_path: Path) -> None:
    def serve(connection: socket.socket, request: bytes) -> None:
        time.sleep(WAIT_S)

    with scripted(serve) as port, gateway(tmp_path, one_model(port, first_byte_timeout_s=0.3)) as here:
        answer = here.chat()

        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (504, "upstream_timeout")
        assert "no byte of an answer within 0.3 s, after 2 tries" in error["message"]
        assert tries(here, "first_byte_timeout") == 2
        with pytest.raises(anthropic.APIStatusError) as caught:
            anthropic.Anthropic(base_url=here.url, api_key="none", max_retries=0).messages.create(
                model="echo", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
            )
        assert caught.value.status_code == 504
        assert caught.value.body == {"type": "error", "error": {"type": "timeout_error", "message": error["message"]}}


def test_first_byte_after_a_head(tmp_path: Path) -> None:
    """A server that sends its head before it thinks: nothing has been sent yet, so the caller still gets a 504."""

    def serve(connection: socket.socket, request: bytes) -> None:
        connection.sendall(STREAM_HEAD)
        time.sleep(WAIT_S)

    with scripted(serve) as port, gateway(tmp_path, one_model(port, first_byte_timeout_s=0.3)) as here:
        answer = here.chat(stream=True)

        assert answer.status_code == 504
        assert "timeouts.firstByte" in answer.json()["error"]["message"]
        assert tries(here, "first_byte_timeout") == 2


def test_idle_in_a_stream_is_an_error_event_in_either_protocol(tmp_path: Path) -> None:
    def serve(connection: socket.socket, request: bytes) -> None:
        connection.sendall(STREAM_HEAD + event("hel"))
        time.sleep(WAIT_S)

    with scripted(serve) as port, gateway(tmp_path, one_model(port, idle_timeout_s=0.3)) as here:
        answer = here.chat(stream=True)
        events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
        error = json.loads(events[-1])["error"]
        assert (answer.status_code, len(events), error["code"]) == (200, 2, "upstream_timeout")
        assert "sent no more of its answer within 0.3 s" in error["message"]

        with pytest.raises(openai.APIError, match=r"within 0\.3 s"):
            list(here.sdk().chat.completions.create(model="echo", messages=[], stream=True))
        client = anthropic.Anthropic(base_url=here.url, api_key="none", max_retries=0)
        with pytest.raises(anthropic.APIStatusError, match=r"within 0\.3 s"):
            list(
                client.messages.create(
                    model="echo", max_tokens=9, messages=[{"role": "user", "content": "hi"}], stream=True
                )
            )


def test_idle_in_a_plain_answer(tmp_path: Path) -> None:
    def serve(connection: socket.socket, request: bytes) -> None:
        connection.sendall(OK[:-5])
        time.sleep(WAIT_S)

    with scripted(serve) as port, gateway(tmp_path, one_model(port, idle_timeout_s=0.3)) as here:
        answer = here.chat()
        assert answer.status_code == 504
        assert "timeouts.idle" in answer.json()["error"]["message"]


def test_what_comes_in_time_is_not_cut(tmp_path: Path) -> None:
    """Ten parts, a part each 0.1 s: longer than every limit of a part together."""

    def serve(connection: socket.socket, request: bytes) -> None:
        connection.sendall(STREAM_HEAD)
        for i in range(10):
            connection.sendall(event(f" {i}"))
            time.sleep(0.1)
        connection.sendall(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    times = {"first_byte_timeout_s": 30.0, "idle_timeout_s": 30.0, "timeout_s": 60.0}
    with scripted(serve) as port, gateway(tmp_path, one_model(port, **times)) as here:
        answer = here.chat(stream=True)
        assert answer.text.endswith("data: [DONE]\n\n")
        assert "error" not in answer.text


def test_total(tmp_path: Path) -> None:
    """Parts that come in time do not stretch the whole."""

    def serve(connection: socket.socket, request: bytes) -> None:
        connection.sendall(STREAM_HEAD)
        while True:
            connection.sendall(event("on and on"))
            time.sleep(0.05)

    times = {"idle_timeout_s": 30.0, "timeout_s": 0.5}
    with scripted(serve) as port, gateway(tmp_path, one_model(port, **times)) as here:
        answer = here.chat(stream=True)
        error = json.loads(answer.text.strip().split("\n\n")[-1].removeprefix("data: "))["error"]
        assert error["code"] == "upstream_timeout"
        assert "did not answer within 0.5 s" in error["message"]
    assert ANSWER
