"""Content codings of requests and of servers' responses."""

import gzip
import json
import socket
import zlib

import pytest

from integration.gateway.conftest import Gateway, Stage
from integration.gateway.test_begun import sends
from integration.gateway.test_ends import text_event

ANSWER = {"choices": [{"message": {"role": "assistant", "content": "hi"}}], "usage": {"total_tokens": 7}}
BODY = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize(("coding", "encode"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_coded_request_is_read(plain: Gateway, coding: str, encode: object) -> None:
    assert callable(encode)
    answer = plain.post(encode(json.dumps(BODY).encode()), headers={"content-encoding": coding})
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_another_coding_is_a_415_that_names_it(plain: Gateway, path: str) -> None:
    answer = plain.post(b"x" * 300_000, path, headers={"content-encoding": "br"})
    assert answer.status_code == 415
    assert "content-encoding 'br'" in answer.json()["error"]["message"]
    assert "gzip" in answer.headers["accept-encoding"]


def test_a_bomb_is_a_413_and_calls_go_on(plain: Gateway) -> None:
    bomb = gzip.compress(bytes(1 << 30), 1)
    answer = plain.post(bomb, headers={"content-encoding": "gzip"}, timeout_s=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert plain.chat().status_code == 200


def test_a_body_that_is_not_in_its_coding_is_a_400(plain: Gateway) -> None:
    answer = plain.post(json.dumps(BODY).encode(), headers={"content-encoding": "gzip"})
    assert answer.status_code == 400
    assert "is not gzip" in answer.json()["error"]["message"]


def coded(status: str, coding: str, body: bytes, content_type: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Encoding: {coding}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def test_servers_are_asked_for_no_coding(stage: Stage) -> None:
    heads: list[bytes] = []

    def serve(connection: socket.socket, request: bytes) -> None:
        heads.append(request)
        connection.sendall(coded("200 OK", "identity", json.dumps(ANSWER).encode()))

    stage.play(serve)
    assert stage.chat().status_code == 200
    assert b"\r\naccept-encoding: identity\r\n" in heads[0]


@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request"])
def test_a_response_that_is_coded_all_the_same_is_decoded(stage: Stage, status: str) -> None:
    stage.play(sends(coded(status, "gzip", gzip.compress(json.dumps(ANSWER).encode()))))
    answer = stage.chat()
    assert answer.status_code == int(status[:3])
    assert answer.json() == ANSWER
    assert "content-encoding" not in answer.headers


def test_a_coded_stream_is_decoded_piece_by_piece(stage: Stage) -> None:
    events = text_event("hel") + text_event("lo") + b"data: [DONE]\n\n"
    data = gzip.compress(events)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in data) + b"0\r\n\r\n"
    stage.play(sends(head + pieces))
    answer = stage.chat(stream=True)
    assert answer.status_code == 200
    assert answer.content == events


@pytest.mark.parametrize("body", [b"nonsense", gzip.compress(b"{}", mtime=0)[:-4]], ids=["nonsense", "cut"])
def test_a_response_that_cannot_be_decoded_is_a_502(stage: Stage, body: bytes) -> None:
    stage.play(sends(coded("200 OK", "gzip", body)))
    answer = stage.chat()
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_unavailable"


def test_a_coding_that_nobody_decodes_is_a_502_that_names_it(stage: Stage) -> None:
    stage.play(sends(coded("200 OK", "br", b"xxxx")))
    answer = stage.chat()
    assert answer.status_code == 502
    assert "content-encoding 'br'" in answer.json()["error"]["message"]
