"""What a messages request becomes for an OpenAI-compatible server."""

from typing import Any

import pytest

from llmproxy.protocols.anthropic_to_openai.request import Traits, from_messages
from llmproxy.protocols.json_fields import MappingError, decode_fields, encode
from unit.protocols.mapped_requests import text, to_chat, user

PNG = "iVBORw0KGgo="
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
TOOL = {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {"at": {}}}}


def messages(**body: Any) -> Any:
    return to_chat(**body)["messages"]


def test_a_string_is_a_string() -> None:
    made = to_chat(model="m", max_tokens=7, temperature=0.5, top_p=0.9, stream=True)
    assert made == {
        "model": "m",
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "stream": True,
        "messages": [{"role": "user", "content": "hi"}],
    }


def test_openai_bounds_an_answer_by_another_field() -> None:
    made = to_chat(Traits(output_limit="max_completion_tokens"), max_tokens=7)
    assert made["max_completion_tokens"] == 7
    assert "max_tokens" not in made


def test_the_system_prompt_comes_first() -> None:
    assert messages(system="Be brief.")[0] == {"role": "system", "content": "Be brief."}
    assert messages(system=[text("Be brief.", cache_control={"type": "ephemeral"})])[0]["content"] == "Be brief."
    assert messages(system=[text("a"), text("b")])[0]["content"] == [text("a"), text("b")]


def test_system_messages_lead_as_one_and_later_ones_are_the_users() -> None:
    """Templates of Qwen 3.5 refuse a system message that is not the first."""
    later = {"role": "system", "content": [text("agents: x")]}
    made = to_chat(system="S", messages=[{"role": "system", "content": "T"}, *user(text("hi")), later])
    assert made["messages"] == [
        {"role": "system", "content": "S\n\nT"},
        {"role": "user", "content": "hi"},
        {"role": "user", "content": "agents: x"},
    ]


def test_calls_that_differ_in_claude_codes_billing_nonce_are_equal_bytes() -> None:
    def ask(nonce: str) -> list[list[dict[str, Any]]]:
        header = f"x-anthropic-billing-header: cc_version=2.1.117; cch={nonce};"
        bodies = (
            to_chat(system=[text(header), text("You are Claude Code.")], messages=user(text("hi"))),
            to_chat(system=f"{header}\n\nYou are Claude Code.", messages=user(text("hi"))),
            to_chat(system=[text(header)], messages=user(text("hi"))),
        )
        return [body["messages"] for body in bodies]

    first = ask("71fea")
    assert first == ask("0aaa9")
    assert [messages[0]["content"] for messages in first] == ["You are Claude Code.", "You are Claude Code.", "hi"]


@pytest.mark.parametrize(
    ("effort", "highest", "mapped"),
    [("xhigh", "high", "high"), ("max", "high", "high"), ("max", "xhigh", "xhigh"), ("low", "high", "low")],
)
def test_an_effort_above_the_servers_scale_is_its_highest(effort: str, highest: str, mapped: str) -> None:
    fields = decode_fields(encode({"max_tokens": 5, "messages": user(text("a")), "output_config": {"effort": effort}}))
    assert from_messages(fields, Traits(max_effort=highest))["reasoning_effort"] == mapped


def test_hints_of_tools_are_left_out() -> None:
    hints = {"defer_loading": True, "input_examples": [{}], "allowed_callers": ["direct"]}
    search = {"type": "web_search_20250305", "name": "web_search"}
    made = to_chat(
        tools=[{**TOOL, **hints}, search], mcp_servers=[], output_config={"task_budget": {}}, messages=user(text("a"))
    )
    assert made["tools"] == to_chat(tools=[TOOL], messages=user(text("a")))["tools"]
    assert "mcp_servers" not in made


@pytest.mark.parametrize("kind", ["bash_20250124", "text_editor_20250728", "memory_20250818"])
def test_tools_that_run_at_the_client_are_functions_by_their_schemas(kind: str) -> None:
    made = to_chat(tools=[{"type": kind, "name": "its_name"}], messages=user(text("a")))
    function = made["tools"][0]["function"]
    assert function["name"] == "its_name"
    assert "command" in function["parameters"]["properties"]


def test_references_and_results_of_a_search_are_text() -> None:
    result = {"type": "search_result", "title": "T", "source": "S", "content": [text("found it")]}
    blocks = [{"type": "tool_reference", "tool_name": "look"}, result]
    made = to_chat(messages=user({"type": "tool_result", "tool_use_id": "t", "content": blocks}))
    parts = made["messages"][0]["content"]
    assert [part["text"] for part in parts] == ["Tool: look", "T\nS\nfound it"]


