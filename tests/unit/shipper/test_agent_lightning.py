"""The shape of spans: which there are, what names them, what never gets in, what is cut. Adapters are in tests/agl."""

import ast
import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

import spanrig
from llmproxy import __version__, shipping_protocol
from llmproxy.shipper.spans import attributes
from llmproxy.shipper.spans.agent_lightning import AgentLightningEncoder, Content, spans_of
from llmproxy.shipper.spans.attributes import MAX_TEXT, cut, flatten, render_json, render_python
from llmproxy.shipper.spans.otlp import Span, attributes_field, encode
from llmproxy.shipper.spool.records import SpoolRecord

Json = dict[str, Any]


def record(**fields: Any) -> SpoolRecord:
    return SpoolRecord("gw", 7, msgspec.structs.replace(spanrig.a_call(1, "ro-1"), **fields))


def made(content: Content = "Full", **fields: Any) -> list[Span]:
    return spans_of(record(**fields), content)


def names(spans: list[Span]) -> list[str]:
    return [span.name for span in spans]


def test_an_answered_call_is_three_spans() -> None:
    spans = made()
    assert names(spans) == ["litellm_request", "raw_gen_ai_request", "openai.chat.completion"]
    assert [span.parent_id for span in spans] == [b"", spans[0].span_id, spans[0].span_id]
    assert len({span.span_id for span in spans}) == 3
    assert spans[0].attributes["prompt_token_ids"] == [1, 2, 3]
    assert spans[2].attributes["response_token_ids"] == [4, 5]
    assert not any(name.startswith("gen_ai") for span in spans[1:] for name in span.attributes)


def test_ids_follow_from_gateway_and_call_alone() -> None:
    first, again = made(), made(response=spanrig.chat_response("another"), started_ns=1, error="")
    assert [s.span_id for s in first] == [s.span_id for s in again]
    other = spans_of(SpoolRecord("another-gateway", 7, record().call), "Full")
    assert {s.span_id for s in first}.isdisjoint({s.span_id for s in other})
    # Of one attempt, one trace.
    assert first[0].trace_id == other[0].trace_id
    assert made(attempt_id="at-2")[0].trace_id != first[0].trace_id


def test_an_answer_without_an_id_gets_one_that_all_its_spans_share() -> None:
    answer = json.loads(spanrig.chat_response(""))
    root, raw, chat = made(response=json.dumps(answer).encode())
    ident = root.attributes["gen_ai.response.id"]
    assert ident
    assert raw.attributes["llm.hosted_vllm.id"] == chat.attributes["agentlightning.operation.output.id"] == ident


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"status": 500, "error": "http_500", "response": b"<html>"}, "http_500"),
        ({"error": "client_closed"}, "client_closed"),
        ({"status": 0, "error": "gateway_gone", "response": b"", "request": b"", "tries": []}, "gateway_gone"),
        ({"response": b"<html>not json"}, "unexpected_answer"),
        ({"response": b'{"choices": []}'}, "unexpected_answer"),
        ({"status": 404}, "http_404"),
    ],
)
def test_a_failure_is_its_root_alone_and_nothing_an_adapter_looks_for(fields: Json, error: str) -> None:
    (root,) = made(**fields)
    assert root.name == "litellm_request"
    assert root.error == error
    assert not [
        n for n in root.attributes if n.startswith(("gen_ai.", "llm.", "prompt_", "response_", "agentlightning"))
    ]


def test_every_try_is_an_event() -> None:
    tries = [
        shipping_protocol.Try("a/0", 10, 2_000_000_010, 503, "http_503"),
        shipping_protocol.Try("a/1", 30, 40, 200, ""),
    ]
    (first, second) = made(tries=tries)[0].events
    assert first.attributes == {"deployment": "a/0", "status": 503, "duration_s": 2.0, "error": "http_503"}
    assert (second.name, second.at_ns, "error" in second.attributes) == ("try", 30, False)


