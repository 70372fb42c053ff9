"""What a trainer gets: each of agentlightning's adapters, at its defaults, makes exactly one result of a call.

Contents are compared, not counted.
"""

import asyncio
import json
import time
import uuid
from typing import Any

import pytest

from aglrig import Road, agentlightning
from llmproxy import shipping_protocol
from llmproxy.echo import shapes, tokens
from llmproxy.echo.generation import EchoToolCall, Generation

pytestmark = [pytest.mark.agl, pytest.mark.filterwarnings("default")]

Json = dict[str, Any]
PROMPT = [11, 12, 13]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a place",
            "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
        },
    }
]
WEATHER = EchoToolCall("get_weather", '{"place": "Paris"}')


def exchange(ident: str, said: Generation, request: Json, *, streamed: bool, token_ids: bool = True) -> Json:
    """Return the fields of a call that a vLLM answered so."""
    head = shapes.GenerationHead(ident, 1, "phi-2", token_ids=token_ids, logprobs=True)
    count = request.get("n", 1)
    body = {"model": "phi-2", "stream": streamed, **request}
    if streamed:
        chunks = [*shapes.chat_chunks(head, said, PROMPT, count)]
        chunks.append(head.of("chat.completion.chunk", [], usage=shapes.usage(3, len(said.generated))))
        response = b"".join(b"data: " + json.dumps(c).encode() + b"\n\n" for c in chunks) + b"data: [DONE]\n\n"
    else:
        response = json.dumps(shapes.chat(head, said, PROMPT, count)).encode()
    return {"request": json.dumps(body).encode(), "response": response, "streamed": streamed}


def text(*pieces: str) -> Generation:
    return Generation(list(pieces), [], "stop")


def ids_of(said: Generation) -> list[int]:
    return [tokens.token_id(piece) for piece in said.generated]


def adapted(spans: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """Return what each adapter makes of *spans*."""
    adapters = (
        agentlightning.LlmProxyTraceToTriplet(),
        agentlightning.TracerTraceToTriplet(),
        agentlightning.TraceToMessages(),
    )
    proxy, tracer, talks = (adapter.adapt(spans) for adapter in adapters)
    return proxy, tracer, talks


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
async def test_a_chat_call_is_one_result_with_full_contents_in_every_adapter(road: Road, *, streamed: bool) -> None:
    ids = await road.rollout()
    said = text("Line one\n", "  line two\u2028", " - b\n\tcode")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say \u2603"}]
    request = {"messages": messages, "temperature": 0.5}
    await road.call(ids, **exchange(f"chatcmpl-1{streamed}", said, request, streamed=streamed))
    proxy, tracer, talks = adapted(await road.spans(ids))

    (one,) = proxy
    assert one.prompt["token_ids"] == PROMPT
    assert one.response["token_ids"] == ids_of(said)
    assert one.metadata["response_id"] == f"chatcmpl-1{streamed}"

    (one,) = tracer
    assert one.prompt["token_ids"] == PROMPT
    assert one.prompt["raw_content"] == messages
    assert one.response["token_ids"] == ids_of(said)
    (choice,) = one.response["raw_content"]
    assert choice["message"] == {"role": "assistant", "content": said.text}
    assert choice["finish_reason"] == "stop"
    assert [item["logprob"] for item in one.response["logprobs"]] == [tokens.logprob(p) for p in said.generated]
    assert one.metadata["response_id"] == f"chatcmpl-1{streamed}"
    assert one.metadata["request"]["temperature"] == 0.5
    assert one.metadata["response"]["usage"]["completion_tokens"] == len(said.generated)

    (talk,) = talks
    assert talk["messages"][:-1] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Say \u2603"},
    ]
    assert talk["messages"][-1] == {"role": "assistant", "content": said.text}
    assert talk["tools"] is None


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
async def test_a_call_of_a_tool_is_whole(road: Road, *, streamed: bool) -> None:
    ids = await road.rollout()
    said = Generation([], [WEATHER, EchoToolCall("get_weather", '{"place": "Rome"}')], "tool_calls")
    request = {"messages": [{"role": "user", "content": "weather?"}], "tools": TOOLS}
    await road.call(ids, **exchange(f"chatcmpl-2{streamed}", said, request, streamed=streamed))
    proxy, tracer, talks = adapted(await road.spans(ids))
    assert [t.response["token_ids"] for t in proxy] == [ids_of(said)]
    (one,) = tracer
    made = one.response["raw_content"][0]["message"]["tool_calls"]
    assert [call["function"] for call in made] == [
        {"name": "get_weather", "arguments": '{"place": "Paris"}'},
        {"name": "get_weather", "arguments": '{"place": "Rome"}'},
    ]
    (talk,) = talks
    last = talk["messages"][-1]
    assert [call["function"]["arguments"] for call in last["tool_calls"]] == ['{"place": "Paris"}', '{"place": "Rome"}']
    assert all(call["id"].startswith("call_") and call["type"] == "function" for call in last["tool_calls"])
    assert talk["tools"] == TOOLS


