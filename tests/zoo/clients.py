"""Clients of the three protocols: what they send, and what they make of an answer. They know nothing of the product."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

import httpx2

Json = dict[str, Any]
Call = tuple[str, str, Json]


@dataclass
class Outcome:
    """What a client has got."""

    text: str = ""
    thinking: str = ""
    calls: list[Call] = field(default_factory=list)
    error: str = ""
    whole: bool = False
    """It has come to its end by the protocol's own sign."""


PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
DEFAULTS: dict[str, Json] = {
    "chat": {"messages": [{"role": "user", "content": "q"}]},
    "responses": {"input": "q"},
    "messages": {"messages": [{"role": "user", "content": "q"}], "max_tokens": 50},
}


def send(base: str, client: str, model: str, fields: Json, *, stream: bool) -> httpx2.Response:
    """Send a request as a client does."""
    body = {"model": model, **DEFAULTS[client], **fields} | ({"stream": True} if stream else {})
    headers = {"anthropic-version": "2023-06-01"} if client == "messages" else {}
    return httpx2.post(base + PATHS[client], json=body, headers=headers, timeout=30)


def read(client: str, response: httpx2.Response) -> Outcome:
    """Return what *client* makes of a response."""
    if not response.headers["content-type"].startswith("text/event-stream"):
        body = response.json(parse_constant=_refuse)
        if response.status_code >= httpx2.codes.BAD_REQUEST:
            return Outcome(error=body["error"]["message"])
        return PLAIN[client](body)
    events = [
        json.loads(data, parse_constant=_refuse)
        for data in re.findall(r"^data: ?(.*)$", response.text, re.MULTILINE)
        if data != "[DONE]"
    ]
    return STREAMED[client](events, response.text)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _arguments(text: str) -> Json:
    content: Json = json.loads(text or "{}")
    return content


def _chat(body: Json) -> Outcome:
    message = body["choices"][0]["message"]
    calls = [
        (call["id"], call["function"]["name"], _arguments(call["function"]["arguments"]))
        for call in message.get("tool_calls") or ()
    ]
    thinking = message.get("reasoning_content") or message.get("reasoning") or ""
    return Outcome(message.get("content") or "", thinking, calls, whole=True)


def _chat_stream(events: list[Json], text: str) -> Outcome:
    outcome = Outcome(whole="data: [DONE]" in text)
    calls: dict[int, list[str]] = {}
    for event in events:
        if event.get("error"):
            outcome.error = event["error"]["message"]
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            outcome.text += delta.get("content") or ""
            outcome.thinking += delta.get("reasoning_content") or delta.get("reasoning") or ""
            for call in delta.get("tool_calls") or ():
                parts = calls.setdefault(call["index"], ["", "", ""])
                function = call.get("function") or {}
                parts[0] = parts[0] or call.get("id") or ""
                parts[1] = parts[1] or function.get("name") or ""
                parts[2] += function.get("arguments") or ""
    outcome.calls = [(ident, name, _arguments(arguments)) for ident, name, arguments in calls.values()]
    return outcome


def _responses(body: Json) -> Outcome:
    outcome = Outcome(whole=body["status"] == "completed")
    for item in body["output"]:
        texts = "".join(part.get("text") or "" for part in item.get("content") or ())
        if item["type"] == "reasoning":
            outcome.thinking += texts
        elif item["type"] == "message":
            outcome.text += texts
        elif item["type"] == "custom_tool_call":
            outcome.calls.append((item["call_id"], item["name"], {"input": item["input"]}))
        else:
            name = "__".join(part for part in (item.get("namespace"), item["name"]) if part)
            outcome.calls.append((item["call_id"], name, _arguments(item["arguments"])))
    return outcome


def _responses_stream(events: list[Json], _: str) -> Outcome:
    last = events[-1]
    if last["type"] == "error":
        return Outcome(error=last["message"])
    begun = set()
    for event in events:
        at = (event.get("output_index"), event.get("content_index"))
        if event["type"] == "response.content_part.added":
            begun.add(at)
        elif event["type"] in {"response.output_text.delta", "response.reasoning_text.delta"}:
            assert at in begun, "openai-node throws at a delta of a part that has not begun"
    return _responses(last["response"])


def _messages(body: Json) -> Outcome:
    outcome = Outcome(whole=body["stop_reason"] in {"end_turn", "tool_use"})
    for block in body["content"]:
        if block["type"] == "text":
            outcome.text += block["text"]
        elif block["type"] == "thinking":
            outcome.thinking += block["thinking"]
        else:
            outcome.calls.append((block["id"], block["name"], block["input"]))
    return outcome


def _messages_stream(events: list[Json], _: str) -> Outcome:
    outcome = Outcome()
    parts: dict[int, Json] = {}
    current = -1
    for event in events:
        kind = event["type"]
        if kind == "content_block_start":
            assert current < 0, "blocks follow each other"
            current = event["index"]
            parts[current] = {**event["content_block"], "json": ""}
        elif kind == "content_block_delta":
            assert event["index"] == current, "a delta belongs to the block that is open"
            for name in ("text", "thinking", "partial_json"):
                key = "json" if name == "partial_json" else name
                parts[current][key] = parts[current].get(key, "") + event["delta"].get(name, "")
        elif kind == "content_block_stop":
            assert event["index"] == current
            current = -1
        elif kind == "message_stop":
            outcome.whole = True
        elif kind == "error":
            outcome.error = event["error"]["message"]
    for block in parts.values():
        outcome.text += block.get("text", "") if block["type"] == "text" else ""
        outcome.thinking += block.get("thinking", "")
        if block["type"] == "tool_use":
            outcome.calls.append((block["id"], block["name"], _arguments(block["json"])))
    return outcome


PLAIN = {"chat": _chat, "responses": _responses, "messages": _messages}
STREAMED = {"chat": _chat_stream, "responses": _responses_stream, "messages": _messages_stream}
