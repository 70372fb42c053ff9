"""A call of the Responses API as a chat completion: what adapters read."""

from typing import Any

from llmproxy.protocols.normalize import responses as as_chat


def test_a_request() -> None:
    body: Any = {
        "model": "m",
        "temperature": 0.5,
        "instructions": "be short",
        "tools": [{"type": "function", "name": "f", "parameters": {}}, {"type": "web_search"}],
        "input": [
            {"role": "developer", "content": "and kind"},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "what is it"},
                    {"type": "input_image", "image_url": "http://x/i.png"},
                ],
            },
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "it is"},
            {
                "role": "assistant",
                "content": [{"type": "output_text", "text": "so"}, {"type": "output_text", "text": "!"}],
            },
        ],
    }

    made = as_chat.request(body)

    assert (made["model"], made["temperature"]) == ("m", 0.5)
    assert made["tools"] == [{"type": "function", "function": {"name": "f", "parameters": {}}}, {"type": "web_search"}]
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert made["messages"] == [
        {"role": "system", "content": "be short"},
        {"role": "system", "content": "and kind"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "what is it"},
                {"type": "image_url", "image_url": {"url": "http://x/i.png"}},
            ],
        },
        {"role": "assistant", "content": None, "reasoning_content": "hm"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "it is"},
        {"role": "assistant", "content": "so!"},
    ]


def response(*output: Any, **more: Any) -> Any:
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7, "input_tokens_details": {"cached_tokens": 2}}
    return {"id": "resp_1", "created_at": 5, "model": "m", "output": list(output), "usage": usage, **more}


MESSAGE = {"type": "message", "content": [{"type": "output_text", "text": "hi", "logprobs": [{"token": "hi"}]}]}


def test_an_answer() -> None:
    thought = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]}
    made = as_chat.answer(response(thought, MESSAGE))

    message = {"role": "assistant", "content": "hi", "reasoning_content": "hm"}
    assert made["choices"] == [
        {"index": 0, "message": message, "finish_reason": "stop", "logprobs": {"content": [{"token": "hi"}]}}
    ]
    assert made["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 2},
    }
    assert (made["id"], made["created"], made["object"]) == ("resp_1", 5, "chat.completion")


def test_calls_of_tools_and_why_it_ended() -> None:
    call = {"type": "function_call", "id": "fc", "call_id": "c", "name": "f", "arguments": "{}"}
    [choice] = as_chat.answer(response(call))["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["id"] == "c"
    [cut] = as_chat.answer(response(MESSAGE, incomplete_details={"reason": "max_output_tokens"}))["choices"]
    assert cut["finish_reason"] == "length"


def test_a_stream_is_its_last_response_or_what_there_is_of_it() -> None:
    begun = {"type": "response.created", "response": {"id": "resp_1", "output": []}}
    item = {"type": "response.output_item.done", "item": MESSAGE}
    assert as_chat.of_events([begun, item]) == {"id": "resp_1", "output": [MESSAGE]}
    done = {"type": "response.completed", "response": response(MESSAGE)}
    assert as_chat.of_events([begun, item, done]) == response(MESSAGE)
    assert as_chat.of_events([]) is None


def test_what_is_no_response_stays_as_it_is() -> None:
    assert as_chat.answer({"error": {}}) == {"error": {}}
    assert as_chat.request({"input": None, "model": "m"}) == {"model": "m", "messages": []}
