"""A call of the Responses API as a chat completion, for spans: adapters know no other. Nothing is refused."""

from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]

_TEXTS = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text"})


def request(body: Json) -> Json:
    """Return a request with `messages` and chat's `tools` in place of `input`, `instructions` and its own."""
    chat = {name: value for name, value in body.items() if name not in {"input", "instructions", "tools"}}
    messages: list[Json] = []
    if isinstance(body.get("instructions"), str):
        messages.append({"role": "system", "content": body["instructions"]})
    items = body.get("input")
    if isinstance(items, str):
        messages.append({"role": "user", "content": items})
    for item in _dicts(items):
        messages.extend(_message(item))
    chat["messages"] = messages
    if tools := [_tool(tool) for tool in _dicts(body.get("tools"))]:
        chat["tools"] = tools
    return chat


def answer(response: Json) -> Json:
    """Return a response as the chat completion that it was; itself if it is none."""
    if not isinstance(response.get("output"), list):
        return response
    message: Json = {"role": "assistant", "content": None}
    calls: list[Json] = []
    for item in _dicts(response["output"]):
        kind = item.get("type")
        if kind == "message":
            message["content"] = (message["content"] or "") + _text(item.get("content"))
        elif kind == "function_call":
            calls.append(_call(item))
        elif kind == "reasoning" and (thought := _text(item.get("content")) or _text(item.get("summary"))):
            message["reasoning_content"] = message.get("reasoning_content", "") + thought
    if calls:
        message["tool_calls"] = calls
    choice: Json = {"index": 0, "message": message, "finish_reason": _finish(response, called=bool(calls))}
    if logprobs := _logprobs(response):
        choice["logprobs"] = {"content": logprobs}
    return {
        "id": response.get("id"),
        "object": "chat.completion",
        "created": response.get("created_at"),
        "model": response.get("model"),
        "choices": [choice],
        "usage": _usage(response.get("usage")),
    }


def of_events(events: list[Json]) -> Json | None:
    """Return the response that a stream brought: that of its last event, or of a cut one what there is of it."""
    response: Json | None = None
    items: list[Json] = []
    for event in events:
        if isinstance(event.get("response"), dict):
            response = event["response"]
        elif event.get("type") == "response.output_item.done" and isinstance(event.get("item"), dict):
            items.append(event["item"])
    if response is not None and not response.get("output") and items:
        return {**response, "output": items}
    return response


def _message(item: Mapping[str, Any]) -> list[Json]:
    kind = item.get("type", "message")
    if kind == "function_call":
        return [{"role": "assistant", "content": None, "tool_calls": [_call(item)]}]
    if kind == "function_call_output":
        output = item.get("output")
        content = output if isinstance(output, str) else _text(output)
        return [{"role": "tool", "tool_call_id": item.get("call_id"), "content": content}]
    if kind == "reasoning":
        thought = _text(item.get("content")) or _text(item.get("summary"))
        return [{"role": "assistant", "content": None, "reasoning_content": thought}] if thought else []
    if kind != "message":
        return [{"role": "user", "content": [dict(item)]}]
    role = item.get("role", "user")
    return [{"role": "system" if role == "developer" else role, "content": _content(item.get("content"))}]


def _content(content: object) -> object:
    """Return a message's content: a text where there is nothing else, parts in chat's words otherwise."""
    parts = _dicts(content)
    if not isinstance(content, list) or all(part.get("type") in _TEXTS for part in parts):
        return content if isinstance(content, str) else _text(content)
    chat_parts: list[Json] = []
    for part in parts:
        if part.get("type") in _TEXTS:
            chat_parts.append({"type": "text", "text": part.get("text")})
        elif part.get("type") == "input_image":
            chat_parts.append({"type": "image_url", "image_url": {"url": part.get("image_url")}})
        else:
            chat_parts.append(part)
    return chat_parts


def _text(content: object) -> str:
    return "".join(str(part.get("text") or "") for part in _dicts(content) if part.get("type") in _TEXTS)


def _call(item: Mapping[str, Any]) -> Json:
    function = {"name": item.get("name"), "arguments": item.get("arguments")}
    return {"id": item.get("call_id") or item.get("id"), "type": "function", "function": function}


def _tool(tool: Json) -> Json:
    if tool.get("type") != "function" or "function" in tool:
        return tool
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def _finish(response: Json, *, called: bool) -> str:
    details = response.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else None
    if reason is not None:
        return "length" if reason == "max_output_tokens" else str(reason)
    return "tool_calls" if called else "stop"


def _logprobs(response: Json) -> list[Json]:
    logprobs: list[Json] = []
    for item in _dicts(response["output"]):
        for part in _dicts(item.get("content")):
            logprobs += _dicts(part.get("logprobs"))
    return logprobs


def _usage(usage: object) -> Json | None:
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("input_tokens") or 0, usage.get("output_tokens") or 0
    total = usage.get("total_tokens") or prompt + completion
    counts: Json = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
    for name, theirs in (("prompt_tokens_details", "input"), ("completion_tokens_details", "output")):
        if isinstance(details := usage.get(f"{theirs}_tokens_details"), dict):
            counts[name] = details
    return counts


def _dicts(value: object) -> list[Json]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