async def test_a_conversation_with_tool_results_reads_back(road: Road) -> None:
    ids = await road.rollout()
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    messages: list[Json] = [
        {"role": "user", "content": [{"type": "text", "text": "what is this?"}, IMAGE]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    said = text("It rains.")
    await road.call(ids, **exchange("chatcmpl-3", said, {"messages": messages, "tools": TOOLS}, streamed=False))
    _, tracer, talks = adapted(await road.spans(ids))
    (one,) = tracer
    assert one.prompt["image_urls"] == ["data:image/png;base64,AAAA"]
    assert one.prompt["raw_content"][2] == messages[2]
    (talk,) = talks
    assert json.loads(talk["messages"][0]["content"]) == messages[0]["content"]
    assert talk["messages"][1]["tool_calls"] == [call]
    assert talk["messages"][2] == {"role": "tool", "content": "rain", "tool_call_id": "call_1"}
    assert talk["messages"][3]["content"] == "It rains."


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
async def test_several_choices_are_one_result_with_all_of_them(road: Road, *, streamed: bool) -> None:
    ids = await road.rollout()
    said = text("a", " b")
    request = {"messages": [{"role": "user", "content": "twice"}], "n": 2}
    await road.call(ids, **exchange(f"chatcmpl-4{streamed}", said, request, streamed=streamed))
    proxy, tracer, talks = adapted(await road.spans(ids))
    assert [t.response["token_ids"] for t in proxy] == [ids_of(said)]
    (one,) = tracer
    assert [c["message"]["content"] for c in one.response["raw_content"]] == ["a b", "a b"]
    assert [c["token_ids"] for c in one.response["raw_content"]] == [ids_of(said)] * 2
    (talk,) = talks
    assert [m["content"] for m in talk["messages"][1:]] == ["a b", "a b"]


async def test_the_older_completions_are_one_result(road: Road) -> None:
    ids = await road.rollout()
    said = text("once", " more")
    head = shapes.GenerationHead("cmpl-1", 1, "phi-2", token_ids=True, logprobs=True)
    body = {"model": "phi-2", "prompt": "say once more"}
    response = json.dumps(shapes.completion(head, [(said, PROMPT)])).encode()
    await road.call(ids, route="completions", request=json.dumps(body).encode(), response=response)
    proxy, tracer, talks = adapted(await road.spans(ids))
    assert [(t.prompt["token_ids"], t.response["token_ids"]) for t in proxy] == [(PROMPT, ids_of(said))]
    assert [t.response["raw_content"][0]["message"]["content"] for t in tracer] == ["once more"]
    assert [m["content"] for m in talks[0]["messages"]] == ["say once more", "once more"]


async def test_a_provider_without_token_ids_still_gives_messages(road: Road) -> None:
    ids = await road.rollout()
    said = text("plain")
    fields = exchange("gem-1", said, {"messages": [{"role": "user", "content": "q"}]}, streamed=False, token_ids=False)
    await road.call(ids, provider="gemini", **fields)
    proxy, tracer, talks = adapted(await road.spans(ids))
    assert proxy == []
    assert [t.response["raw_content"][0]["message"]["content"] for t in tracer] == ["plain"]
    assert [m["content"] for m in talks[0]["messages"]] == ["q", "plain"]


def anthropic_exchange(*, streamed: bool) -> Json:
    """Return the fields of a call that Anthropic answered with a thought, a text and a tool call."""
    request = {
        "model": "claude-x", "max_tokens": 50, "stream": streamed, "system": "Be brief.",
        "messages": [{"role": "user", "content": "weather?"}],
        "tools": [{"name": "get_weather", "input_schema": {"type": "object"}}],
    }  # fmt: skip
    usage = {"input_tokens": 7, "output_tokens": 9}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x"}
    if not streamed:
        content = [
            {"type": "text", "text": "I look \u2028up."},
            {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"place": "Paris"}},
        ]
        answer = {**message, "content": content, "stop_reason": "tool_use", "stop_sequence": None, "usage": usage}
        response = json.dumps(answer, ensure_ascii=False).encode()
    else:
        tool = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}}
        began: Json = {**message, "content": [], "stop_reason": None, "usage": {"input_tokens": 7, "output_tokens": 1}}
        events: list[Json] = [
            {"type": "message_start", "message": began},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "I look \u2028"}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "up."}},
            {"type": "content_block_stop", "index": 0},
            {"type": "content_block_start", "index": 1, "content_block": tool},
            {"type": "content_block_delta", "index": 1,
             "delta": {"type": "input_json_delta", "partial_json": '{"place": "Paris"}'}},
            {"type": "content_block_stop", "index": 1},
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": usage},
            {"type": "message_stop"},
        ]  # fmt: skip
        response = b"".join(
            f"event: {e['type']}\ndata: {json.dumps(e, ensure_ascii=False)}\n\n".encode() for e in events
        )
    body = json.dumps(request).encode()
    return {"route": "messages", "provider": "anthropic", "request": body, "response": response, "streamed": streamed}


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
async def test_an_anthropic_call_is_one_result_as_if_it_had_been_a_chat(road: Road, *, streamed: bool) -> None:
    ids = await road.rollout()
    await road.call(ids, **anthropic_exchange(streamed=streamed))
    proxy, tracer, talks = adapted(await road.spans(ids))

    assert [len(proxy), len(tracer)] == [0, 1]  # Anthropic has no token ids, which the first lives by
    (one,) = tracer
    assert one.prompt["raw_content"][0] == {"role": "system", "content": "Be brief."}
    assert one.metadata["response"]["usage"]["completion_tokens"] == 9
    (talk,) = talks
    assert [m["role"] for m in talk["messages"]] == ["system", "user", "assistant"]
    assert talk["messages"][-1]["content"] == "I look \u2028up."
    (call,) = talk["messages"][-1]["tool_calls"]
    assert (call["id"], call["function"]["name"]) == ("toolu_1", "get_weather")
    assert json.loads(call["function"]["arguments"]) == {"place": "Paris"}


