"""Every fault as callers see it: status, type, code and words, in each protocol; docs/upstreams.md has it in prose."""

import contextlib
import json
import socket
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx2
import pytest

from integration.gateway.conftest import Stage
from integration.gateway.test_ends import FRAMINGS, text_event
from integration.gateway.test_faults import ANSWER, OK, STREAM_HEAD, event

Serve = Callable[[socket.socket, bytes], None]
PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
BODIES: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "hi"}]},
    "responses": {"input": "hi"},
    "messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9},
}


class Fault(NamedTuple):
    """What happens, and what is told of it."""

    serve: Serve
    status: int
    openai: tuple[str | None, str | int | None]
    """Type and code."""
    anthropic: str
    """Type."""
    says: str
    model: str = "echo"


def closes(connection: socket.socket, request: bytes) -> None:
    """Say nothing and hang up."""


def says(data: bytes, *, wait_s: float = 0) -> Serve:
    def serve(connection: socket.socket, request: bytes) -> None:
        connection.sendall(data)
        time.sleep(wait_s)

    return serve


def refuses(status: int, *headers: str, body: str = "") -> Serve:
    error = {"message": f"upstream says {status}", "type": "its_type", "param": None, "code": "its_code"}
    text = (body or json.dumps({"error": error})).encode()
    lines = "".join(f"{line}\r\n" for line in headers)
    head = f"HTTP/1.1 {status} X\r\n{lines}Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    return says(head.encode() + text)


