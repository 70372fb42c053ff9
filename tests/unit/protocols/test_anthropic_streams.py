"""Streams both ways: events in order, text code point for code point at every border, and never a silent end."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import RawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from llmproxy.protocols.anthropic_to_openai.stream import MessagesStream
from llmproxy.protocols.openai_to_anthropic.request import JSON_TOOL
from llmproxy.protocols.openai_to_anthropic.stream import ChatStream

ODD = ["a\u0085b", "\u2028", "\u2029", "🦊", "e", "\u0301", "\x00", "\n\n", "\r\n", "data: [DONE]", " ", "ÿ\u200d🏽"]
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "prompt_tokens_details": {"cached_tokens": 2}}
Json = dict[str, Any]
parsed = TypeAdapter(RawMessageStreamEvent).validate_python


def chunk(delta: Json | None = None, finish: str | None = None, **more: Any) -> Json:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish, **more.pop("choice", {})}
    return {"id": "chatcmpl-abc", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **more}


def chat_sse(*chunks: Json, done: bool = True, end: bytes = b"\n\n") -> bytes:
    """Return a stream whose JSON has every character as it is, as model servers write it."""
    made = b"".join(b"data: " + json.dumps(c, ensure_ascii=False).encode() + end for c in chunks)
    return made + (b"data: [DONE]" + end if done else b"")


def texts(*pieces: str) -> Iterator[Json]:
    yield chunk({"role": "assistant", "content": ""})
    yield from (chunk({"content": piece}) for piece in pieces)
    yield chunk({}, "stop")
    yield {**chunk(), "choices": [], "usage": USAGE}


def run(stream: Any, data: bytes, size: int = 0) -> bytes:
    """Feed *data* in pieces of *size* bytes, all at once for 0, and end in order."""
    made = []
    for start in range(0, len(data), size or len(data) or 1):
        made += stream.feed(data[start : start + (size or len(data))])
    return b"".join([*made, stream.rest()])


def messages_of(data: bytes) -> list[Json]:
    """Return the events of a messages stream; each names itself as Anthropic's do."""
    found = []
    for event in data.removesuffix(b"\n\n").split(b"\n\n"):
        name, line = event.split(b"\n")
        content = json.loads(line.removeprefix(b"data: "))
        assert name == b"event: " + content["type"].encode()
        found.append(content)
    return found


def message_of(data: bytes) -> Any:
    """Return what Anthropic's own SDK makes of a stream."""
    snapshot: Any = None
    bufs: dict[int, bytes] = {}
    for event in messages_of(data):
        if event["type"] != "ping":
            snapshot = accumulate_event(event=parsed(event), current_snapshot=snapshot, json_bufs=bufs)
    return snapshot


def chunks_of(data: bytes) -> list[Json]:
    """Return the chunks of a chat completion's stream, which must end with [DONE]."""
    assert data.endswith(b"data: [DONE]\n\n")
    events = data.removesuffix(b"data: [DONE]\n\n").removesuffix(b"\n\n").split(b"\n\n")
    return [json.loads(e.removeprefix(b"data: ")) for e in events]


