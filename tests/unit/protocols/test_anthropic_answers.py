"""What answers, usage and errors become, both ways."""

import json
from typing import Any

import pytest

from llmproxy.protocols import errors
from llmproxy.protocols.anthropic_to_openai import response as response_from_openai
from llmproxy.protocols.normalize import anthropic as as_chat
from llmproxy.protocols.openai_schemas import AnswerError
from llmproxy.protocols.openai_to_anthropic import response as response_from_anthropic
from llmproxy.protocols.openai_to_anthropic.request import JSON_TOOL

ODD = "a\u0085b\u2028c\u2029d 🦊 e\u0301 \x00"


def message(
    said: dict[str, Any], *, finish: str = "stop", usage: dict[str, Any] | None = None, **choice: Any
) -> dict[str, Any]:
    one: dict[str, Any] = {"index": 0, "message": {"role": "assistant", **said}, "finish_reason": finish, **choice}
    body: dict[str, Any] = {"id": "chatcmpl-abc", "object": "chat.completion", "model": "m", "choices": [one]}
    if usage:
        body["usage"] = usage
    made: dict[str, Any] = json.loads(response_from_openai.from_chat(json.dumps(body).encode())[0])
    return made


def completion(content: list[dict[str, Any]], stop: str = "end_turn", **more: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": content,
    }
    body |= {"stop_reason": stop, "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 4}, **more}
    made: dict[str, Any] = json.loads(response_from_anthropic.from_message(json.dumps(body).encode(), 12)[0])
    return made


def test_text_becomes_a_message() -> None:
    usage: dict[str, Any] = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
    usage |= {"prompt_tokens_details": {"cached_tokens": 6}, "completion_tokens_details": {"reasoning_tokens": 2}}
    assert message({"content": ODD}, usage=usage) == {
        "id": "msg_abc",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": ODD}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 4,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 6,
            "output_tokens": 4,
            "output_tokens_details": {"thinking_tokens": 2},
        },
    }


@pytest.mark.parametrize(
    ("finish", "choice", "said", "expected"),
    [
        ("stop", {}, {}, ("end_turn", None)),
        ("length", {}, {}, ("max_tokens", None)),
        ("content_filter", {}, {}, ("refusal", None)),
        ("stop", {}, {"refusal": "no"}, ("refusal", None)),
        ("stop", {"stop_reason": "###"}, {}, ("stop_sequence", "###")),
        ("stop", {"stop_reason": 151645}, {}, ("end_turn", None)),
        (
            "tool_calls",
            {},
            {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]},
            ("tool_use", None),
        ),
        ("stop", {}, {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]}, ("tool_use", None)),
        (
            "length",
            {},
            {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{"}}]},
            ("max_tokens", None),
        ),
    ],
)
def test_reasons_to_stop(finish: str, choice: dict[str, Any], said: dict[str, Any], expected: tuple[str, str]) -> None:
    made = message({"content": "x", **said}, finish=finish, **choice)
    assert (made["stop_reason"], made["stop_sequence"]) == expected


def test_calls_and_reasoning() -> None:
    arguments = '{"at":"Zürich \\u2028","n":1.10,"big":123456789012345678901234567890}'
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": arguments}},
        {"function": {"name": "look", "arguments": ""}},
        {"id": "c3", "function": {"name": "look", "arguments": '{"cut'}},
    ]
    made = message({"content": None, "reasoning_content": "hm", "tool_calls": calls}, finish="tool_calls")["content"]
    assert made[0] == {"type": "thinking", "thinking": "hm", "signature": ""}
    assert [b["id"] for b in made[1:]] == ["c1", "toolu_abc_1", "c3"]
    assert made[1]["input"] == json.loads(arguments)
    assert made[2]["input"] == {}
    assert made[3]["input"] == {"invalid_json": '{"cut'}


@pytest.mark.parametrize("body", [b"", b"[]", b'{"choices":[]}', b'{"object":"x"}', b"<html>"])
def test_what_is_no_answer_is_said(body: bytes) -> None:
    with pytest.raises(AnswerError):
        response_from_openai.from_chat(body)
    with pytest.raises(AnswerError):
        response_from_anthropic.from_message(body, 0)


