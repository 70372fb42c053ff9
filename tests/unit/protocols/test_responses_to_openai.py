"""The Responses API from and to chat completions: what a server may send in which pieces, and what is refused."""

import json
from typing import Any

import msgspec
import pytest

from llmproxy.protocols.json_fields import MappingError, decode_fields, encode
from llmproxy.protocols.openai_schemas import AnswerError
from llmproxy.protocols.responses_to_openai.request import from_responses
from llmproxy.protocols.responses_to_openai.response import from_chat
from llmproxy.protocols.responses_to_openai.stream import ResponseStream

Json = dict[str, Any]


def asked(**fields: Any) -> Json:
    raw = {name: msgspec.Raw(json.dumps(value).encode()) for name, value in fields.items()}
    made = from_responses(raw, "max_tokens")
    return json.loads(msgspec.json.encode(made))  # type: ignore[no-any-return]


def chunk(delta: Json | None = None, finish: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    made = {"id": "chatcmpl-1", "model": "m", "choices": choices, **more}
    return b"data: " + json.dumps(made, ensure_ascii=False).encode() + b"\n\n"


def call(index: int | None = None, ident: str | None = None, name: str | None = None, arguments: str = "") -> Json:
    return {"tool_calls": [{"index": index, "id": ident, "function": {"name": name, "arguments": arguments}}]}


def run(data: bytes, size: int = 1 << 20, *, ends: bool = True) -> tuple[list[Json], ResponseStream]:
    stream = ResponseStream({}, 7)
    made = b""
    for i in range(0, len(data), size):
        now, last = stream.feed(data[i : i + size])
        assert not last or stream.done
        made += now + last
    if ends and not stream.done:
        made += stream.rest()
    return [json.loads(event.split(b"data: ", 1)[1]) for event in made.strip().split(b"\n\n") if event], stream


USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "prompt_tokens_details": {"cached_tokens": 2}}
WHOLE = (
    chunk({"role": "assistant", "content": ""})
    + chunk({"reasoning_content": "hm\u2028"})
    + chunk({"content": "ä€"})
    + chunk({"content": "😀"})
    + chunk(call(0, "a", "f", '{"x'))
    + chunk(call(1, "b", "g", "{}"))
    + chunk(call(0, arguments='":1}'))
    + chunk({}, "tool_calls")
    + chunk(usage=USAGE)
    + b"data: [DONE]\n\n"
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 20])
def test_whatever_pieces_it_comes_in_the_events_are_the_same_and_add_up_to_the_last(size: int) -> None:
    events, stream = run(WHOLE, size)

    assert events == run(WHOLE)[0]
    assert (stream.done, stream.failed, stream.tokens) == (True, False, 7)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    last = events[-1]["response"]
    assert [item["type"] for item in last["output"]] == ["reasoning", "message", "function_call", "function_call"]
    assert last["output"] == [e["item"] for e in events if e["type"] == "response.output_item.done"]
    assert last["output"][0]["content"][0]["text"] == "hm\u2028"
    assert last["output"][1]["content"][0]["text"] == "ä€😀"
    assert [(c["call_id"], c["name"], c["arguments"]) for c in last["output"][2:]] == [
        ("a", "f", '{"x":1}'),
        ("b", "g", "{}"),
    ]
    for item in last["output"][2:]:
        deltas = [e["delta"] for e in events if e["type"].endswith("arguments.delta") and e["item_id"] == item["id"]]
        assert "".join(deltas) == item["arguments"]
    assert last["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 2},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 7,
    }


def test_calls_without_numbers_and_ids_are_told_apart() -> None:
    data = (
        chunk(call(ident="a", name="f", arguments="{")) + chunk(call(arguments="}")) + chunk(call(ident="b", name="g"))
    )
    events, _ = run(data + chunk({}, "tool_calls"))
    assert [(c["name"], c["arguments"]) for c in events[-1]["response"]["output"]] == [("f", "{}"), ("g", "")]