def test_the_order_of_a_messages_stream() -> None:
    said = [chunk({"reasoning_content": "hm"}), chunk({"content": "a"}), chunk({"content": "b"})]
    calls = [
        chunk({"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": ""}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"x":'}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}),
        chunk({"tool_calls": [{"index": 1, "id": "c2", "function": {"name": "g", "arguments": "{}"}}]}),
    ]
    end = [chunk({}, "tool_calls"), {**chunk(), "choices": [], "usage": USAGE}]
    made = messages_of(run(MessagesStream(), chat_sse(*said, *calls, *end)))
    assert [(e["type"], e.get("index")) for e in made] == [
        ("message_start", None),
        ("ping", None),
        *(("content_block_start", 0), ("content_block_delta", 0), ("content_block_stop", 0)),
        ("content_block_start", 1),
        *(("content_block_delta", 1), ("content_block_delta", 1), ("content_block_stop", 1)),
        ("content_block_start", 2),
        *(("content_block_delta", 2), ("content_block_delta", 2), ("content_block_stop", 2)),
        *(("content_block_start", 3), ("content_block_delta", 3), ("content_block_stop", 3)),
        ("message_delta", None),
        ("message_stop", None),
    ]
    assert made[0]["message"]["id"] == "msg_abc"
    assert made[0]["message"]["usage"]["input_tokens"] == 0
    assert made[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    expected = {"input_tokens": 5, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 2, "output_tokens": 3}
    assert made[-2]["usage"] == expected


def test_anthropics_sdk_reads_it() -> None:
    call = {"index": 0, "id": "c1", "function": {"name": "f", "arguments": '{"x": "ü\u2028"}'}}
    data = chat_sse(chunk({"content": "a"}), chunk({"tool_calls": [call]}), chunk({}, "stop"), done=True)
    message = message_of(run(MessagesStream(), data))
    assert [b.type for b in message.content] == ["text", "tool_use"]
    assert message.content[1].input == {"x": "ü\u2028"}
    assert message.stop_reason == "tool_use"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64])
def test_text_is_equal_at_every_border_for_anthropic_clients(size: int) -> None:
    data = chat_sse(*texts(*ODD))
    assert run(MessagesStream(), data, size) == run(MessagesStream(), data)
    assert message_of(run(MessagesStream(), data, size)).content[0].text == "".join(ODD)


def test_every_single_border() -> None:
    data = chat_sse(*texts(*ODD))
    whole = run(MessagesStream(), data)
    for cut in range(len(data)):
        stream = MessagesStream()
        assert b"".join([*stream.feed(data[:cut]), *stream.feed(data[cut:]), stream.rest()]) == whole


@settings(deadline=None)
@given(st.lists(st.text(min_size=1)), st.integers(1, 40), st.sampled_from([b"\n\n", b"\r\n\r\n"]))
def test_any_text_in_any_pieces(pieces: list[str], size: int, end: bytes) -> None:
    message = message_of(run(MessagesStream(), chat_sse(*texts(*pieces), end=end), size))
    assert "".join(b.text for b in message.content) == "".join(pieces)
    assert message.usage.output_tokens == 3


def test_no_line_of_ours_ends_where_some_readers_think_it_does() -> None:
    made = run(MessagesStream(), chat_sse(*texts(*ODD))).decode()
    assert made.splitlines() == made.removesuffix("\n").split("\n")
    made = run(ChatStream(0, with_usage=True), messages_sse(*answer(*ODD))).decode()
    assert made.splitlines() == made.removesuffix("\n").split("\n")


def test_calls_that_are_mixed_up_reach_their_blocks() -> None:
    deltas = [(0, "f", '{"a":'), (1, "g", '{"b":'), (0, None, "1}"), (1, None, "2}")]
    calls = [
        chunk({"tool_calls": [{"index": i, "id": f"c{i}" if n else None, "function": {"name": n, "arguments": a}}]})
        for i, n, a in deltas
    ]
    content = message_of(run(MessagesStream(), chat_sse(*calls, chunk({}, "tool_calls")))).content
    assert [(b.name, b.input) for b in content] == [("f", {"a": 1}), ("g", {"b": 2})]


def test_calls_without_numbers_ids_or_early_names() -> None:
    calls = [
        chunk({"tool_calls": [{"function": {"arguments": '{"a"'}}]}),
        chunk({"tool_calls": [{"function": {"name": "f", "arguments": ":1}"}}]}),
        chunk({"tool_calls": [{"id": "x", "function": {"name": "g"}}]}),
    ]
    content = message_of(run(MessagesStream(), chat_sse(*calls, chunk({}, "tool_calls")))).content
    assert [(b.id, b.name, b.input) for b in content] == [("toolu_abc_0", "f", {"a": 1}), ("x", "g", {})]