def test_cache_control_is_kept_only_where_it_is_understood() -> None:
    marked = text("a", cache_control={"type": "ephemeral"})
    tool = {**TOOL, "cache_control": {"type": "ephemeral"}}
    kept = to_chat(Traits(cache_control=True), messages=user(marked), tools=[tool])
    assert kept["messages"][0]["content"] == [marked]
    assert kept["tools"][0]["cache_control"] == {"type": "ephemeral"}
    left_out = to_chat(messages=user(marked), tools=[tool], cache_control={"type": "ephemeral"})
    assert "cache_control" not in str(left_out)


def test_images_become_urls() -> None:
    by_url = {"type": "image", "source": {"type": "url", "url": "https://x/a.png"}}
    parts = messages(messages=user(text("see"), IMAGE, by_url))[0]["content"]
    assert [p["type"] for p in parts] == ["text", "image_url", "image_url"]
    assert parts[1]["image_url"]["url"] == f"data:image/png;base64,{PNG}"
    assert parts[2]["image_url"]["url"] == "https://x/a.png"


def test_documents_become_text_or_files() -> None:
    plain = {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "words"}}
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}}
    parts = messages(messages=user(plain, pdf))[0]["content"]
    assert parts[0] == text("T\nwords")
    assert parts[1]["file"] == {"filename": "document.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}


def test_results_of_parallel_tools_come_right_after_their_calls() -> None:
    made = messages(
        messages=[
            {"role": "user", "content": "look"},
            {
                "role": "assistant",
                "content": [
                    text("I look."),
                    {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "Zürich \u2028 🦊", "n": 1.10}},
                    {"type": "tool_use", "id": "t2", "name": "look", "input": {}},
                ],
            },
            *user(
                text("and now"),
                {"type": "tool_result", "tool_use_id": "t1", "content": "seen"},
                {"type": "tool_result", "tool_use_id": "t2", "is_error": True, "content": [text("gone"), IMAGE]},
            ),
        ]
    )
    assert [m["role"] for m in made] == ["user", "assistant", "tool", "tool", "user"]
    assert made[1]["content"] == "I look."
    calls = made[1]["tool_calls"]
    assert [c["id"] for c in calls] == ["t1", "t2"]
    assert calls[0]["function"] == {
        "name": "look",
        "arguments": '{"at": "Z\\u00fcrich \\u2028 \\ud83e\\udd8a", "n": 1.1}',
    }
    assert calls[1]["function"]["arguments"] == "{}"
    assert made[2] == {"role": "tool", "tool_call_id": "t1", "content": "seen"}
    assert made[3] == {"role": "tool", "tool_call_id": "t2", "content": "Error: gone"}
    assert [p["type"] for p in made[4]["content"]] == ["text", "image_url", "text"]
    assert "t2" in made[4]["content"][0]["text"]


def test_a_call_without_words_has_no_content() -> None:
    made = messages(
        messages=[{"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "n", "input": {}}]}]
    )
    assert made[0]["content"] is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"type": "tool_result", "tool_use_id": "t"}, ""),
        ({"type": "tool_result", "tool_use_id": "t", "is_error": True}, "Error: "),
    ],
)
def test_a_result_may_be_empty(given: dict[str, Any], expected: str) -> None:
    assert messages(messages=user(given)) == [{"role": "tool", "tool_call_id": "t", "content": expected}]


def test_thinking_is_shown_to_servers_whose_templates_read_it() -> None:
    said = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
        text("a"),
    ]
    history = [{"role": "assistant", "content": said}]
    assert messages(messages=history) == [{"role": "assistant", "content": "a"}]
    seen = to_chat(Traits(reasoning_content=True), messages=history)["messages"]
    assert seen == [{"role": "assistant", "content": "a", "reasoning_content": "hm"}]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "look"}, {"type": "function", "function": {"name": "look"}}),
    ],
)
def test_tools_and_their_choice(choice: dict[str, Any], expected: Any) -> None:
    made = to_chat(tools=[{**TOOL, "strict": True}], tool_choice=choice)
    function = {"name": "look", "description": "Looks.", "parameters": TOOL["input_schema"], "strict": True}
    assert made["tools"] == [{"type": "function", "function": function}]
    assert made["tool_choice"] == expected
    assert "parallel_tool_calls" not in made