def test_thinking_between_what_is_said_gives_each_item_an_id_of_its_own() -> None:
    said = [{"reasoning_content": "a"}, {"content": "b"}, {"reasoning_content": "c"}, {"content": "d"}]
    events, _ = run(b"".join(map(chunk, said)) + chunk({}, "stop"))

    output = events[-1]["response"]["output"]
    assert [item["content"][0]["text"] for item in output] == ["a", "b", "c", "d"]
    assert len({item["id"] for item in output}) == 4
    for item in output:
        assert [e["delta"] for e in events if e["type"].endswith(".delta") and e["item_id"] == item["id"]] == [
            item["content"][0]["text"]
        ]


CUT = {"content": "a", **call(0, "x", "f", '{"p')}


@pytest.mark.parametrize(("said", "statuses"), [({"content": "a"}, ["incomplete"]), (CUT, ["completed", "incomplete"])])
def test_what_an_answer_was_cut_in_is_incomplete_plain_and_streamed(said: Json, statuses: list[str]) -> None:
    events, _ = run(chunk(said) + chunk({}, "length") + b"data: [DONE]\n\n")
    body = {"id": "chatcmpl-1", "model": "m", "choices": [{"message": said, "finish_reason": "length"}]}
    plain = json.loads(from_chat(json.dumps(body).encode(), {}, 7)[0])

    assert events[-1]["type"] == "response.incomplete"
    assert [item["status"] for item in plain["output"]] == statuses
    assert events[-1]["response"] == plain
    assert [e["item"] for e in events if e["type"] == "response.output_item.done"] == plain["output"]


def test_an_answer_of_nothing_has_an_empty_message() -> None:
    events, _ = run(chunk({"role": "assistant"}) + chunk({}, "stop") + b"data: [DONE]\n\n")
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == ""


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (chunk({"content": "a"}), "before the answer's end"),
        (b"data: [DONE]\n\n", "no answer"),
        (chunk({"content": "a"}) + b"data: [1]\n\n", "none of a chat completion"),
        (b'data: {"error": {"message": "too busy", "type": "x", "code": 503}}\n\n', "too busy"),
    ],
)
def test_an_end_that_is_none_is_the_apis_error(data: bytes, says: str) -> None:
    events, stream = run(data)
    assert stream.failed
    assert (events[-1]["type"], events[-1]["error"]["message"]) == ("error", events[-1]["message"])
    assert says in events[-1]["message"]


def test_a_stream_without_done_is_whole_when_a_reason_was_said() -> None:
    events, stream = run(chunk({"content": "a"}) + chunk({}, "content_filter"))
    assert not stream.failed
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["incomplete_details"] == {"reason": "content_filter"}


def test_a_refusal_is_a_part_of_its_own() -> None:
    events, _ = run(chunk({"refusal": "no"}) + chunk({}, "stop"))
    assert events[-1]["response"]["output"][0]["content"] == [{"type": "refusal", "refusal": "no"}]
    message = {"role": "assistant", "content": None, "refusal": "no"}
    body = json.dumps({"id": "chatcmpl-1", "choices": [{"message": message, "finish_reason": "stop"}]}).encode()
    made, tokens = from_chat(body, {}, 7)
    assert json.loads(made)["output"][0]["content"] == [{"type": "refusal", "refusal": "no"}]
    assert tokens == 0


def test_an_assistants_turn_is_one_message() -> None:
    items: list[Json] = [
        {"role": "user", "content": "hi"},
        {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "let me see"}]},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "b", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "sunny"}]},
        {"type": "function_call_output", "call_id": "b", "output": "rain"},
        {"type": "reasoning", "id": "q", "summary": [], "encrypted_content": "another's"},
        {"role": "developer", "content": "short"},
    ]
    messages = asked(model="m", instructions="kind", input=items)["messages"]

    assert [m["role"] for m in messages] == ["system", "user", "assistant", "tool", "tool", "user"]
    turn = messages[2]
    assert (turn["reasoning_content"], turn["content"]) == ("hm", "let me see")
    assert [c["id"] for c in turn["tool_calls"]] == ["a", "b"]
    assert [m["content"] for m in messages[3:5]] == ["sunny", "rain"]


