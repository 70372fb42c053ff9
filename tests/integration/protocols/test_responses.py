"""OpenAI's Responses API: forwarded where the model's server has it, mapped where not (`test_responses_mapped`)."""

import json
from typing import Any

import httpx2
import openai
import pytest

from integration.protocols.conftest import Rig
from integration.protocols.matrix import covers
from integration.protocols.users import TOOL_SCHEMA
from llmproxy.shipper.spans.agent_lightning import spans_of
from llmproxy.shipper.spool.records import SpoolRecord

Json = dict[str, Any]
BREAKERS = "a\u2028b\u2029c\u0085d ä€😀 e\u0301 end"
TOOL: Any = {"type": "function", "name": "weather", "description": "Says it.", "parameters": TOOL_SCHEMA}


@covers("responses")
def test_a_plain_response(rig: Rig, client: str, upstream: str) -> None:
    model = rig.model(upstream)
    answer = rig.sdk().responses.create(
        model=model, input=BREAKERS, instructions="be short", metadata={"a": "b"}, store=False
    )

    assert answer.output_text.endswith(BREAKERS)
    assert (answer.status, answer.metadata) == ("completed", {"a": "b"})
    assert answer.id.startswith("resp_011CFake" if upstream == "anthropic" else "resp-echo-")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens > 0
    sent = rig.seen(upstream)["last"]["body"]
    assert "return_token_ids" not in sent
    if upstream != "anthropic":
        assert (sent["model"], sent["input"], sent["store"]) == ("echo", BREAKERS, False)
    assert "x-rollout-id" not in rig.seen(upstream)["last"]["headers"]