def test_a_message_becomes_a_completion() -> None:
    made = completion(
        [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": ODD},
            {"type": "server_tool_use", "id": "x", "name": "web_search", "input": {}},
            {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "Zürich"}},
            {"type": "text", "text": "!"},
        ],
        "tool_use",
        usage={"input_tokens": 3, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2, "output_tokens": 4},
    )
    assert made["id"] == "chatcmpl-01"
    assert made["created"] == 12
    choice = made["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == ODD + "!"
    assert choice["message"]["reasoning_content"] == "hm"
    assert choice["message"]["thinking_blocks"] == [{"type": "thinking", "thinking": "hm", "signature": "s"}]
    (call,) = choice["message"]["tool_calls"]
    assert call["id"] == "t1"
    assert json.loads(call["function"]["arguments"]) == {"at": "Zürich"}
    assert made["usage"]["prompt_tokens"] == 10
    assert made["usage"]["total_tokens"] == 14
    assert made["usage"]["prompt_tokens_details"] == {"cached_tokens": 5, "cache_write_tokens": 2}


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        *(("end_turn", "stop"), ("stop_sequence", "stop"), ("max_tokens", "length"), ("refusal", "content_filter")),
        *(("pause_turn", "stop"), ("model_context_window_exceeded", "length"), ("something_new", "stop")),
    ],
)
def test_reasons_to_finish(stop: str, expected: str) -> None:
    made = completion([{"type": "text", "text": "x"}], stop, stop_sequence="#" if stop == "stop_sequence" else None)
    assert made["choices"][0]["finish_reason"] == expected
    assert made["choices"][0].get("stop_reason") == ("#" if stop == "stop_sequence" else None)


def test_json_mode_is_taken_out_of_its_tool() -> None:
    made = completion([{"type": "tool_use", "id": "t", "name": JSON_TOOL, "input": {"a": 1}}], "tool_use")
    said = made["choices"][0]
    assert json.loads(said["message"]["content"]) == {"a": 1}
    assert said["finish_reason"] == "stop"
    assert "tool_calls" not in said["message"]


STATUSES = [
    (400, "invalid_request_error", "invalid_request_error", "invalid_request"),
    (401, "authentication_error", "invalid_request_error", "invalid_api_key"),
    (402, "billing_error", "insufficient_quota", "insufficient_quota"),
    (403, "permission_error", "invalid_request_error", "permission_denied"),
    (404, "not_found_error", "invalid_request_error", "not_found"),
    (405, "invalid_request_error", "invalid_request_error", "invalid_request"),
    (409, "invalid_request_error", "invalid_request_error", "invalid_request"),
    (413, "request_too_large", "invalid_request_error", "request_too_large"),
    (422, "invalid_request_error", "invalid_request_error", "invalid_request"),
    (429, "rate_limit_error", "rate_limit_error", "rate_limit_exceeded"),
    (500, "api_error", "server_error", "internal_error"),
    (502, "api_error", "server_error", "internal_error"),
    (503, "overloaded_error", "server_error", "overloaded"),
    (504, "timeout_error", "server_error", "timeout"),
    (529, "overloaded_error", "server_error", "overloaded"),
]


@pytest.mark.parametrize(("status", "anthropic", "kind", "code"), STATUSES)
def test_errors_by_their_status(status: int, anthropic: str, kind: str, code: str) -> None:
    given = {"error": {"message": f"it is {ODD}", "type": "x", "code": "y"}}
    made = json.loads(errors.to_anthropic(status, json.dumps(given).encode()))
    assert made == {"type": "error", "error": {"type": anthropic, "message": f"it is {ODD}"}}
    back = json.loads(errors.to_openai(status, json.dumps(made).encode()))
    assert back == {"error": {"message": f"it is {ODD}", "type": kind, "param": None, "code": code}}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"upstream says no", "upstream says no"),
        (b'{"detail":"Not Found"}', "Not Found"),
        (b'{"message":"old vllm"}', "old vllm"),
        (b'{"error":"plain"}', "plain"),
        (b'"text"', "text"),
        (b'{"detail":[{"loc":["body"]}]}', '{"detail":[{"loc":["body"]}]}'),
        (b"", "the model server answered 500 without a message"),
        (b"\xff", "\ufffd"),
    ],
)
def test_errors_of_any_shape_keep_their_words(body: bytes, expected: str) -> None:
    assert json.loads(errors.to_anthropic(500, body))["error"]["message"] == expected


def test_a_record_is_read_as_a_chat_completion() -> None:
    asked = {"model": "m", "max_tokens": 5, "system": "s", "messages": [{"role": "user", "content": "q"}]}
    assert json.loads(as_chat.request(json.dumps(asked).encode()))["messages"][0] == {"role": "system", "content": "s"}
    assert as_chat.request(b"nonsense") == b"nonsense"
    assert as_chat.answer(b'{"type":"error"}', 0, streamed=True) == b'{"type":"error"}'