def test_only_tokens_keeps_every_text_of_the_call_inside() -> None:
    secret = "the-secret-text"
    tool = {"id": "c", "type": "function", "function": {"name": secret, "arguments": json.dumps({secret: secret})}}
    answer = json.loads(spanrig.chat_response("chatcmpl-1", secret))
    answer["choices"][0]["message"]["tool_calls"] = [tool]
    answer["choices"][0]["logprobs"] = {"content": [{"token": secret, "logprob": -0.5, "top_logprobs": []}]}
    request = json.loads(spanrig.chat_request(secret))
    request |= {"tools": [{"type": "function", "function": {"name": secret}}], "user": secret, "stop": secret}
    both = {"request": json.dumps(request).encode(), "response": json.dumps(answer).encode()}
    full = AgentLightningEncoder(name="p", namespace="n").encode(record(**both))
    assert secret in b"".join(full).decode("latin-1")
    bare = AgentLightningEncoder(name="p", namespace="n", content="TokensOnly").encode(record(**both))
    assert secret not in b"".join(bare).decode("latin-1")
    root, _, chat = made("TokensOnly", **both)
    for span in (root, chat):
        assert span.attributes["prompt_token_ids"] == [1, 2, 3]
        assert span.attributes["response_token_ids"] == [4, 5]
        assert json.loads(str(span.attributes["logprobs.content"])) == [{"logprob": -0.5}]
    for fields in ({"status": 500, "error": "x"}, {"route": "embeddings"}, {"response": b"the-secret-text"}):
        failed = AgentLightningEncoder(name="p", namespace="n", content="TokensOnly").encode(
            record(**{**both, **fields})
        )
        assert secret not in b"".join(failed).decode("latin-1"), fields


def test_the_resource_carries_the_three_ids_and_any_selection_of_spans_is_a_batch() -> None:
    parts = AgentLightningEncoder(name="p", namespace="n").encode(record())
    batch = ExportTraceServiceRequest.FromString(b"".join(parts))
    assert [r.scope_spans[0].spans[0].name for r in batch.resource_spans] == names(made())
    for resource_spans in batch.resource_spans:
        found = {kv.key: kv.value for kv in resource_spans.resource.attributes}
        assert found["agentlightning.rollout_id"].string_value == "ro-1"
        assert found["agentlightning.attempt_id"].string_value == "at-1"
        assert found["agentlightning.span_sequence_id"].int_value == 7
    assert len(ExportTraceServiceRequest.FromString(parts[2]).resource_spans) == 1


@given(
    st.dictionaries(
        st.text(),
        st.one_of(
            st.text(),
            st.booleans(),
            st.integers(-(2**63), 2**63 - 1),
            st.floats(allow_nan=False),
            st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1),
            st.lists(st.text(), min_size=1),
            st.lists(st.booleans(), min_size=1),
            st.lists(st.floats(allow_nan=False), min_size=1),
        ),
    )
)
def test_attributes_are_written_as_the_library_writes_them(wanted: attributes.Attributes) -> None:
    span = trace_pb2.Span.FromString(attributes_field(b"\x4a", wanted))
    assert span == trace_pb2.Span(attributes=[KeyValue(key=k, value=by_library(v)) for k, v in wanted.items()])


@pytest.mark.parametrize("error", ["", "http_503"])
def test_spans_are_written_as_the_library_writes_them(error: str) -> None:
    """Read by the library and written by it again they are the same bytes, and hold what was said."""
    tries = [
        shipping_protocol.Try("a/0", 10, 2_000_000_010, 503, "http_503"),
        shipping_protocol.Try("a/1", 30, 40, 200, ""),
    ]
    spans = made(tries=tries, error=error, started_ns=5, ended_ns=1 << 62)
    for span, data in zip(spans, encode({"service.name": "phi"}, spans), strict=True):
        batch = ExportTraceServiceRequest.FromString(data)
        assert batch.SerializeToString() == data
        scope = batch.resource_spans[0].scope_spans[0]
        assert (scope.scope.name, scope.scope.version) == ("llmproxy", __version__)
        (read,) = scope.spans
        assert (read.trace_id, read.span_id, read.parent_span_id) == (span.trace_id, span.span_id, span.parent_id)
        assert (read.name, read.kind, read.start_time_unix_nano) == (span.name, span.kind, 5)
        assert read.end_time_unix_nano == 1 << 62
        assert [(e.name, e.time_unix_nano, len(e.attributes)) for e in read.events] == [
            (e.name, e.at_ns, len(e.attributes)) for e in span.events
        ]
        assert {kv.key for kv in read.attributes} == set(span.attributes)
        assert (read.status.code, read.status.message) == (2 if span.error else 1, span.error)


def by_library(value: attributes.Value) -> AnyValue:
    if isinstance(value, list):
        return AnyValue(array_value=ArrayValue(values=[by_library(item) for item in value]))
    if isinstance(value, str):
        return AnyValue(string_value=value)
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    return AnyValue(int_value=value) if isinstance(value, int) else AnyValue(double_value=value)


