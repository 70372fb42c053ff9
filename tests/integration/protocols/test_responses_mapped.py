"""The Responses API for model servers that lack it: an OpenAI-compatible one, and Anthropic. The SDK is the judge."""

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from integration.protocols.conftest import Rig
from integration.protocols.users import TOOL_SCHEMA
from llmproxy.shipper.spans.agent_lightning import spans_of
from llmproxy.shipper.spool.records import SpoolRecord

BREAKERS = "a\u2028b\u2029c\u0085d ä€😀 e\u0301 end"
TOOL: Any = {"type": "function", "name": "weather", "description": "Says it.", "parameters": TOOL_SCHEMA}
PIXEL = "data:image/png;base64,iVBORw0KGgo="
FILE = [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]
both = pytest.mark.parametrize("upstream", ["plain", "anthropic"])


@both
def test_every_event_of_a_stream_is_whole_and_in_order(rig: Rig, upstream: str) -> None:
    with rig.sdk().responses.stream(model=rig.model(upstream), input=BREAKERS, instructions="be short") as stream:
        events: list[Any] = list(stream)
        final = stream.get_final_response()

    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    assert kinds[-4:] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert said.endswith(BREAKERS)
    assert final.output_text == said
    assert final.status == "completed"
    assert final.instructions == "be short"
    assert final.usage is not None
    assert final.usage.total_tokens == final.usage.input_tokens + final.usage.output_tokens > 0


@both
@pytest.mark.parametrize("stream", [False, True])
def test_tools_and_their_results(rig: Rig, upstream: str, *, stream: bool) -> None:
    said = 'call weather {"place": "Zürich"}\ncall weather {"place": "Bern"}'
    answer = response(rig, upstream, said, stream=stream, tools=[TOOL], tool_choice="auto")

    calls = [item for item in answer.output if item.type == "function_call"]
    assert [json.loads(call.arguments) for call in calls] == [{"place": "Zürich"}, {"place": "Bern"}]
    assert len({call.id for call in calls}) == 2
    assert answer.tools[0].name == "weather"
    turn: Any = [{"role": "user", "content": said}, *(item.to_dict() for item in answer.output)]
    turn += [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"} for call in calls]
    again = response(rig, upstream, turn, stream=stream, tools=[TOOL])
    assert again.output_text.endswith("sunny")


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_of_anthropic_comes_and_is_given_back_signed(rig: Rig, *, stream: bool) -> None:
    said = json.dumps({"claude": {"think": "let me see", "call": [{"name": "weather", "input": {"place": "Bern"}}]}})
    asked: Any = {"tools": [TOOL], "reasoning": {"effort": "high"}}
    answer = response(rig, "anthropic", said, stream=stream, **asked)

    assert rig.seen("anthropic")["last"]["body"]["output_config"]["effort"] == "high"
    thought, call = answer.output[0], answer.output[-1]
    assert thought.type == "reasoning"
    assert thought.content[0].text == "let me see"
    turn: Any = [{"role": "user", "content": said}, *(item.to_dict() for item in answer.output)]
    turn.append({"type": "function_call_output", "call_id": call.call_id, "output": "sunny"})
    assert response(rig, "anthropic", turn, stream=stream, **asked).status == "completed", "the signature is checked"
    sent = rig.seen("anthropic")["last"]["body"]["messages"][1]["content"]
    assert [block["type"] for block in sent] == ["thinking", "tool_use"]
    assert sent[0]["signature"]


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_of_an_openai_compatible_server(rig: Rig, *, stream: bool) -> None:
    said = rig.directive("openai", think="let me see")
    answer = response(rig, "plain", said, stream=stream)
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output[0].content[0].text == "let me see"


class Said(BaseModel):
    answer: str


@both
def test_an_answer_by_a_schema(rig: Rig, upstream: str) -> None:
    rig.sdk().responses.with_raw_response.parse(model=rig.model(upstream), input="hi", text_format=Said)
    sent = rig.seen(upstream)["last"]["body"]
    if upstream == "anthropic":
        assert sent["output_config"]["format"]["schema"]["properties"]["answer"]["type"] == "string"
    else:
        assert sent["response_format"]["json_schema"]["name"] == "Said"
        assert sent["response_format"]["json_schema"]["strict"] is True


@both
def test_images_and_settings(rig: Rig, upstream: str) -> None:
    parts: Any = [{"type": "input_text", "text": "what is it"}, {"type": "input_image", "image_url": PIXEL}]
    answer = rig.sdk().responses.create(
        model=rig.model(upstream), input=[{"role": "user", "content": parts}], max_output_tokens=50, metadata={"a": "b"}
    )
    sent = rig.seen(upstream)["last"]["body"]
    assert "what is it" in answer.output_text
    assert answer.metadata == {"a": "b"}
    assert sent["max_tokens"] == 50
    assert sent["messages"][-1]["content"][1]["type"] == ("image" if upstream == "anthropic" else "image_url")
    assert not sent.keys() & {"input", "instructions", "max_output_tokens", "text", "store"}


@both
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_was_cut_says_so(rig: Rig, upstream: str, *, stream: bool) -> None:
    answer = response(rig, upstream, "one two three four", stream=stream, max_output_tokens=2)
    assert answer.status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"


@both
@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"store": True}, "store"),
        ({"conversation": "c"}, "conversation"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type"),
        ({"input": FILE}, "input.0.content.0.file_id"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
    ],
)
def test_what_needs_a_store_or_a_providers_tools_is_refused(rig: Rig, upstream: str, asked: Any, param: str) -> None:
    before = rig.seen(upstream)["calls"]
    with pytest.raises(openai.BadRequestError) as caught:
        rig.sdk().responses.create(**{"model": rig.model(upstream), "input": "hi", **asked})
    assert caught.value.param == param
    assert rig.seen(upstream)["calls"] == before