ITS = ("its_type", "its_code")
AWAY = ("upstream_error", "upstream_unavailable")
LATE = ("upstream_error", "upstream_timeout")
FAULTS = {
    "hangs up": Fault(closes, 502, AWAY, "api_error", "closed the connection, after 3 tries"),
    "speaks no HTTP": Fault(says(b"SSH-2.0-x\r\n\r\n"), 502, AWAY, "api_error", "answered nonsense"),
    "switches protocols": Fault(
        says(b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), 502, AWAY, "api_error", "nonsense"
    ),
    "breaks off a plain answer": Fault(says(OK[:-5]), 502, AWAY, "api_error", "closed the connection"),
    "breaks off JSON without a length": Fault(
        says(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + ANSWER[:-5]),
        *(502, AWAY, "api_error", "ended before the answer's end, after 1 try"),
    ),
    "hangs up after its head": Fault(says(STREAM_HEAD), 502, AWAY, "api_error", "closed the connection, after 3 tries"),
    "sends nothing, in order": Fault(
        says(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        *(502, AWAY, "api_error", "ended before the answer's end, after 3 tries"),
    ),
    "is silent after its head": Fault(
        says(STREAM_HEAD, wait_s=30), 504, LATE, "timeout_error", "did not answer within 0.6 s, after 3 tries", "short"
    ),
    "is silent": Fault(says(b"", wait_s=30), 504, LATE, "timeout_error", "did not answer within 0.6 s", "short"),
    "400": Fault(refuses(400), 400, ITS, "invalid_request_error", "upstream says 400"),
    "401": Fault(refuses(401), 401, ITS, "authentication_error", "upstream says 401"),
    "403": Fault(refuses(403), 403, ITS, "permission_error", "upstream says 403"),
    "404": Fault(refuses(404), 404, ITS, "not_found_error", "upstream says 404"),
    "413": Fault(refuses(413), 413, ITS, "request_too_large", "upstream says 413"),
    "429": Fault(refuses(429, "Retry-After: 30"), 429, ITS, "rate_limit_error", "upstream says 429"),
    "500": Fault(refuses(500), 500, ITS, "api_error", "upstream says 500"),
    "503": Fault(refuses(503), 503, ITS, "overloaded_error", "upstream says 503"),
}


@pytest.mark.parametrize("client", PATHS)
@pytest.mark.parametrize("fault", FAULTS)
def test_an_upstream_fails(stage: Stage, fault: str, client: str) -> None:
    known = FAULTS[fault]
    stage.play(known.serve)

    answer = stage.post({"model": known.model, **BODIES[client]}, PATHS[client])

    assert answer.status_code == known.status
    assert told(answer, client) == (known.anthropic if client == "messages" else known.openai)
    assert known.says in answer.json()["error"]["message"]
    if known.status in {502, 504}:
        assert answer.headers["retry-after"] == "1", "the SDKs wait by themselves"


def told(answer: httpx2.Response, client: str) -> object:
    body = answer.json()
    if client == "messages":
        assert body["type"] == "error"
        return body["error"]["type"]
    return body["error"]["type"], body["error"]["code"]


CALLERS: dict[str, tuple[bytes, int, tuple[str, str], str, str]] = {
    "no JSON": (b"hi", 400, ("invalid_request_error", "invalid_request"), "invalid_request_error", "JSON object"),
    "a field twice": (
        b'{"model":"echo","model":"other","messages":[],"input":"hi","max_tokens":9}',
        *(400, ("invalid_request_error", "invalid_request"), "invalid_request_error", "model is there twice"),
    ),
    "no model": (b"{}", 400, ("invalid_request_error", "invalid_request"), "invalid_request_error", "model is missing"),
    "a model that nobody serves": (
        b'{"model":"nobody"}',
        *(404, ("invalid_request_error", "model_not_found"), "not_found_error", "there is echo, short"),
    ),
}


@pytest.mark.parametrize("client", PATHS)
@pytest.mark.parametrize("fault", CALLERS)
def test_a_caller_is_wrong(stage: Stage, fault: str, client: str) -> None:
    body, status, openai, anthropic, text = CALLERS[fault]
    answer = stage.post(body, PATHS[client])
    assert answer.status_code == status
    assert told(answer, client) == (anthropic if client == "messages" else openai)
    assert text in answer.json()["error"]["message"]


UNREADABLE: dict[str, tuple[bytes, int, str, str, str]] = {
    "a body without an end": (
        b"Content-Length: 40000000\r\n\r\n" + b" " * ((32 << 20) + 1),
        *(413, "request_too_large", "request_too_large", "more than 33554432 bytes"),
    ),
    "a head without an end": (
        b"X: " + b"a" * (64 << 10),
        *(431, "headers_too_large", "invalid_request_error", "more than 65536 bytes"),
    ),
    "trailers without an end": (
        b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: " + b"a" * (400 << 10),
        *(431, "headers_too_large", "invalid_request_error", "its trailers"),
    ),
    "two lengths": (
        b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        *(400, "invalid_request", "invalid_request_error", "not HTTP/1.1"),
    ),
}


@pytest.mark.parametrize("client", PATHS)
@pytest.mark.parametrize("fault", UNREADABLE)
def test_a_request_cannot_be_read(stage: Stage, fault: str, client: str) -> None:
    data, status, code, anthropic, text = UNREADABLE[fault]
    labels = {"endpoint": {"chat": "chat.completions"}.get(client, client), "status": str(status)}
    before = stage.metric("llmproxy_requests_total", **labels)
    with socket.create_connection(("127.0.0.1", stage.port), timeout=60) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(f"POST {PATHS[client]} HTTP/1.1\r\nHost: x\r\n".encode() + data)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(1 << 16):
                answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert text in error["error"]["message"]
    if client == "messages":
        assert (error["type"], error["error"]["type"]) == ("error", anthropic)
    else:
        assert (error["error"]["type"], error["error"]["code"]) == ("invalid_request_error", code)
    assert stage.metric("llmproxy_requests_total", **labels) == before + 1


STREAMS = {
    "breaks off": (
        says(STREAM_HEAD + event("hel")),
        "echo",
        "upstream_unavailable",
        "api_error",
        "closed the connection",
    ),
    "falls silent": (
        says(STREAM_HEAD + event("hel"), wait_s=30),
        *("short", "upstream_timeout", "timeout_error", "did not answer within 0.6 s"),
    ),
    "turns to nonsense": (
        says(STREAM_HEAD + event("hel") + b"no chunk\r\n"),
        *("echo", "upstream_unavailable", "api_error", "answered nonsense"),
    ),
}


@pytest.mark.parametrize("client", PATHS)
@pytest.mark.parametrize("fault", STREAMS)
def test_a_stream_ends_early(stage: Stage, fault: str, client: str) -> None:
    serve, model, code, kind, text = STREAMS[fault]
    stage.play(serve)

    answer = stage.post({"model": model, "stream": True, **BODIES[client]}, PATHS[client])

    assert answer.status_code == 200
    lines = answer.text.strip().split("\n\n")[-1].split("\n")
    error = json.loads(lines[-1].removeprefix("data: "))
    assert text in error["error"]["message"]
    if client == "messages":
        assert (lines[0], error["type"], error["error"]["type"]) == ("event: error", "error", kind)
    else:
        assert (error["error"]["type"], error["error"]["code"]) == ("upstream_error", code)
    if client == "responses":
        assert (lines[0], error["type"], error["code"]) == ("event: error", "error", code)


@pytest.mark.parametrize("client", PATHS)
@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_stream_ends_in_order_and_too_early(stage: Stage, framing: str, client: str) -> None:
    stage.play(says(FRAMINGS[framing](text_event("hel"))))

    answer = stage.post({"model": "echo", "stream": True, **BODIES[client]}, PATHS[client])

    assert answer.status_code == 200
    assert "hel" in answer.text
    error = json.loads(answer.text.strip().split("\n")[-1].removeprefix("data: "))["error"]
    assert "before the answer's end" in error["message"]
    assert (error["type"], error.get("code")) == (("api_error", None) if client == "messages" else AWAY)


def test_what_an_upstream_says_of_its_own_limits_passes_through(stage: Stage) -> None:
    theirs = (
        "X-RateLimit-Remaining-Requests: 7",
        "X-RateLimit-Reset-Tokens: 6ms",
        "Retry-After: 30",
        "X-Request-Id: r1",
    )
    stage.play(refuses(429, *theirs, "X-Internal: secret"))
    for client, path in PATHS.items():
        answer = stage.post({"model": "echo", **BODIES[client]}, path)
        seen = {line.partition(": ")[0].lower(): answer.headers.get(line.partition(": ")[0]) for line in theirs}
        assert list(seen.values()) == ["7", "6ms", "30", "r1"], client
        assert "x-internal" not in answer.headers