def test_a_long_text_is_cut_with_a_marker_and_the_json_around_it_stays_whole() -> None:
    long = "x" * (MAX_TEXT + 5)
    assert cut(long).endswith(f" [cut by llmproxy: {MAX_TEXT} of {MAX_TEXT + 5} characters]")
    parts = [{"type": "text", "text": long}] * 6
    shown = json.loads(render_json(parts))
    assert len(shown) == 6
    assert "[cut by llmproxy:" in shown[0]["text"]
    assert len(render_json(parts)) <= attributes.MAX_RENDERED
    assert ast.literal_eval(render_python({"a": [None, True, long]}))["a"][:2] == [None, True]
    request = json.dumps({"messages": [{"role": "user", "content": long}]}).encode()
    spans = made(request=request, response=spanrig.chat_response("i", long))
    sizes = [len(value) for span in spans for value in span.attributes.values() if isinstance(value, str)]
    assert max(sizes) < 2 * MAX_TEXT + 1000


LONG = "y" * (MAX_TEXT + 1000)


def longer(value: Any) -> list[Any]:
    """Return *value* once for each text and each key in it, with that one much too long."""
    if isinstance(value, str):
        return [LONG, json.dumps({"a": LONG, "b": [1, 2]}), json.dumps(["z"] * (MAX_TEXT // 4))]
    if isinstance(value, list):
        return [[*value[:i], long, *value[i + 1 :]] for i, item in enumerate(value) for long in longer(item)]
    if isinstance(value, dict):
        keys = [{**{k: v for k, v in value.items() if k != key}, LONG: value[key]} for key in list(value)[:1]]
        return keys + [{**value, key: long} for key, item in value.items() for long in longer(item)]
    return []


def test_whatever_is_too_long_is_bounded_and_what_was_json_still_is() -> None:
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"place": "Paris"}'}}
    request = {
        "model": "phi", "stop": ["a"], "user": "u", "tools": [{"type": "function", "function": function}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "t"}]}, {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "rain", "name": "n"},
        ],
    }  # fmt: skip
    answer = json.loads(spanrig.chat_response("i"))
    answer["system_fingerprint"] = "s"
    answer["choices"][0]["message"] |= {"tool_calls": [call], "refusal": "r", "reasoning_content": "w"}
    answer["choices"][0]["logprobs"] = {"content": [{"token": "t", "logprob": -1.0}]}
    whole = made(request=json.dumps(request).encode(), response=json.dumps(answer).encode())
    json_names = {n for s in whole for n, v in s.attributes.items() if isinstance(v, str) and v[:1] in "{["}
    assert any(name.endswith("arguments") for name in json_names)
    cases = [(long, answer) for long in longer(request)] + [(request, long) for long in longer(answer)]
    marked = 0
    for asked, answered in cases:
        for span in made(request=json.dumps(asked).encode(), response=json.dumps(answered).encode()):
            for name, value in span.attributes.items():
                rendered = isinstance(value, str) and name in json_names
                most = attributes.MAX_RENDERED if rendered else MAX_TEXT + 100
                assert len(name) < 2000
                texts = value if isinstance(value, list) else [value]
                assert all(len(text) <= most for text in texts if isinstance(text, str)), name
                if rendered and isinstance(value, str) and value[0] != LONG[0]:
                    (ast.literal_eval if name.startswith("llm.") else json.loads)(value)
            marked += span.name == "raw_gen_ai_request" and "cut by llmproxy" in str(span.attributes)
    assert marked == len(cases) - 3  # each but for the model that was asked for: the answer's is there in its place


def test_flat_names_read_back_as_what_they_were() -> None:
    value = {"a": [{"b": 1, "c": None}, {"b": [1, 2]}], "d": ["x", "y"], "e": {"f.g": True}, "h": [], "i": 2**70}
    found: attributes.Attributes = {}
    flatten("p", value, found)
    assert found == {"p.a.0.b": 1, "p.a.1.b": [1, 2], "p.d": ["x", "y"], "p.e.f_g": True, "p.i": str(2**70)}


def test_whatever_a_provider_answers_the_spans_can_be_stored() -> None:
    """Thousands of odd exchanges: never an exception, never a value that a store refuses."""
    rand = random.Random(2)
    atoms: list[Any] = [None, True, 0, -1, 2**80, 1.5, float("nan"), float("inf"), "", "x", "\ud800", "\x00", [], {}]

    def odd(depth: int = 0) -> Any:
        pick = rand.random()
        if depth > 3 or pick < 0.5:
            return rand.choice(atoms)
        if pick < 0.75:
            return [odd(depth + 1) for _ in range(rand.randint(0, 3))]
        return {rand.choice(["role", "content", "function", "id", "name", "a.b", ""]): odd(depth + 1) for _ in range(3)}

    fields = ("id", "model", "choices", "usage", "prompt_token_ids", "messages", "tools", "prompt", "functions", "stop")
    for _ in range(1500):
        answer = {name: odd() for name in rand.sample(fields, 5)}
        choice = {name: odd() for name in ("message", "finish_reason", "logprobs", "token_ids", "text", "index")}
        answer["choices"] = [choice, odd()] if rand.random() < 0.8 else odd()
        request = {name: odd() for name in rand.sample(fields, 6)}
        call = {"request": json.dumps(request).encode(), "response": json.dumps(answer).encode()}
        item = record(**call, streamed=rand.random() < 0.2)
        for span in spans_of(item, rand.choice(["Full", "TokensOnly"])):
            for name, value in span.attributes.items():
                assert isinstance(name, str)
                assert isinstance(value, (str, bool, int, float)) or (isinstance(value, list) and value), (name, value)
        AgentLightningEncoder(name="p", namespace="n").encode(item)


