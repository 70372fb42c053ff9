"""A call that Anthropic answered makes the spans of a chat completion: trainers' adapters know no other."""

import json
from typing import Any

import msgspec
import pytest

import spanrig
from llmproxy.shipper.spans.agent_lightning import spans_of
from llmproxy.shipper.spans.otlp import Span
from llmproxy.shipper.spool.records import SpoolRecord

ASKED = {
    "model": "claude-opus-5",
    "max_tokens": 50,
    "system": "Be brief.",
    "messages": [{"role": "user", "content": [{"type": "text", "text": "hi \u2028"}]}],
    "tools": [{"name": "look", "input_schema": {"type": "object", "properties": {}}}],
}
MESSAGE: dict[str, Any] = {
    "id": "msg_01",
    "type": "message",
    "role": "assistant",
    "model": "claude-opus-5",
    "content": [
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": "Bern"}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 4},
}


def spans(response: bytes, *, streamed: bool) -> list[Span]:
    call = spanrig.a_call(1, "ro-1")
    body = json.dumps({**ASKED, "stream": streamed}).encode()
    made = msgspec.structs.replace(call, route="messages", request=body, response=response, streamed=streamed)
    return spans_of(SpoolRecord("gw", 7, made), "Full")


def stream() -> bytes:
    events: list[dict[str, Any]] = [{"type": "message_start", "message": {**MESSAGE, "content": []}}]
    text = {"type": "text_delta", "text": "I look."}
    given = {"type": "input_json_delta", "partial_json": '{"at": "Bern"}'}
    for i, (block, delta) in enumerate(zip(MESSAGE["content"], (text, given), strict=True)):
        empty = {**block, "text": ""} if block["type"] == "text" else {**block, "input": {}}
        events.append({"type": "content_block_start", "index": i, "content_block": empty})
        events.append({"type": "content_block_delta", "index": i, "delta": delta})
        events.append({"type": "content_block_stop", "index": i})
    end = {"stop_reason": "tool_use", "stop_sequence": None}
    events.append({"type": "message_delta", "delta": end, "usage": {"output_tokens": 4}})
    events.append({"type": "message_stop"})
    return b"".join(b"event: %b\ndata: %b\n\n" % (e["type"].encode(), json.dumps(e).encode()) for e in events)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_message_makes_the_spans_of_a_completion(streamed: bool) -> None:  # noqa: FBT001 - a parameter of the test
    made = spans(stream() if streamed else json.dumps(MESSAGE).encode(), streamed=streamed)
    assert [s.name for s in made] == ["litellm_request", "raw_gen_ai_request", "openai.chat.completion", "tool_call"]
    root = made[0].attributes
    assert root["gen_ai.response.id"] == "chatcmpl-01"
    assert root["gen_ai.prompt.0.role"] == "system"
    assert root["gen_ai.prompt.1.content"] == "hi \u2028"
    assert root["gen_ai.completion.0.content"] == "I look."
    assert root["gen_ai.completion.0.finish_reason"] == "tool_calls"
    assert root["llm.usage.total_tokens"] == 7
    assert json.loads(str(made[3].attributes["tool.parameters"])) == {"at": "Bern"}


def test_a_stream_that_was_cut_in_the_record_is_no_error() -> None:
    made = spans(stream()[:-300], streamed=True)
    assert made[0].attributes["gen_ai.completion.0.content"] == "I look."
    assert not any("error" in name for name in made[0].attributes)