@covers("responses stream")
def test_a_streamed_response(rig: Rig, client: str, upstream: str) -> None:
    stream = rig.sdk().responses.create(model=rig.model(upstream), input=BREAKERS, stream=True)
    events = list(stream)

    assert "".join(e.delta for e in events if e.type == "response.output_text.delta").endswith(BREAKERS)
    assert [e.sequence_number for e in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text.endswith(BREAKERS)


@covers("responses tools")
@pytest.mark.parametrize("stream", [False, True])
def test_tools_and_their_results(rig: Rig, client: str, upstream: str, *, stream: bool) -> None:
    said = 'call weather {"place": "Zürich"}\ncall weather {"place": "Bern"}'
    calls = _calls(rig.sdk(), rig.model(upstream), said, stream=stream)

    assert [json.loads(c.arguments) for c in calls] == [{"place": "Zürich"}, {"place": "Bern"}]
    turn: Any = [
        {"role": "user", "content": said},
        *({"type": "function_call", "call_id": c.call_id, "name": c.name, "arguments": c.arguments} for c in calls),
        *({"type": "function_call_output", "call_id": c.call_id, "output": "sunny"} for c in calls),
    ]
    assert rig.sdk().responses.create(model=rig.model(upstream), input=turn, tools=[TOOL]).output_text.endswith("sunny")


def _calls(client: openai.OpenAI, model: str, said: str, *, stream: bool) -> list[Any]:
    if not stream:
        answer = client.responses.create(model=model, input=said, tools=[TOOL])
        return [item for item in answer.output if item.type == "function_call"]
    last: Any
    *_, last = client.responses.create(model=model, input=said, tools=[TOOL], stream=True)
    return [item for item in last.response.output if item.type == "function_call"]


PREFIXES = (
    "",
    "/v1",
    "/openai",
    "/openai/v1",
    "/rollout/ro-1/attempt/at-1",
    "/rollout/ro-1/attempt/at-1/v1",
    "/a/b/v1",
)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_address(rig: Rig, prefix: str) -> None:
    assert rig.sdk(prefix).responses.create(model="m-openai", input="hi").output_text.endswith("hi")


def test_the_path_may_name_the_model(rig: Rig) -> None:
    answer = rig.post("openai", {"input": "hi"}, path="/openai/deployments/m-openai/responses")
    assert answer.json()["output"][0]["content"][0]["text"].endswith("hi")


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_of_a_rollout_is_a_conversation_in_its_spans(rig: Rig, *, stream: bool) -> None:
    client = rig.sdk("/rollout/ro-1/attempt/at-1/v1")
    made: Any = client.responses.create(
        model="m-vllm", input=[{"role": "user", "content": "hi"}], instructions="be short", stream=stream
    )
    if stream:
        made = list(made)[-1].response

    call = rig.recorder.last()
    root = spans_of(SpoolRecord(gateway="g", call=call, sequence_id=1, late=False), "Full")[0]
    assert (call.route, call.streamed, call.status, call.error) == ("responses", stream, 200, "")
    assert root.attributes["gen_ai.prompt.0.content"] == "be short"
    assert root.attributes["gen_ai.prompt.1.content"] == "hi"
    assert root.attributes["gen_ai.completion.0.content"] == made.output_text
    assert root.attributes["gen_ai.usage.prompt_tokens"] == made.usage.input_tokens
    assert root.attributes["gen_ai.usage.completion_tokens"] == made.usage.output_tokens
    assert root.attributes["gen_ai.response.id"] == made.id


def test_a_stream_that_breaks_off_ends_with_the_apis_own_error(rig: Rig) -> None:
    said = rig.directive("openai", die=2)
    with (
        rig.sdk().responses.create(model="m-openai", input=said, stream=True) as stream,
        pytest.raises(openai.APIError, match="closed the connection"),
    ):
        list(stream)

    raw = rig.post("openai", {"model": "m-openai", "input": said, "stream": True}, path="/v1/responses").text
    name, data = raw.strip().split("\n\n")[-1].split("\n")
    event = json.loads(data.removeprefix("data: "))
    assert (name, event["type"], event["code"]) == ("event: error", "error", "upstream_unavailable")


def test_an_overloaded_upstream_is_tried_again_and_passed_on(rig: Rig) -> None:
    with pytest.raises(openai.InternalServerError):
        rig.sdk().responses.create(model="m-openai", input=rig.directive("openai", status=503))
    assert rig.seen("openai")["calls"] == 2
    assert rig.sdk().responses.create(model="spare-openai", input="hi").output_text.endswith("hi")


def test_limits_hold_and_tell_of_themselves(rig: Rig) -> None:
    client = rig.sdk(max_retries=3)
    for _ in range(2):
        answer = client.responses.with_raw_response.create(model="limited-vllm", input="hi")
        assert answer.headers["x-ratelimit-limit-requests"] == "1"


def test_what_the_api_can_not_do_here_is_refused(rig: Rig) -> None:
    with pytest.raises(openai.BadRequestError, match="background") as caught:
        rig.sdk().responses.create(model="m-openai", input="hi", background=True)
    assert caught.value.param == "background"
    with pytest.raises(openai.NotFoundError):
        rig.sdk().responses.retrieve("resp-1")


SAID: Any = [{"role": "user", "content": "hi"}]
ASKED: dict[str, dict[str, Any]] = {
    "responses": {"input": "hi"},
    "chat/completions": {"messages": SAID},
    "messages": {"messages": SAID, "max_tokens": 9},
    "messages/count_tokens": {"messages": SAID},
}


@pytest.mark.parametrize(
    ("path", "upstream"), [*((path, "anthropic") for path in ASKED), *((path, "openai") for path in list(ASKED)[:3])]
)
def test_overrides_of_litellms_do_not_reach_the_upstream(rig: Rig, path: str, upstream: str) -> None:
    overrides = {"num_retries": 9, "timeout": 1, "api_base": "http://x", "api_key": "k", "fallbacks": ["x"]}
    overrides |= {"request_timeout": 1, "stream_timeout": 1, "retry_policy": {}, "max_fallbacks": 9}
    overrides |= {"context_window_fallback_dict": {}, "mock_testing_fallbacks": True}
    body = {"model": f"m-{upstream}", **ASKED[path], **overrides}
    answer = httpx2.post(f"{rig.base}/v1/{path}", json=body, headers={"x-litellm-num-retries": "9"}, timeout=60)

    last = rig.seen(upstream)["last"]
    assert answer.status_code == 200
    assert not overrides.keys() & last["body"].keys()
    assert not [name for name in last["headers"] if name.startswith("x-litellm")]