@both
def test_errors_are_openais(rig: Rig, upstream: str) -> None:
    with pytest.raises(openai.RateLimitError):
        rig.sdk().responses.create(model=rig.model(upstream), input=rig.directive(upstream, status=429))


@both
def test_a_stream_that_breaks_off_ends_with_the_apis_own_error(rig: Rig, upstream: str) -> None:
    said = rig.directive(upstream, die=1)
    with (
        rig.sdk().responses.create(model=rig.model(upstream), input=said, stream=True) as stream,
        pytest.raises(openai.APIError, match="closed the connection"),
    ):
        list(stream)


def test_an_error_in_a_stream_of_anthropic_is_told_as_an_event(rig: Rig) -> None:
    said = json.dumps({"claude": {"say": "one two", "error_after_events": 4}})
    with (
        rig.sdk().responses.create(model="m-anthropic", input=said, stream=True) as stream,
        pytest.raises(openai.APIError, match="Overloaded"),
    ):
        list(stream)


@both
@pytest.mark.parametrize("stream", [False, True])
def test_the_record_is_a_chat_completion(rig: Rig, upstream: str, *, stream: bool) -> None:
    client = rig.sdk("/rollout/ro-1/attempt/at-1/v1")
    made: Any = client.responses.create(model=rig.model(upstream), input="hi", instructions="short", stream=stream)
    if stream:
        made = list(made)[-1].response

    call = rig.recorder.last()
    root = spans_of(SpoolRecord(gateway="g", call=call, sequence_id=1, late=False), "Full")[0]
    assert (call.streamed, call.status, call.error) == (stream, 200, "")
    assert root.attributes["gen_ai.prompt.0.content"] == "short"
    assert root.attributes["gen_ai.prompt.1.content"] == "hi"
    assert root.attributes["gen_ai.completion.0.content"] == made.output_text
    assert root.attributes["gen_ai.usage.completion_tokens"] == made.usage.output_tokens


def response(rig: Rig, upstream: str, said: Any, *, stream: bool, **asked: Any) -> Any:
    made: Any = rig.sdk().responses.create(model=rig.model(upstream), input=said, stream=stream, **asked)
    return list(made)[-1].response if stream else made