def test_usage_that_comes_first_is_told_first() -> None:
    made = messages_of(run(MessagesStream(), chat_sse(chunk({"content": "a"}, usage=USAGE), chunk({}, "stop"))))
    assert made[0]["message"]["usage"]["input_tokens"] == 5


def test_a_stop_sequence_is_named_when_the_server_names_it() -> None:
    made = messages_of(
        run(MessagesStream(), chat_sse(chunk({"content": "a"}), chunk({}, "stop", choice={"stop_reason": "#"})))
    )
    assert made[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "#"}


def test_the_end_is_held_apart_from_the_rest() -> None:
    stream = MessagesStream()
    now, last = stream.feed(chat_sse(*texts("a")))
    assert b"content_block_delta" in now
    assert b"message_stop" not in now
    # A server may put a reason into every chunk: a block ends with the next one or the answer.
    assert last.startswith(b"event: content_block_stop\n")
    assert stream.done
    assert stream.tokens == 10
    assert stream.feed(b"data: more\n\n") == (b"", b"")
    assert stream.rest() == b""


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"", "api_error", "ended the stream before"),
        (b"data: [DONE]\n\n", "api_error", "sent no answer"),
        (chat_sse(chunk({"content": "a"}), done=False), "api_error", "ended the stream before"),
        (
            chat_sse(chunk({"content": "a"}), done=False) + b"data: {broken\n\n",
            "api_error",
            "none of a chat completion",
        ),
        (b'data: {"error":{"message":"gone","code":503}}\n\n', "overloaded_error", "gone"),
        (b'data: {"error":"gone"}\n\n', "api_error", "gone"),
    ],
)
def test_a_stream_that_breaks_ends_with_an_error_for_anthropic_clients(data: bytes, kind: str, words: str) -> None:
    *_, last = messages_of(run(MessagesStream(), data))
    assert last["type"] == "error"
    assert last["error"]["type"] == kind
    assert words in last["error"]["message"]


def test_a_server_that_forgets_done_has_still_answered() -> None:
    data = chat_sse(*texts("a"), done=False).removesuffix(b"\n\n")
    made = messages_of(run(MessagesStream(), data))
    assert made[-1]["type"] == "message_stop"
    assert made[-2]["usage"]["output_tokens"] == 3


def event(kind: str, **more: Any) -> Json:
    return {"type": kind, **more}


def messages_sse(*events: Json) -> bytes:
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (e["type"].encode(), json.dumps(e, ensure_ascii=False).encode()) for e in events
    )


def start(**usage: int) -> Json:
    given = usage or {"input_tokens": 5, "cache_read_input_tokens": 2, "output_tokens": 1}
    return event("message_start", message={"id": "msg_01", "model": "claude", "content": [], "usage": given})


def block(index: int, content: Json, *deltas: Json) -> Iterator[Json]:
    yield event("content_block_start", index=index, content_block=content)
    yield from (event("content_block_delta", index=index, delta=d) for d in deltas)
    yield event("content_block_stop", index=index)


def stop(reason: str = "end_turn", sequence: str | None = None) -> Iterator[Json]:
    delta = {"stop_reason": reason, "stop_sequence": sequence}
    yield event("message_delta", delta=delta, usage={"output_tokens": 9})
    yield event("message_stop")


def answer(*pieces: str) -> Iterator[Json]:
    yield start()
    yield event("ping")
    yield from block(0, {"type": "text", "text": ""}, *({"type": "text_delta", "text": p} for p in pieces))
    yield from stop()


def said(chunks: list[Json], field: str) -> str:
    return "".join(c["choices"][0]["delta"].get(field) or "" for c in chunks if c["choices"])