def test_an_unforeseen_error_costs_the_shape_not_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("llmproxy.shipper.spans.agent_lightning.read_answer", broken)
    (only,) = AgentLightningEncoder(name="p", namespace="n").encode(record())
    span = ExportTraceServiceRequest.FromString(only).resource_spans[0].scope_spans[0].spans[0]
    assert (span.name, span.status.message) == ("litellm_request", "not_encoded")


ASKED = json.dumps({"model": "phi-2", "messages": [], "return_token_ids": True, "top_k": 5}).encode()
REFUSED = json.dumps({"model": "phi-2", "messages": [], "return_token_ids": False}).encode()


def an_answer(**fields: Any) -> bytes:
    return json.dumps({**json.loads(spanrig.chat_response("i")), **fields}).encode()


@pytest.mark.parametrize(
    "response",
    [
        an_answer(prompt_token_ids=None),
        an_answer(choices=[{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}]),
        an_answer(choices=[{"index": 0, "message": {"content": "x"}, "token_ids": None}]),
    ],
    ids=["no prompt", "no choice", "null"],
)
@pytest.mark.parametrize("content", ["Full", "TokensOnly"])
def test_a_call_without_token_ids_that_were_requested_is_its_root_under_names_that_no_adapter_reads(
    response: bytes, content: Content
) -> None:
    (root,) = spans_of(record(request=ASKED, response=response), content)
    assert (root.name, root.error) == ("litellm_request", "")
    assert root.attributes["llmproxy.token_ids_missing"] is True
    assert root.attributes["llmproxy.usage.prompt_tokens"] == 3
    assert all(name.startswith(("llmproxy.", "http.")) for name in root.attributes)
    assert ("llmproxy.request" in root.attributes) is (content == "Full")
    by_deployment = record(response=response)
    assert len(spans_of(by_deployment, content, token_ids=True)) == 1
    assert len(spans_of(by_deployment, content)) == 3
    assert len(spans_of(record(request=REFUSED, response=response), content, token_ids=True)) == 3


def test_a_call_with_token_ids_and_one_without_any_token_are_spans_as_always() -> None:
    assert len(spans_of(record(request=ASKED), "Full", token_ids=True)) == 3
    nothing = an_answer(
        choices=[{"index": 0, "message": {"content": ""}, "token_ids": [], "finish_reason": "length"}],
        usage={"prompt_tokens": 3, "completion_tokens": 0},
    )
    assert len(spans_of(record(request=ASKED, response=nothing), "Full")) == 3


def test_calls_without_token_ids_are_counted_and_a_deployment_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    encoder = AgentLightningEncoder(name="p", namespace="n", token_id_deployments=["phi/0"])
    counted: list[int] = []
    encoder.on_missing_token_ids = lambda: counted.append(1)
    for i in range(3):
        encoder.encode(record(call_id=i, response=an_answer(prompt_token_ids=None)))
    encoder.encode(msgspec.structs.replace(record(response=an_answer(prompt_token_ids=None)), tries=1))  # a retry
    encoder.encode(record())
    assert len(counted) == 3
    (line,) = [r for r in caplog.records if r.message == "token_ids_missing"]
    assert line.__dict__["deployment"] == "phi/0"
    assert "tokenIds: false" in line.__dict__["advice"]


def test_fields_that_openai_does_not_have_are_litellms_extra_body_and_ids_are_where_it_puts_them() -> None:
    _, raw, chat = spans_of(record(request=ASKED), "Full")
    assert ast.literal_eval(str(raw.attributes["llm.hosted_vllm.extra_body"])) == {"return_token_ids": True, "top_k": 5}
    assert chat.attributes["agentlightning.operation.output.choices.0.provider_specific_fields.token_ids"] == [4, 5]
    _, raw, _ = spans_of(record(), "Full")
    assert "llm.hosted_vllm.extra_body" not in raw.attributes
    _, raw, _ = spans_of(record(request=ASKED), "TokensOnly")
    assert "llm.hosted_vllm.extra_body" not in raw.attributes