def test_one_tool_at_a_time() -> None:
    made = to_chat(tools=[TOOL], tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    assert made["parallel_tool_calls"] is False


@pytest.mark.parametrize(
    ("thinking", "expected"),
    [
        ({"type": "enabled", "budget_tokens": 1024}, "low"),
        ({"type": "enabled", "budget_tokens": 4096}, "medium"),
        ({"type": "enabled", "budget_tokens": 32000}, "high"),
        ({"type": "disabled"}, None),
        ({"type": "adaptive"}, None),
    ],
)
def test_a_budget_of_thinking_is_an_effort(thinking: dict[str, Any], expected: str | None) -> None:
    assert to_chat(thinking=thinking).get("reasoning_effort") == expected


def test_the_output_config() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    config = {"effort": "high", "format": {"type": "json_schema", "schema": schema}}
    made = to_chat(output_config=config, thinking={"type": "enabled", "budget_tokens": 1024})
    assert made["reasoning_effort"] == "high"
    assert made["response_format"]["json_schema"]["schema"] == schema
    assert made["response_format"]["type"] == "json_schema"


def test_stop_sequences_and_the_user() -> None:
    made = to_chat(stop_sequences=["a", "\u2028"], metadata={"user_id": "u"})
    assert (made["stop"], made["user"]) == (["a", "\u2028"], "u")
    assert len(to_chat(metadata={"user_id": "x" * 200})["user"]) == 64  # OpenAI takes no longer one


def test_fields_of_the_model_server_pass_through() -> None:
    made = to_chat(top_k=5, min_p=0.1, chat_template_kwargs={"enable_thinking": False}, seed=3)
    assert made["top_k"] == 5
    assert made["min_p"] == 0.1
    assert made["chat_template_kwargs"] == {"enable_thinking": False}
    assert made["seed"] == 3


def test_hints_are_left_out() -> None:
    assert to_chat(service_tier="auto", context_management={"edits": []}, speed="fast").keys() == to_chat().keys()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"messages": ...}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"max_tokens": ...}, "max_tokens"),
        ({"max_tokens": "7"}, "max_tokens"),
        ({"container": "c"}, "container"),
        ({"n": 2}, "n"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"name": "x"}]}, "tools.0.input_schema"),
        ({"tools": [{**TOOL, "colour": True}]}, "tools.0.colour"),
        ({"tools": [{"type": "computer_20250124", "name": "computer"}]}, "tools.0.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"system": [IMAGE]}, "system.0.type"),
        ({"thinking": {"type": "between_tools"}}, "thinking"),
        ({"output_config": {"colour": {}}}, "output_config.colour"),
        ({"output_config": {"format": {"type": "grammar"}}}, "output_config.format"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        (
            {"messages": user({"type": "image", "source": {"type": "file", "file_id": "f"}})},
            "messages.0.content.0.source",
        ),
        ({"messages": user({"type": "container_upload"})}, "messages.0.content.0"),
        ({"messages": user({"type": "text"})}, "messages.0.content.0.text"),
        ({"messages": user(text("a", colour="red"))}, "messages.0.content.0.colour"),
        ({"messages": user("x")}, "messages.0.content.0"),
        ({"messages": user({"type": "tool_result"})}, "messages.0.content.0.tool_use_id"),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "t", "input": {}}]}]},
            "messages.0.content.0.name",
        ),
        ({"messages": [{"role": "assistant", "content": [{"type": "server_tool_use"}]}]}, "messages.0.content.0"),
    ],
)
def test_what_cannot_be_said_is_refused_by_its_name(body: dict[str, Any], field: str) -> None:
    with pytest.raises(MappingError) as refused:
        to_chat(**body)
    assert refused.value.param == field
    assert str(refused.value).startswith(f"{field}: ")


def test_a_record_of_anthropics_own_call_is_shown_as_it_is() -> None:
    made = to_chat(
        strict=False,
        max_tokens=...,
        tools=[{"type": "web_search_20250305", "name": "web_search"}],
        messages=[
            *user({"type": "search_result", "title": "t"}),
            {"role": "assistant", "content": [{"type": "server_tool_use"}]},
        ],
    )
    assert made["tools"] == [{"type": "web_search_20250305", "name": "web_search"}]
    assert made["messages"][0]["content"] == [{"type": "search_result", "title": "t"}]
    assert made["messages"][1]["content"] == '{"type":"server_tool_use"}'
