"""What a chat completion request becomes for Anthropic."""

from typing import Any

import pytest

from llmproxy.protocols.json_fields import MappingError
from llmproxy.protocols.openai_to_anthropic.request import JSON_TOOL, takes_effort
from unit.protocols.mapped_requests import text, to_messages

CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "Z\u00fcrich", "n": 1.10}'}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def test_anthropic_demands_a_bound_and_gets_one() -> None:
    assert to_messages() == {"model": "m", "max_tokens": 4096, "messages": [{"role": "user", "content": "hi"}]}
    assert to_messages(max_tokens=5)["max_tokens"] == 5
    assert to_messages(max_tokens=5, max_completion_tokens=6)["max_tokens"] == 6


def test_system_messages_become_the_system_prompt() -> None:
    made = to_messages(
        messages=[
            {"role": "system", "content": "a"},
            {"role": "user", "content": "u"},
            {"role": "developer", "content": [text("b", cache_control={"type": "ephemeral"})]},
        ]
    )
    assert made["system"] == [text("a"), text("b", cache_control={"type": "ephemeral"})]
    assert made["messages"] == [{"role": "user", "content": "u"}]


def test_a_round_of_parallel_tools() -> None:
    made = to_messages(
        tools=[TOOL],
        parallel_tool_calls=False,
        messages=[
            {"role": "user", "content": "look"},
            {"role": "assistant", "content": "", "tool_calls": [CALL, {**CALL, "id": "c2"}]},
            {"role": "tool", "tool_call_id": "c1", "content": "seen"},
            {"role": "tool", "tool_call_id": "c2", "content": ""},
            {
                "role": "user",
                "content": [text("and now"), {"type": "image_url", "image_url": {"url": "https://x/a.png"}}],
            },
        ],
    )
    assert [m["role"] for m in made["messages"]] == ["user", "assistant", "user"]
    assert [b["type"] for b in made["messages"][1]["content"]] == ["tool_use", "tool_use"]
    assert made["messages"][1]["content"][0]["input"] == {"at": "Z\u00fcrich", "n": 1.1}
    last = made["messages"][2]["content"]
    assert last[0] == {"type": "tool_result", "tool_use_id": "c1", "content": "seen"}
    assert last[1] == {"type": "tool_result", "tool_use_id": "c2"}
    assert last[2:] == [text("and now"), {"type": "image", "source": {"type": "url", "url": "https://x/a.png"}}]
    assert made["tools"] == [{"name": "look", "input_schema": {"type": "object", "properties": {}}}]
    assert made["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}


def test_data_urls_become_base64() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBOR", "detail": "high"}}
    pdf = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBER"}}
    blocks = to_messages(messages=[{"role": "user", "content": [image, pdf]}])["messages"][0]["content"]
    assert blocks[0]["source"] == {"type": "base64", "media_type": "image/png", "data": "iVBOR"}
    assert blocks[1]["source"] == {"type": "base64", "media_type": "application/pdf", "data": "JVBER"}
    assert blocks[1]["title"] == "a.pdf"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        ({"type": "function", "function": {"name": "look"}}, {"type": "tool", "name": "look"}),
    ],
)
def test_the_choice_of_a_tool(choice: Any, expected: dict[str, Any]) -> None:
    assert to_messages(tools=[TOOL], tool_choice=choice)["tool_choice"] == expected


def test_settings() -> None:
    made = to_messages(
        stop="x", user="u", temperature=0.3, top_p=0.5, top_k=7, stream=True, n=1, seed=1, logprobs=False
    )
    assert made["stop_sequences"] == ["x"]
    assert made["metadata"] == {"user_id": "u"}
    assert (made["temperature"], made["top_p"], made["top_k"], made["stream"]) == (0.3, 0.5, 7, True)
    assert not {"n", "seed", "logprobs", "stop", "user"} & made.keys()


@pytest.mark.parametrize(
    ("effort", "limit", "budget"),
    [("low", 4096, 1024), ("high", 9000, 4096), ("high", 2000, 1999), ("high", 1000, None), ("none", 9000, None)],
)
def test_older_models_think_by_a_budget(effort: str, limit: int, budget: int | None) -> None:
    thinking = to_messages("claude-sonnet-4-5", reasoning_effort=effort, max_tokens=limit).get("thinking")
    assert thinking == (None if budget is None else {"type": "enabled", "budget_tokens": budget})


@pytest.mark.parametrize(
    ("effort", "expected"), [("minimal", "low"), ("low", "low"), ("xhigh", "xhigh"), ("none", None)]
)
def test_newer_models_think_by_an_effort(effort: str, expected: str | None) -> None:
    schema = {"type": "object", "properties": {}}
    shape = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    made = to_messages("claude-opus-5", reasoning_effort=effort, response_format=shape)
    assert made["output_config"].get("effort") == expected
    assert made["output_config"]["format"]["schema"] == schema
    assert made.get("thinking") == ({"type": "adaptive"} if expected else None)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        *(("claude-3-7-sonnet-20250219", False), ("claude-sonnet-4-5", False), ("claude-opus-4-20250514", False)),
        *(("claude-haiku-4-5-20251001", False), ("claude-opus-4-6", True), ("claude-opus-5", True)),
        *(("claude-opus-5-5", True), ("claude-next", True), ("anthropic.claude-opus-4.7-v1:0", True)),
    ],
)
def test_the_generation_is_read_from_the_name(model: str, *, expected: bool) -> None:
    assert takes_effort(model) is expected


def test_what_the_client_says_in_anthropics_words_wins() -> None:
    made = to_messages(thinking={"type": "adaptive"}, reasoning_effort="low")
    assert made["thinking"] == {"type": "adaptive"}


def test_signed_thinking_comes_back_unchanged() -> None:
    signed = {"type": "thinking", "thinking": "hm", "signature": "s"}
    unsigned = {"type": "thinking", "thinking": "hm", "signature": ""}
    history = {"role": "assistant", "content": "a", "reasoning_content": "hm", "thinking_blocks": [signed, unsigned]}
    made = to_messages(messages=[{"role": "user", "content": "q"}, history])
    assert made["messages"][1]["content"] == [signed, text("a")]


def test_a_json_schema() -> None:
    schema = {"type": "object", "properties": {}}
    made = to_messages(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}})
    assert made["output_config"] == {"format": {"type": "json_schema", "schema": schema}}


def test_json_mode_is_a_tool_that_must_be_called() -> None:
    made = to_messages(response_format={"type": "json_object"})
    assert made["tools"][0]["name"] == JSON_TOOL
    assert made["tool_choice"]["name"] == JSON_TOOL


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"messages": ...}, "messages"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": [text("a", colour="red")]}]}, "messages.0.content.0.colour"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "ftp://x"}}]}]},
            "messages.0.content.0.image_url.url",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
            "messages.0.content.0.file",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id"),
        ({"messages": [{"role": "assistant", "function_call": {"name": "x"}}]}, "messages.0.function_call"),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{"}}]}
                ]
            },
            "messages.0.tool_calls.0.function.arguments",
        ),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"functions": [{}]}, "functions"),
        ({"tools": [{"type": "custom"}]}, "tools.0.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"response_format": {"type": "grammar"}}, "response_format.type"),
        ({"response_format": {"type": "json_object"}, "tools": [TOOL]}, "response_format"),
        ({"max_tokens": "5"}, "max_tokens"),
    ],
)
def test_what_cannot_be_said_is_refused_by_its_name(body: dict[str, Any], field: str) -> None:
    with pytest.raises(MappingError) as refused:
        to_messages(**body)
    assert refused.value.param == field
