"""Answers in OpenAI's shapes, with vLLM's additions (`return_token_ids`). Pure: ids and times are arguments.

Where vLLM puts token ids: chat has `prompt_token_ids` beside `choices` (in a stream: in the first chunk) and
`token_ids` in each choice; the older completions have both in each choice.
"""

import base64
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmproxy.echo import tokens
from llmproxy.echo.generation import EchoToolCall, Generation

Json = dict[str, Any]
DIMENSIONS = 8


@dataclass(frozen=True, slots=True)
class GenerationHead:
    """Fields that every part of one response repeats."""

    id: str
    created_s: int
    model: str
    token_ids: bool
    logprobs: bool

    def of(self, kind: str, choices: list[Json], **more: object) -> Json:
        """Return an object of *kind* with *choices*."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created_s,
            "model": self.model,
            "system_fingerprint": "echo",
            "choices": choices,
            **more,
        }


def usage(prompt: int, completion: int) -> Json:
    """Return the usage of tokens."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def chat(head: GenerationHead, generation: Generation, prompt: list[int], count: int) -> Json:
    """Return a whole chat completion."""
    message: Json = {"role": "assistant", "content": None if generation.tool_calls else generation.text}
    if generation.thought:
        message["reasoning_content"] = "".join(generation.thought)
    if generation.tool_calls:
        message["tool_calls"] = [_tool_call(i, call) for i, call in enumerate(generation.tool_calls)]
    pieces = generation.generated
    one: Json = {
        "message": message,
        "logprobs": _chat_logprobs(head, pieces),
        "finish_reason": generation.finish_reason,
    }
    if generation.stopped_at is not None:
        one["stop_reason"] = generation.stopped_at
    if head.token_ids:
        one["token_ids"] = [tokens.token_id(p) for p in pieces]
    more = {"prompt_token_ids": prompt} if head.token_ids else {}
    choices = [{"index": i, **one} for i in range(count)]
    return head.of("chat.completion", choices, usage=usage(len(prompt), count * len(pieces)), **more)


def chat_chunks(head: GenerationHead, generation: Generation, prompt: list[int], count: int) -> Iterator[Json]:
    """Yield the chunks of a chat completion: the role, a piece each, the end."""
    for i in range(count):
        opening = _chunk(head, i, {"role": "assistant", "content": ""}, [])
        if head.token_ids and i == 0:
            opening["prompt_token_ids"] = prompt
        yield opening
    for delta, pieces in _deltas(generation):
        for i in range(count):
            yield _chunk(head, i, delta, pieces)
    for i in range(count):
        end = [] if generation.finish_reason == "length" else [""]
        ending = _chunk(head, i, {"content": ""}, end, finish_reason=generation.finish_reason)
        if generation.stopped_at is not None:
            ending["choices"][0]["stop_reason"] = generation.stopped_at
        yield ending


def _deltas(generation: Generation) -> Iterator[tuple[Json, list[str]]]:
    """Yield the deltas of an answer and the pieces that each is made of: of a call the name, then the arguments."""
    yield from (({"reasoning_content": piece}, [piece]) for piece in generation.thought)
    for number, call in enumerate(generation.tool_calls):
        whole = _tool_call(number, call)
        named = {**whole, "index": number, "function": {"name": call.name, "arguments": ""}}
        yield {"tool_calls": [named]}, tokens.pieces(call.name)
        for piece in tokens.pieces(call.arguments):
            yield {"tool_calls": [{"index": number, "function": {"arguments": piece}}]}, [piece]
    yield from (({"content": piece}, [piece]) for piece in generation.pieces)


def completion(head: GenerationHead, answers: list[tuple[Generation, list[int]]]) -> Json:
    """Return a whole completion of the older API, a choice for each prompt."""
    choices = []
    for i, (generation, prompt) in enumerate(answers):
        pieces = generation.generated
        choice: Json = {"index": i, "text": generation.text, "logprobs": _text_logprobs(head, pieces)}
        choice["finish_reason"] = generation.finish_reason
        if head.token_ids:
            choice |= {"prompt_token_ids": prompt, "token_ids": [tokens.token_id(p) for p in pieces]}
        choices.append(choice)
    totals = usage(sum(len(p) for _, p in answers), sum(len(a.generated) for a, _ in answers))
    return head.of("text_completion", choices, usage=totals)


def completion_chunks(head: GenerationHead, answers: list[tuple[Generation, list[int]]]) -> Iterator[Json]:
    """Yield the chunks of completions of the older API."""
    for i, (generation, prompt) in enumerate(answers):
        pieces = generation.generated
        for number, piece in enumerate(pieces):
            last = number == len(pieces) - 1
            choice: Json = {"index": i, "text": piece, "logprobs": _text_logprobs(head, [piece])}
            choice["finish_reason"] = generation.finish_reason if last else None
            if head.token_ids:
                choice["token_ids"] = [tokens.token_id(piece)]
                if number == 0:
                    choice["prompt_token_ids"] = prompt
            yield head.of("text_completion", [choice])


def embeddings(model: str, body: Mapping[str, Any], inputs: list[str]) -> Json:
    """Return a vector for each of *inputs*: made from its checksum, the same each time."""
    size = body.get("dimensions")
    size = size if isinstance(size, int) and 0 < size <= 4096 else DIMENSIONS  # noqa: PLR2004 - more is no embedding
    as_base64 = body.get("encoding_format") == "base64"
    data = []
    for i, text in enumerate(inputs):
        vector = [zlib.crc32(f"{k} {text}".encode()) / 2**31 - 1 for k in range(size)]
        coded = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode() if as_base64 else vector
        data.append({"object": "embedding", "index": i, "embedding": coded})
    used = sum(len(tokens.token_ids(text)) for text in inputs)
    return {"object": "list", "model": model, "data": data, "usage": {"prompt_tokens": used, "total_tokens": used}}


def error(message: str, kind: str, status: int, param: str | None = None) -> Json:
    """Return an error as OpenAI and vLLM write it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def call_id(number: int, call: EchoToolCall) -> str:
    """Return the id of a call of a tool, always the same one for the same call."""
    return f"call_{zlib.crc32(f'{number} {call.name} {call.arguments}'.encode()):08x}"


def _tool_call(number: int, call: EchoToolCall) -> Json:
    return {
        "id": call_id(number, call),
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _chunk(
    head: GenerationHead, index: int, delta: Json, pieces: list[str], *, finish_reason: str | None = None
) -> Json:
    choice: Json = {"index": index, "delta": delta, "logprobs": _chat_logprobs(head, pieces) if pieces else None}
    choice["finish_reason"] = finish_reason
    if head.token_ids and pieces:
        choice["token_ids"] = [tokens.token_id(p) for p in pieces]
    return head.of("chat.completion.chunk", [choice])


def _chat_logprobs(head: GenerationHead, pieces: list[str]) -> Json | None:
    if not head.logprobs:
        return None
    return {
        "content": [
            {"token": p, "logprob": tokens.logprob(p), "bytes": list(p.encode()), "top_logprobs": []} for p in pieces
        ]
    }


def _text_logprobs(head: GenerationHead, pieces: list[str]) -> Json | None:
    if not head.logprobs:
        return None
    offsets, at = [], 0
    for piece in pieces:
        offsets.append(at)
        at += len(piece)
    return {
        "tokens": pieces,
        "token_logprobs": [tokens.logprob(p) for p in pieces],
        "top_logprobs": [{p: tokens.logprob(p)} for p in pieces],
        "text_offset": offsets,
    }
