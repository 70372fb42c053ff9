"""Upstreams that fail, callers that leave: what is tried again, what is told, what is given up."""

import json
import queue
import random
import re
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from integration.gateway.conftest import (
    PATH,
    Echo,
    Gateway,
    Stage,
    deployment,
    document,
    gateway,
    scripted,
    unused_port,
)

MESSAGES: Any = [{"role": "user", "content": "hi"}]
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ANSWER = b'{"choices": [], "usage": {"total_tokens": 2}}'
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)


def event(text: str) -> bytes:
    data = b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_what_may_heal_is_tried_again_and_then_passed_on(plain: Gateway, echo: Echo, status: int) -> None:
    answer = plain.echo(status=status)
    assert answer.status_code == status
    assert "error" in answer.json()
    assert echo.stats()["calls"] == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_what_will_not_heal_is_passed_on_at_once(plain: Gateway, echo: Echo, status: int) -> None:
    assert plain.echo(status=status).status_code == status
    assert echo.stats()["calls"] == 1


def test_a_retry_after_within_maxdelay_is_waited_for(plain: Gateway, echo: Echo) -> None:
    began = time.monotonic()
    assert plain.echo(status=503, retry_after="0.15").status_code == 503
    assert time.monotonic() - began >= 0.3
    assert echo.stats()["calls"] == 3


def test_a_retry_after_above_maxdelay_is_passed_on_at_once(plain: Gateway, echo: Echo) -> None:
    answer = plain.echo(status=429, retry_after="30")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "30")
    assert echo.stats()["calls"] == 1


