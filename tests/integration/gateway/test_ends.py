"""Streams that end in order, chunked or with their connection: whole, or told as broken off, whoever speaks to whom."""

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from integration.gateway.conftest import Script, Stage, deployment, document, gateway


def chunked(body: bytes) -> bytes:
    """Return an answer whose last chunk says that this was all."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def closing(body: bytes) -> bytes:
    """Return an answer that ends with its connection."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + body


FRAMINGS: dict[str, Callable[[bytes], bytes]] = {"chunked": chunked, "with its connection": closing}


def sse(*events: dict[str, Any], named: bool = False) -> bytes:
    names = [f"event: {event['type']}\n" if named else "" for event in events]
    return "".join(f"{name}data: {json.dumps(e)}\n\n" for name, e in zip(names, events, strict=True)).encode()


def choice(index: int = 0, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "finish_reason": None, **more}]}


def text_event(text: str) -> bytes:
    """Return a chunk of a chat completion."""
    return sse(choice(delta={"content": text}))


MESSAGE: dict[str, Any] = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": []}
BEGUN = sse(
    {"type": "message_start", "message": {**MESSAGE, "usage": {"input_tokens": 1, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hel"}},
    named=True,
)
HI = [{"role": "user", "content": "hi"}]


class Pair(NamedTuple):
    """A client and an upstream that speak one protocol, whose bytes are forwarded."""

    path: str
    model: str
    asks: dict[str, Any]
    begun: bytes
    """What an upstream sends before its end."""
    end: bytes
    error: tuple[str, str | None]
    """Type and code of what is told of a stream without an end."""


AWAY = ("upstream_error", "upstream_unavailable")
PAIRS = {
    "chat": Pair("chat/completions", "echo", {"messages": HI}, text_event("hel"), b"data: [DONE]\n\n", AWAY),
    "chat without [DONE]": Pair(
        *("chat/completions", "echo", {"messages": HI}, text_event("hel")),
        *(sse(choice(delta={}, finish_reason="stop")), AWAY),
    ),
    "two choices without [DONE]": Pair(
        *("chat/completions", "echo", {"messages": HI, "n": 2}),
        text_event("hel") + sse(choice(1, delta={}, finish_reason="stop")),
        *(sse(choice(0, delta={}, finish_reason="stop")), AWAY),
    ),
    "completions without [DONE]": Pair(
        *("completions", "echo", {"prompt": "hi"}, sse(choice(text="hel"))),
        *(sse(choice(text="lo", finish_reason="length")), AWAY),
    ),
    "messages": Pair(
        *("messages", "claude", {"messages": HI, "max_tokens": 9}, BEGUN),
        *(sse({"type": "message_stop"}, named=True), ("api_error", None)),
    ),
    "responses": Pair(
        *("responses", "vllm", {"input": "hi"}),
        sse({"type": "response.created", "response": {"id": "r"}}, named=True),
        *(sse({"type": "response.completed", "response": {"id": "r"}}, named=True), AWAY),
    ),
}


@pytest.fixture(scope="module")
def natives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A gateway whose models, one for each protocol, are served by a script."""
    script = Script()
    told = document(deployment(script.port))
    claude = deployment(script.port, "claude/0", model="anthropic/claude")
    vllm = deployment(script.port, "vllm/0", model="hosted_vllm/there")
    told["models"] += [{"name": "claude", "deployments": [claude]}, {"name": "vllm", "deployments": [vllm]}]
    with gateway(tmp_path_factory.mktemp("natives"), told) as here:
        yield Stage(here.process, script)
    script.close()


def stream(stage: Stage, pair: Pair, data: bytes) -> str:
    def serve(connection: socket.socket, request: bytes) -> None:
        connection.sendall(data)

    stage.play(serve)
    answer = stage.post({"model": pair.model, "stream": True, **pair.asks}, f"/v1/{pair.path}")
    assert answer.status_code == 200
    return answer.text


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("name", PAIRS)
def test_a_stream_that_ends_too_early_ends_with_an_error(natives: Stage, name: str, framing: str) -> None:
    pair = PAIRS[name]
    before = natives.metric("llmproxy_stream_errors_total")
    text = stream(natives, pair, FRAMINGS[framing](pair.begun + pair.end[:9]))

    assert text.startswith(pair.begun.decode())
    events = text.removeprefix(pair.begun.decode()).removesuffix("\n\n").split("\n\n")
    assert len(events) == 1, "nothing of half an event is passed on"
    error = json.loads(events[0].split("data: ")[-1])["error"]
    assert (error["type"], error.get("code")) == pair.error
    assert "ended before the answer's end, after 1 try" in error["message"]
    assert natives.metric("llmproxy_stream_errors_total") == before + 1


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("name", PAIRS)
def test_a_stream_with_its_end_is_passed_on_as_it_is(natives: Stage, name: str, framing: str) -> None:
    pair = PAIRS[name]
    for end in (pair.end, pair.end[:-2]):  # some servers do not end the last event
        assert stream(natives, pair, FRAMINGS[framing](pair.begun + end)).encode() == pair.begun + end