def test_settings_in_chats_words_and_fields_that_nobody_defines_as_they_are() -> None:
    made = asked(
        model="m",
        input="hi",
        max_output_tokens=5,
        top_k=3,
        store=False,
        previous_response_id=None,
        metadata={},
        reasoning={"effort": "low", "summary": "auto"},
        top_logprobs=2,
        truncation="disabled",
        parallel_tool_calls=False,
        text={"format": {"type": "json_schema", "name": "s", "schema": {}, "strict": True}, "verbosity": "low"},
        tools=[{"type": "function", "name": "f", "parameters": {}}],
        tool_choice={"type": "function", "name": "f"},
    )

    assert made == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 5,
        "top_k": 3,
        "reasoning_effort": "low",
        "verbosity": "low",
        "logprobs": True,
        "top_logprobs": 2,
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}, "strict": True}},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
    }


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": 3}, "input"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input.0.role"),
        ({"input": [{"role": "user", "content": None}]}, "input.0.content"),
        ({"input": [{"role": "user", "content": [{"type": "computer"}]}]}, "input.0.content.0.type"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "u"}]}]}, "input.0.content.0"),
        ({"input": [{"type": "function_call", "call_id": "a", "name": "f"}]}, "input.0.arguments"),
        (
            {"input": [{"type": "function_call_output", "call_id": "a", "output": [{"type": "input_image"}]}]},
            "input.0.output.0.image_url",
        ),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.0.type"),
        ({"input": "x", "tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"input": "x", "tools": [{"type": "file_search"}]}, "tools.0.type"),
        ({"input": "x", "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"input": "x", "text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"input": "x", "prompt": {"id": "p"}}, "prompt"),
    ],
)
def test_what_cannot_be_said_is_refused_by_the_fields_name(fields: Json, param: str) -> None:
    with pytest.raises(MappingError) as caught:
        asked(model="m", **fields)
    assert caught.value.param == param


CODEX_TOOLS: list[Json] = [
    {"type": "function", "name": "look", "parameters": {"type": "object"}, "defer_loading": False},
    {
        "type": "custom",
        "name": "apply_patch",
        "description": "d",
        "format": {"type": "grammar", "syntax": "lark", "definition": "start: x"},
    },
    {
        "type": "namespace",
        "name": "agents",
        "tools": [{"type": "function", "name": "close", "parameters": {"type": "object"}}],
    },
    {"type": "local_shell"},
    {"type": "web_search", "external_web_access": True},
]


def test_codexs_tools_are_functions_and_a_web_search_beside_them_is_left_out() -> None:
    chat = asked(model="m", input="x", tools=CODEX_TOOLS, tool_choice="auto")
    functions = {tool["function"]["name"]: tool["function"] for tool in chat["tools"]}
    assert list(functions) == ["look", "apply_patch", "agents__close", "local_shell"]
    assert functions["apply_patch"]["parameters"]["required"] == ["input"]
    assert "start: x" in functions["apply_patch"]["description"]
    assert "command" in functions["local_shell"]["parameters"]["properties"]
    assert "defer_loading" not in functions["look"]


@pytest.mark.parametrize(
    ("choice", "names", "mapped"),
    [
        ({"type": "custom", "name": "apply_patch"}, 4, {"type": "function", "function": {"name": "apply_patch"}}),
        (
            {"type": "function", "name": "close", "namespace": "agents"},
            4,
            {"type": "function", "function": {"name": "agents__close"}},
        ),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "look"}]}, 1, "required"),
    ],
)
def test_choices_of_tools(choice: Json, names: int, mapped: object) -> None:
    chat = asked(model="m", input="x", tools=CODEX_TOOLS, tool_choice=choice)
    assert (len(chat["tools"]), chat["tool_choice"]) == (names, mapped)