async def test_failures_and_embeddings_are_there_and_give_no_result(road: Road) -> None:
    ids = await road.rollout()
    now = 10**18
    tries = [
        shipping_protocol.Try("phi/0", now, now + 10**9, 503, "http_503"),
        shipping_protocol.Try("phi/1", now, now + 1, 0, "connect"),
    ]
    await road.call(ids, status=502, error="upstream_connect", response=b'{"error": {"message": "no"}}', tries=tries)
    partial = exchange("chatcmpl-5", text("half"), {"messages": [{"role": "user", "content": "q"}]}, streamed=True)
    await road.call(ids, error="client_closed", **partial)
    embedding = json.dumps(shapes.embeddings("e", {}, ["text"])).encode()
    await road.call(ids, route="embeddings", request=b'{"input": "text"}', response=embedding)
    spans = await road.spans(ids)
    assert [(s.name, s.status.status_code) for s in spans] == [
        ("litellm_request", "ERROR"),
        ("litellm_request", "ERROR"),
        ("litellm_request", "OK"),
    ]
    assert [(e.attributes["deployment"], e.attributes["error"]) for e in spans[0].events] == [
        ("phi/0", "http_503"),
        ("phi/1", "connect"),
    ]
    assert spans[0].attributes["http.response.status_code"] == 502
    assert '"message": "no"' in spans[0].attributes["llmproxy.response"]
    assert not any(name.startswith("gen_ai.") for span in spans for name in span.attributes)
    assert adapted(spans) == ([], [], [])


async def test_a_call_without_token_ids_that_were_requested_gives_no_result(road: Road) -> None:
    ids = await road.rollout()
    question = {"messages": [{"role": "user", "content": "q"}], "return_token_ids": True}
    await road.call(ids, **exchange("chatcmpl-8", text("one"), question, streamed=False, token_ids=False))
    await road.call(ids, **exchange("chatcmpl-9", text("two"), question, streamed=True))
    spans = await road.spans(ids)
    assert spans[0].attributes["llmproxy.token_ids_missing"] is True
    proxy, tracer, talks = adapted(spans)
    assert [t.metadata["response_id"] for t in proxy] == ["chatcmpl-9"]
    assert [t.response["token_ids"] for t in tracer] == [ids_of(text("two"))]
    assert len(talks) == 1


