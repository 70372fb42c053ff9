"""OpenAI's Responses API at the echo server: a request read as a chat, an answer and its events in the API's shapes.

Pure. Nothing is stored, so `previous_response_id` is repeated and not looked up.
"""

from collections.abc import Iterator
from typing import Any

from llmproxy.echo import tokens
from llmproxy.echo.generation import BadBodyError, Generation
from llmproxy.echo.shapes import GenerationHead, Json, call_id
from llmproxy.protocols.normalize import responses as chat

_REPEATED = ("instructions", "max_output_tokens", "metadata", "previous_response_id", "reasoning", "temperature")
_DEFAULTS: Json = {
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "text": {"format": {"type": "text"}},
}


def as_chat(body: Json) -> Json:
    """Return a request as the chat that it is, with the request itself under `responses`; raise BadBodyError."""
    if not isinstance(body.get("input"), str | list) or not body["input"]:
        raise BadBodyError("input must be a text or a list of items, at least one", "input")
    limit = body.get("max_output_tokens")
    return {**chat.request(body), "max_tokens": limit, "responses": body}


def whole(head: GenerationHead, request: Json, generation: Generation, prompt: int) -> Json:
    """Return a whole response."""
    items = [item for item, _ in _items(head, generation)]
    generated = len(generation.generated)
    cut = generation.finish_reason == "length"
    return {
        **_outer(head, request, "incomplete" if cut else "completed"),
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": items,
        "usage": {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": generated,
            "output_tokens_details": {"reasoning_tokens": len(generation.thought)},
            "total_tokens": prompt + generated,
        },
    }


def events(head: GenerationHead, request: Json, generation: Generation, prompt: int) -> Iterator[Json]:
    """Yield the events of a streamed response, numbered."""
    started = {**_outer(head, request, "in_progress"), "incomplete_details": None, "output": [], "usage": None}
    events: list[Json] = [{"type": f"response.{what}", "response": started} for what in ("created", "in_progress")]
    for index, (item, pieces) in enumerate(_items(head, generation)):
        events += [{**event, "output_index": index} for event in _item_events(item, pieces)]
    done = whole(head, request, generation, prompt)
    events.append({"type": f"response.{done['status']}", "response": done})
    yield from ({**event, "sequence_number": number} for number, event in enumerate(events))


def _outer(head: GenerationHead, request: Json, status: str) -> Json:
    body = request["responses"]
    return {
        "id": head.id,
        "object": "response",
        "created_at": head.created_s,
        "status": status,
        "error": None,
        "model": head.model,
        **{name: body.get(name) for name in _REPEATED},
        **{name: body.get(name, default) for name, default in _DEFAULTS.items()},
        "store": False,
        "truncation": "disabled",
    }


def _items(head: GenerationHead, generation: Generation) -> Iterator[tuple[Json, list[str]]]:
    """Yield each item of an answer and the pieces that it is made of."""
    if generation.thought:
        content = [{"type": "reasoning_text", "text": "".join(generation.thought)}]
        yield {"id": f"rs-{head.id}", "type": "reasoning", "summary": [], "content": content}, generation.thought
    for number, call in enumerate(generation.tool_calls):
        ident = call_id(number, call)
        yield (
            {
                "id": f"fc_{ident}",
                "type": "function_call",
                "status": "completed",
                "call_id": ident,
                "name": call.name,
                "arguments": call.arguments,
            },
            tokens.pieces(call.arguments),
        )
    if not generation.tool_calls:
        part = {"type": "output_text", "text": generation.text, "annotations": [], "logprobs": []}
        status = "incomplete" if generation.finish_reason == "length" else "completed"
        message = {"id": f"msg-{head.id}", "type": "message", "status": status, "role": "assistant", "content": [part]}
        yield message, generation.pieces


def _item_events(item: Json, pieces: list[str]) -> Iterator[Json]:
    empty: Json = {"function_call": {"arguments": ""}}.get(item["type"], {"content": []})
    started = {**item, **empty} if item["type"] == "reasoning" else {**item, **empty, "status": "in_progress"}
    yield {"type": "response.output_item.added", "item": started}
    yield from _calls(item, pieces) if item["type"] == "function_call" else _texts(item, pieces)
    yield {"type": "response.output_item.done", "item": item}


def _calls(item: Json, pieces: list[str]) -> Iterator[Json]:
    kind, where = "response.function_call_arguments", {"item_id": item["id"]}
    yield from ({"type": f"{kind}.delta", **where, "delta": piece} for piece in pieces)
    yield {"type": f"{kind}.done", **where, "name": item["name"], "arguments": item["arguments"]}


def _texts(item: Json, pieces: list[str]) -> Iterator[Json]:
    part: dict[str, Any] = item["content"][0]
    thinks = part["type"] == "reasoning_text"
    kind, where = f"response.{part['type']}", {"item_id": item["id"], "content_index": 0}
    more: Json = {} if thinks else {"logprobs": []}
    yield {"type": "response.content_part.added", **where, "part": {**part, "text": ""}}
    yield from ({"type": f"{kind}.delta", **where, "delta": piece, **more} for piece in pieces)
    yield {"type": f"{kind}.done", **where, "text": part["text"], **more}
    yield {"type": "response.content_part.done", **where, "part": part}