CALLS = [
    (
        "apply_patch",
        '{"input": "*** Begin\\n"}',
        {"type": "custom_tool_call", "name": "apply_patch", "input": "*** Begin\n"},
    ),
    ("apply_patch", "*** Begin", {"type": "custom_tool_call", "input": "*** Begin"}),
    (
        "agents__close",
        '{"a": 1}',
        {"type": "function_call", "name": "close", "namespace": "agents", "arguments": '{"a": 1}'},
    ),
    (
        "local_shell",
        '{"command": ["ls"]}',
        {"type": "local_shell_call", "action": {"type": "exec", "env": {}, "command": ["ls"]}},
    ),
    ("look", "{}", {"type": "function_call", "name": "look", "arguments": "{}"}),
]


@pytest.mark.parametrize(("name", "arguments", "item"), CALLS)
def test_calls_come_back_as_what_the_client_offered(name: str, arguments: str, item: Json) -> None:
    fields = decode_fields(encode({"tools": CODEX_TOOLS}))
    calls = [{"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}]
    choice = {"index": 0, "message": {"content": None, "tool_calls": calls}, "finish_reason": "tool_calls"}
    body, _ = from_chat(encode({"id": "x", "choices": [choice]}), fields, 7)
    plain = json.loads(body)["output"][0]
    assert item.items() <= plain.items()
    stream = ResponseStream(fields, 7)
    data = chunk(call(0, "c", name, arguments)) + chunk({}, "tool_calls") + b"data: [DONE]\n\n"
    events = [json.loads(e.split(b"data: ", 1)[1]) for e in b"".join(stream.feed(data)).strip().split(b"\n\n")]
    assert item.items() <= events[-1]["response"]["output"][0].items()
    done = next(e for e in events if e["type"] == "response.output_item.done")
    assert item.items() <= done["item"].items()


def test_calls_of_every_kind_and_their_outputs_are_turns() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}
    items: list[Json] = [
        {"type": "custom_tool_call", "call_id": "a", "name": "apply_patch", "input": "p"},
        {"type": "function_call", "call_id": "b", "name": "close", "namespace": "agents", "arguments": "{}"},
        {"type": "local_shell_call", "call_id": "c", "action": {"type": "exec", "command": ["ls"]}},
        {"type": "custom_tool_call_output", "call_id": "a", "output": "done"},
        {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "t"}, image]},
        {"type": "local_shell_call_output", "call_id": "c", "output": "files"},
        {"type": "item_reference", "id": "rs_1"},
    ]
    messages = asked(model="m", input=items, tools=CODEX_TOOLS)["messages"]
    assert [m["role"] for m in messages] == ["assistant", "tool", "tool", "tool", "user"]
    names = [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in messages[0]["tool_calls"]]
    assert names == [
        ("apply_patch", {"input": "p"}),
        ("agents__close", {}),
        ("local_shell", {"type": "exec", "command": ["ls"]}),
    ]
    assert [m["content"] for m in messages[1:4]] == ["done", "t", "files"]
    assert messages[4]["content"][1] == {"type": "image_url", "image_url": {"url": image["image_url"]}}


def test_reasoning_has_its_content_part_events() -> None:
    """openai-node's stream helper throws at a delta of a part that has not begun."""
    data = chunk({"reasoning_content": "hm"}) + chunk({"content": "a"}) + chunk({}, "stop") + b"data: [DONE]\n\n"
    events, _ = run(data)
    kinds = [e["type"] for e in events if e.get("output_index") == 0]
    assert kinds == [
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
    ]
    assert next(e for e in events if e["type"] == "response.content_part.added")["part"]["type"] == "reasoning_text"


@pytest.mark.parametrize("finish", ["abort", "error", "something_new"])
def test_an_answer_with_an_unknown_end_is_never_a_whole_one(finish: str) -> None:
    events, stream = run(chunk({"content": "par"}) + chunk({}, finish) + b"data: [DONE]\n\n")
    assert events[-1]["type"] == "error"
    assert stream.failed
    choice = {"index": 0, "message": {"content": "par"}, "finish_reason": finish}
    with pytest.raises(AnswerError, match=finish):
        from_chat(encode({"id": "x", "choices": [choice]}), {}, 7)