def test_a_failure_that_heals_is_not_noticed(stage: Stage) -> None:
    seen: list[bytes] = []

    def serve(connection: socket.socket, request: bytes) -> None:
        seen.append(request)
        if len(seen) == 1:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        elif len(seen) == 2:
            connection.sendall(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
        else:
            connection.sendall(OK)

    def tries() -> list[float]:
        outcomes = ("closed", "http_503", "200")
        return [stage.metric("llmproxy_upstream_requests_total", outcome=outcome) for outcome in outcomes]

    stage.play(serve)
    before = tries()
    assert stage.chat().json()["usage"]["total_tokens"] == 2
    assert tries() == [count + 1 for count in before]


def test_a_dead_upstream_is_a_502_that_names_it(tmp_path: Path) -> None:
    port = unused_port()
    with gateway(tmp_path, document(deployment(port))) as here:
        answer = here.chat()
        with pytest.raises(openai.InternalServerError):
            here.sdk().chat.completions.create(model="echo", messages=MESSAGES)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (502, "upstream_error", "upstream_unavailable")
    assert f"127.0.0.1:{port} cannot be reached" in error["message"]
    assert "after 3 tries" in error["message"]
    assert int(answer.headers["retry-after"]) >= 1


def test_an_upstream_that_takes_too_long_is_a_504(echo: Echo, tmp_path: Path) -> None:
    told = document(deployment(echo.port, timeout_s=0.3), retries={"max": 1, "initial_delay_s": 0, "max_delay_s": 1})
    with gateway(tmp_path, told) as here:
        answer = here.echo(delay_ms=5000)
        error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (504, "upstream_error", "upstream_timeout")
    assert "within 0.3 s, after 2 tries" in error["message"]


def test_an_answer_that_is_no_http_is_a_502(stage: Stage) -> None:
    def serve(connection: socket.socket, request: bytes) -> None:
        connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        connection.recv(1)

    stage.play(serve)
    answer = stage.chat()
    assert answer.status_code == 502
    assert "answered nonsense" in answer.json()["error"]["message"]


def test_another_deployment_is_tried_first_and_without_a_wait(echo: Echo, tmp_path: Path) -> None:
    dead = deployment(unused_port(), "dead/0", weight=1_000_000)
    told = document(dead, deployment(echo.port), retries={"max": 2, "initial_delay_s": 20, "max_delay_s": 20})
    with gateway(tmp_path, told) as here:
        for _ in range(8):
            assert here.chat().status_code == 200
        aside = here.metric("llmproxy_upstream_healthy", deployment="dead/0")
        failed = here.metric("llmproxy_upstream_requests_total", deployment="dead/0", outcome="connect")
    assert aside == 0
    assert failed == 5  # then it is set aside


def test_without_retries_there_are_none(echo: Echo, tmp_path: Path) -> None:
    told = document(deployment(echo.port), retries={"max": 0, "initial_delay_s": 0, "max_delay_s": 1})
    with gateway(tmp_path, told) as here:
        assert here.echo(status=503).status_code == 503
    assert echo.stats()["calls"] == 1


def test_a_kept_connection_that_the_upstream_closed_is_no_failure(stage: Stage) -> None:
    def serve(connection: socket.socket, request: bytes) -> None:
        connection.sendall(OK)  # and closes, though it has not said so

    stage.play(serve)
    before = stage.metric("llmproxy_upstream_requests_total")
    assert [stage.chat().status_code for _ in range(20)] == [200] * 20
    assert stage.metric("llmproxy_upstream_requests_total") == before + 20


@pytest.mark.parametrize("pieces", [0, 3])
def test_a_plain_answer_that_breaks_off_is_never_passed_on(plain: Gateway, pieces: int) -> None:
    answer = plain.echo(die_after_chunks=pieces, chunks=6)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_unavailable"


def test_a_stream_whose_upstream_dies_ends_with_an_error_event(plain: Gateway) -> None:
    directive: Any = [{"role": "user", "content": json.dumps({"echo": {"die_after_chunks": 3, "chunks": 9}})}]
    stream = plain.sdk().chat.completions.create(model="echo", messages=directive, stream=True)
    seen: list[object] = []
    with pytest.raises(openai.APIError, match="closed the connection") as caught:
        seen.extend(stream)
    assert len(seen) >= 3
    assert caught.value.code == "upstream_unavailable"
    assert plain.metric("llmproxy_stream_errors_total") >= 1


def test_half_an_event_is_not_passed_on_before_the_error(stage: Stage) -> None:
    def serve(connection: socket.socket, request: bytes) -> None:
        connection.sendall(STREAM_HEAD + event("whole") + event("half")[:30])

    stage.play(serve)
    events = stage.chat(stream=True).text.strip().split("\n\n")
    assert "whole" in events[0]
    assert json.loads(events[1].removeprefix("data: "))["error"]["code"] == "upstream_unavailable"
    assert len(events) == 2


def test_a_stream_that_dies_before_its_first_event_is_an_error_with_a_status(stage: Stage) -> None:
    def serve(connection: socket.socket, request: bytes) -> None:
        connection.sendall(STREAM_HEAD)

    stage.play(serve)
    answer = stage.chat(stream=True)
    assert answer.status_code == 502
    assert answer.json()["error"]["type"] == "upstream_error"


def test_a_stream_that_never_ends_is_cut_at_its_timeout(stage: Stage) -> None:
    def serve(connection: socket.socket, request: bytes) -> None:
        connection.sendall(STREAM_HEAD)
        while True:
            connection.sendall(event("more"))
            time.sleep(0.05)

    stage.play(serve)
    text = stage.chat(model="short", stream=True).text
    assert json.loads(text.strip().split("\n\n")[-1].removeprefix("data: "))["error"]["code"] == "upstream_timeout"


def hang_up(here: Gateway, body: dict[str, Any], read: int) -> float:
    """Ask, read a little of the answer, and close the connection; return when that was, by the monotonic clock."""
    data = json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", here.port)) as client:
        head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (PATH.encode(), len(data))
        client.sendall(head + data)
        time.sleep(0.5)
        if read:
            client.recv(read)
        return time.monotonic()


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_who_leaves_ends_the_upstreams_work_within_a_second(stage: Stage, *, stream: bool) -> None:
    """Measured at the upstream, three times: the middle one within a second, none after five on a busy machine."""
    ends: queue.SimpleQueue[float] = queue.SimpleQueue()

    def serve(connection: socket.socket, request: bytes) -> None:
        if stream:
            connection.sendall(STREAM_HEAD + event("one"))
        connection.settimeout(30)
        try:
            connection.recv(1)  # nothing comes but the end
        finally:
            ends.put(time.monotonic())

    stage.play(serve)
    before = stage.metric("llmproxy_client_disconnects_total")
    took_s: list[float] = []
    for _ in range(3):
        left = hang_up(stage, {"model": "echo", "stream": stream, "messages": MESSAGES}, 10 if stream else 0)
        took_s.append(ends.get(timeout=30) - left)
    print(f"the upstream's work ended {[round(took * 1000) for took in took_s]} ms after its caller left")
    assert sorted(took_s)[1] < 1
    assert max(took_s) < 5
    for _ in range(50):
        if stage.metric("llmproxy_client_disconnects_total") >= before + 3:
            break
        time.sleep(0.1)
    assert stage.metric("llmproxy_client_disconnects_total") == before + 3
    assert stage.metric("llmproxy_requests_in_flight") == 0


def test_a_caller_who_leaves_between_tries_ends_them(tmp_path: Path) -> None:
    seen: list[bytes] = []

    def serve(connection: socket.socket, request: bytes) -> None:
        seen.append(request)
        connection.sendall(b"HTTP/1.1 503 No\r\nRetry-After: 1.5\r\nContent-Length: 0\r\n\r\n")

    told = document(retries={"max": 5, "initial_delay_s": 0.1, "max_delay_s": 5})
    with scripted(serve) as port:
        told["models"][0]["deployments"] = [deployment(port)]
        with gateway(tmp_path, told) as here:
            hang_up(here, {"model": "echo", "messages": MESSAGES}, 0)
            time.sleep(2)
    assert len(seen) == 1


def test_a_slow_caller_slows_the_upstream(stage: Stage) -> None:
    sent = 0
    big = event("x" * 60_000)

    def serve(connection: socket.socket, request: bytes) -> None:
        nonlocal sent
        connection.sendall(STREAM_HEAD)
        for _ in range(2000):
            connection.sendall(big)
            sent += len(big)

    stage.play(serve)
    body = {"model": "echo", "stream": True, "messages": MESSAGES}
    with httpx2.stream("POST", stage.url + PATH, json=body, timeout=60) as answer:
        first = next(answer.iter_raw())
        before = -1
        while before != sent:
            before = sent
            time.sleep(0.5)
    memory = stage.process.rss_bytes
    assert first
    assert sent < 30 << 20  # of 120 MB: what fits into sockets and buffers
    assert memory < 200 << 20


FATES: tuple[dict[str, Any], ...] = (
    *({}, {"stream": True}, {"stream": True, "chunk_ms": 2}),  # good
    *({"status": 400}, {"status": 500}, {"die_after_chunks": 2}, {"stream": True, "die_after_chunks": 2}),
)


@pytest.mark.parametrize("seed", range(3))
def test_answers_never_cross_between_callers(plain: Gateway, seed: int) -> None:
    """16 callers at one time, whose calls succeed, are refused or break off: each is told its own word and no other."""
    rand = random.Random(seed)
    fates = [[rand.choice(FATES) for _ in range(10)] for _ in range(16)]

    def ask(number: int) -> int:
        good = 0
        for turn, fate in enumerate(fates[number]):
            word = f"caller-{number}-turn-{turn}"
            how = {"say": " ".join([word] * 5), **{name: fate[name] for name in fate if name != "stream"}}
            answer = plain.chat(json.dumps({"echo": how}), stream="stream" in fate)
            if fate in FATES[:3]:
                assert answer.status_code == 200
                assert said_in(answer.text).endswith(f"You said: {how['say']}")
                good += 1
            else:
                assert answer.status_code != 200 or "upstream_unavailable" in answer.text
            assert set(re.findall(r"caller-\d+-turn-\d+", answer.text)) <= {word}
        return good

    with ThreadPoolExecutor(16) as pool:
        good = sum(pool.map(ask, range(16)))
    assert good == sum(fate in FATES[:3] for row in fates for fate in row)


def said_in(text: str) -> str:
    if not text.startswith("data:"):
        return str(json.loads(text)["choices"][0]["message"]["content"])
    parts = [json.loads(e.removeprefix("data: ")) for e in text.strip().split("\n\n")[:-1]]
    return "".join(p["choices"][0]["delta"].get("content") or "" for p in parts)