async def test_failures_do_not_add_results_to_a_rollout(road: Road) -> None:
    ids = await road.rollout()
    question = {"messages": [{"role": "user", "content": "q"}]}
    await road.call(ids, **exchange("chatcmpl-6", text("one"), question, streamed=False))
    await road.call(ids, status=500, error="http_500", response=b"oops")
    await road.call(ids, **exchange("chatcmpl-7", text("two"), question, streamed=True))
    proxy, tracer, talks = adapted(await road.spans(ids))
    assert [t.metadata["response_id"] for t in proxy] == ["chatcmpl-6", "chatcmpl-7"]
    assert [t.response["raw_content"][0]["message"]["content"] for t in tracer] == ["one", "two"]
    assert [t["messages"][-1]["content"] for t in talks] == ["one", "two"]


def reward(store: Any, ids: tuple[str, str], value: float) -> Json:
    """Return the span by which a runner tells a reward, with an id that it takes now."""
    now = time.time()
    return {
        "rollout_id": ids[0],
        "attempt_id": ids[1],
        "sequence_id": store.next_id(*ids),
        "trace_id": uuid.uuid4().hex,
        "span_id": uuid.uuid4().hex[:16],
        "parent_id": None,
        "name": "agentlightning.annotation",
        "status": {"status_code": "OK"},
        "attributes": {"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": value},
        "events": [],
        "links": [],
        "start_time": now,
        "end_time": now,
        "context": None,
        "parent": None,
        "resource": {"attributes": {}, "schema_url": ""},
    }


async def test_a_reward_after_the_call_belongs_to_it_in_both_adapters(road: Road) -> None:
    ids = await road.rollout()
    for i, value in enumerate((0.25, 0.75)):
        said = text(f"answer {i}")
        question = {"messages": [{"role": "user", "content": f"q{i}"}]}
        await road.call(ids, **exchange(f"chatcmpl-8{i}", said, question, streamed=False))
        span = await asyncio.to_thread(reward, road.store, ids, value)
        await asyncio.to_thread(road.store.add_span, span)
    spans = await road.spans(ids)
    order = [(s.sequence_id, s.name) for s in spans if s.name in {"litellm_request", "agentlightning.annotation"}]
    assert order == [
        (1, "litellm_request"),
        (2, "agentlightning.annotation"),
        (3, "litellm_request"),
        (4, "agentlightning.annotation"),
    ]
    proxy, tracer, _ = adapted(spans)
    assert [t.reward for t in proxy] == [0.25, 0.75]
    assert [t.reward for t in tracer] == [0.25, 0.75]


async def test_what_a_trainer_reads_the_instant_a_rollout_succeeds_is_complete(road: Road) -> None:
    question = {"messages": [{"role": "user", "content": "q"}]}

    async def rollout(number: int) -> int:
        ids = await road.rollout()
        fields = exchange(f"chatcmpl-r{number}", text("a"), question, streamed=number % 2 == 0)
        await road.call(ids, **fields)
        await asyncio.to_thread(road.store.ask, "POST", f"/rollouts/{ids[0]}/attempts/latest", {"status": "succeeded"})
        proxy, _, _ = adapted(await road.spans(ids))
        return len(proxy)

    found = [n for start in range(0, 60, 6) for n in await asyncio.gather(*(rollout(start + i) for i in range(6)))]
    assert found == [1] * 60


async def test_calls_at_the_same_time_are_in_the_order_of_their_arrival(road: Road) -> None:
    ids = await road.rollout()
    question = {"messages": [{"role": "user", "content": "q"}]}
    fields = [exchange(f"chatcmpl-9{i}", text(f"a{i}"), question, streamed=False) for i in range(8)]
    # They arrive one after the other and end in the opposite order.
    calling = [road.call(ids, pause_s=0.4 - 0.04 * i, **f) for i, f in enumerate(fields)]
    await asyncio.gather(*calling)
    proxy, _, _ = adapted(await road.spans(ids))
    assert [t.metadata["response_id"] for t in proxy] == [f"chatcmpl-9{i}" for i in range(8)]
