"""A call under OpenTelemetry's names: what is where, what never gets in. That the names exist is in tests/agl."""

import json
from typing import Any

import msgspec
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

import otlprig
import spanrig
from llmproxy.shipper.delivery.http_client import Answer, Outcome, verdict
from llmproxy.shipper.delivery.otlp_collector import FAULTS
from llmproxy.shipper.spans import agent_lightning
from llmproxy.shipper.spans.agent_lightning import Content
from llmproxy.shipper.spans.otel_genai import GenAiEncoder, span_of
from llmproxy.shipper.spans.otlp import Span
from llmproxy.shipper.spool.records import SpoolRecord

Json = dict[str, Any]


def record(**fields: Any) -> SpoolRecord:
    return SpoolRecord("gw", 7, msgspec.structs.replace(spanrig.a_call(1, "ro-1"), **fields))


def made(content: Content = "Full", **fields: Any) -> Span:
    return span_of(record(**fields), content)


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "phi-2", "messages": [{"role": "user", "content": "hi"}], **fields}).encode()


def test_it_has_the_same_ids_as_in_the_store() -> None:
    ours, theirs = made(), agent_lightning.spans_of(record(), "Full")[0]
    assert (ours.trace_id, ours.span_id) == (theirs.trace_id, theirs.span_id)
    alone = made(rollout_id="", attempt_id="")
    assert alone.trace_id not in {ours.trace_id, b""}
    assert "agentlightning.rollout_id" not in alone.attributes


def test_a_chat_call() -> None:
    request = body(temperature=0.5, max_tokens=9, stop="end", n=2, response_format={"type": "json_object"})
    span = made(request=request, provider="gemini")
    assert span.name == "chat phi-2"
    wanted = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "gcp.gemini",
        "gen_ai.request.model": "phi-2",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.stop_sequences": ["end"],
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.stream": False,
        "gen_ai.output.type": "json",
        "gen_ai.response.id": "chatcmpl-ro-1-1",
        "gen_ai.response.model": "phi-2",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 2,
        "prompt_token_ids": [1, 2, 3],
        "response_token_ids": [4, 5],
        "agentlightning.rollout_id": "ro-1",
    }
    assert {name: span.attributes.get(name) for name in wanted} == wanted
    assert json.loads(str(span.attributes["gen_ai.input.messages"])) == [
        {"role": "user", "parts": [{"type": "text", "content": "hi"}]}
    ]
    assert json.loads(str(span.attributes["gen_ai.output.messages"])) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "hello"}], "finish_reason": "stop"}
    ]


def test_tools_pictures_and_thoughts_are_parts() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"place": "Rome"}'}}
    odd = {"id": "c2", "type": "function", "function": {"name": "weather", "arguments": "{"}}
    pictures = [
        {"type": "text", "text": "what is this?"},
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    messages = [
        {"role": "user", "content": pictures},
        {"role": "assistant", "content": None, "tool_calls": [call, odd]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    answer = json.loads(spanrig.chat_response("x"))
    answer["choices"][0] |= {"message": {"content": "", "reasoning_content": "hm", "tool_calls": [call]}}
    answer["choices"][0]["finish_reason"] = "tool_calls"
    span = made(request=body(messages=messages, tools=tools), response=json.dumps(answer).encode())
    asked = json.loads(str(span.attributes["gen_ai.input.messages"]))
    called = {"type": "tool_call", "id": "c1", "name": "weather", "arguments": {"place": "Rome"}}
    assert [part for message in asked for part in message["parts"]] == [
        {"type": "text", "content": "what is this?"},
        {"type": "uri", "modality": "image", "uri": "https://x/y.png"},
        {"type": "blob", "modality": "image", "mime_type": "image/png", "content": "AAAA"},
        called,
        {"type": "tool_call", "id": "c2", "name": "weather", "arguments": "{"},
        {"type": "tool_call_response", "id": "c1", "response": "sunny"},
    ]
    (said,) = json.loads(str(span.attributes["gen_ai.output.messages"]))
    assert (said["finish_reason"], said["parts"]) == ("tool_call", [{"type": "reasoning", "content": "hm"}, called])
    assert json.loads(str(span.attributes["gen_ai.tool.definitions"])) == [
        {"type": "function", "name": "weather", "parameters": {"type": "object"}}
    ]


def test_a_failure_says_its_type_and_its_tries() -> None:
    span = made(status=503, error="http_503", response=b"busy")
    assert (span.error, span.attributes["error.type"], len(span.events)) == ("http_503", "503", 1)
    assert span.attributes["llmproxy.response"] == "busy"
    assert made(status=0, error="gateway_gone", request=b"", response=b"").attributes["error.type"] == "gateway_gone"


def test_embeddings_and_completions_are_operations_of_their_own() -> None:
    answer = b'{"model": "e", "data": [], "usage": {"prompt_tokens": 4, "total_tokens": 4}}'
    span = made(route="embeddings", request=b'{"input": "x", "dimensions": 8}', response=answer)
    assert span.name == "embeddings phi-2"
    assert span.attributes["gen_ai.embeddings.dimension.count"] == 8
    assert span.attributes["gen_ai.usage.input_tokens"] == 4
    assert made(route="completions").attributes["gen_ai.operation.name"] == "text_completion"


def test_an_anthropic_call_is_told_in_the_same_words() -> None:
    request = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    answer = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [{"type": "text", "text": "hello"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 2},
    }
    fields: Json = {"request": json.dumps(request).encode(), "response": json.dumps(answer).encode()}
    span = made(route="messages", provider="anthropic", **fields)
    assert span.attributes["gen_ai.usage.output_tokens"] == 2
    assert span.attributes["gen_ai.response.id"] == "chatcmpl-1"  # as in the store
    (said,) = json.loads(str(span.attributes["gen_ai.output.messages"]))
    assert said["parts"] == [{"type": "text", "content": "hello"}]


@pytest.mark.parametrize("failed", [False, True])
def test_only_tokens_keeps_every_text_of_the_call_inside(*, failed: bool) -> None:
    fields: Json = {"request": body(stop="the-secret", tools=[{"function": {"name": "the-secret"}}])}
    fields["response"] = spanrig.chat_response("x", "the-secret")
    if failed:
        fields |= {"status": 500, "error": "http_500", "response": b"the-secret"}
    span = made("TokensOnly", **fields)
    assert "the-secret" not in repr(span)
    assert failed or span.attributes["response_token_ids"] == [4, 5]


def test_it_is_a_batch_and_whatever_a_provider_answers_there_is_one() -> None:
    encoder = GenAiEncoder(name="phi", namespace="test")
    odd = [b"", b"{", b"[]", b'{"choices": [1]}', b'{"choices": [{"message": 3, "logprobs": 1}], "usage": 7}']
    for response in odd:
        (batch,) = encoder.encode(record(response=response, request=response))
        (span,) = otlprig.read(ExportTraceServiceRequest.FromString(batch))
        assert span.attributes["llmproxy.call"] == "gw/1"
        assert span.resource == {"service.name": "phi", "service.namespace": "test"}


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, "accepted"), (202, "accepted"), (400, "refused"), (413, "refused"), (500, "refused"), (307, "unavailable"),
     (401, "unavailable"), (404, "unavailable"), (415, "unavailable"), (429, "unavailable"), (503, "unavailable")],
)  # fmt: skip
def test_only_what_is_the_batchs_fault_is_a_refusal(status: int, outcome: str) -> None:
    assert verdict(Answer(status, "", "", b""), "x", FAULTS, strict=False).outcome is Outcome(outcome)