@pytest.mark.parametrize("size", [0, 1, 2, 3, 5, 7, 64])
def test_text_is_equal_at_every_border_for_openai_clients(size: int) -> None:
    made = chunks_of(run(ChatStream(3, with_usage=True), messages_sse(*answer(*ODD)), size))
    assert said(made, "content") == "".join(ODD)
    assert made[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert {c["id"] for c in made} == {"chatcmpl-01"}
    assert {c["created"] for c in made} == {3}
    assert made[-2]["choices"][0]["finish_reason"] == "stop"
    assert made[-1]["choices"] == []
    assert made[-1]["usage"]["prompt_tokens"] == 7
    assert made[-1]["usage"]["completion_tokens"] == 9


def test_usage_is_told_only_to_who_asked() -> None:
    made = chunks_of(run(ChatStream(0, with_usage=False), messages_sse(*answer("a"))))
    assert all("usage" not in c for c in made)


def test_calls_thinking_and_stop_sequences() -> None:
    thinking = [{"type": "thinking_delta", "thinking": "h"}, {"type": "thinking_delta", "thinking": "m"}]
    signed = {"type": "signature_delta", "signature": "s"}
    inputs = [{"type": "input_json_delta", "partial_json": p} for p in ("", '{"x":', " 1}")]
    made = chunks_of(
        run(
            ChatStream(0, with_usage=False),
            messages_sse(
                start(),
                *block(0, {"type": "thinking", "thinking": "", "signature": ""}, *thinking, signed),
                *block(1, {"type": "redacted_thinking", "data": "d"}),
                *block(2, {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}, inputs[1]),
                *block(3, {"type": "tool_use", "id": "t1", "name": "f", "input": {}}, *inputs),
                *block(4, {"type": "tool_use", "id": "t2", "name": "g", "input": {}}),
                event("something_new"),
                *stop("tool_use", "#"),
            ),
        )
    )
    deltas = [c["choices"][0]["delta"] for c in made]
    assert said(made, "reasoning_content") == "hm"
    blocks = [b for d in deltas for b in d.get("thinking_blocks", ())]
    assert blocks == [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "d"},
    ]
    calls = [c for d in deltas for c in d.get("tool_calls", ())]
    assert [(c["index"], c.get("id"), c["function"]["arguments"]) for c in calls] == [
        *((0, "t1", ""), (0, None, '{"x":'), (0, None, " 1}")),
        *((1, "t2", ""), (1, None, "{}")),
    ]
    assert made[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert made[-1]["choices"][0]["stop_reason"] == "#"


def test_json_mode_is_text_again() -> None:
    pieces = [{"type": "input_json_delta", "partial_json": p} for p in ('{"a":', " 1}")]
    tool = block(0, {"type": "tool_use", "id": "t", "name": JSON_TOOL, "input": {}}, *pieces)
    made = chunks_of(run(ChatStream(0, with_usage=False), messages_sse(start(), *tool, *stop("tool_use"))))
    assert said(made, "content") == '{"a": 1}'
    assert made[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([], "ended the stream before"),
        ([start(), *block(0, {"type": "text", "text": "a"})], "ended the stream before"),
        ([start(), {"type": 5}], "none of a message"),
        ([start(), event("error", error={"type": "overloaded_error", "message": "Overloaded"})], "Overloaded"),
    ],
)
def test_a_stream_that_breaks_ends_with_an_error_for_openai_clients(events: list[Json], words: str) -> None:
    data = b"".join(b"data: %b\n\n" % json.dumps(e).encode() for e in events)
    *_, last = run(ChatStream(0, with_usage=True), data).removesuffix(b"\n\n").split(b"\n\n")
    assert words in json.loads(last.removeprefix(b"data: "))["error"]["message"]


def test_a_stream_without_its_last_event_has_still_answered() -> None:
    *events, _ = answer("a")
    assert said(chunks_of(run(ChatStream(0, with_usage=False), messages_sse(*events))), "content") == "a"
