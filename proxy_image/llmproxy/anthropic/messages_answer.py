"""A message (Anthropic's answer) from a chat completion. Pure."""

from typing import Any

import msgspec

from llmproxy.anthropic import outcome
from llmproxy.anthropic.wire import Json, decode, encode


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    id: str | None = None
    function: _Function = msgspec.field(default_factory=_Function)


class _Message(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None
    stop_reason: Any = None


class _Answer(msgspec.Struct):
    choices: list[_Choice]
    id: str | None = None
    model: str | None = None
    usage: outcome.ChatUsage | None = None


_decode = msgspec.json.Decoder(_Answer).decode


class AnswerError(Exception):
    """An upstream's answer is none of its protocol."""


def from_chat(body: bytes) -> tuple[bytes, int]:
    """Return the message in a chat completion, and the tokens it used; raise AnswerError if *body* is none."""
    try:
        answer = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise AnswerError(f"no chat completion: {exc}") from exc
    if not answer.choices:
        raise AnswerError("no chat completion: choices is empty")
    choice = answer.choices[0]
    message = choice.message
    ident = message_id(answer.id)
    content = _content(message, ident)
    reason, matched = outcome.stop_reason(
        choice.finish_reason, choice.stop_reason, called=bool(message.tool_calls), refused=bool(message.refusal)
    )
    made: Json = {
        "id": ident,
        "type": "message",
        "role": "assistant",
        "model": answer.model or "",
        "content": content,
        "stop_reason": reason,
        "stop_sequence": matched,
        "usage": outcome.to_anthropic(answer.usage),
    }
    used = answer.usage
    return encode(made), (used.total_tokens or used.prompt_tokens + used.completion_tokens) if used else 0


def _content(message: _Message, ident: str) -> list[Json]:
    blocks: list[Json] = []
    thought = thought_of(message.reasoning_content, message.reasoning)
    if thought:
        blocks.append({"type": "thinking", "thinking": thought, "signature": ""})
    if text := message.content or message.refusal:
        blocks.append({"type": "text", "text": text})
    for i, call in enumerate(message.tool_calls or ()):
        made = {"type": "tool_use", "id": call.id or tool_id(ident, i), "name": call.function.name or ""}
        blocks.append({**made, "input": _input(call.function.arguments or "")})
    return blocks


def thought_of(content: str | None, other: object) -> str:
    """Return the reasoning: `reasoning_content` at vLLM and DeepSeek, `reasoning` at OpenRouter and newer vLLM."""
    return content or (other if isinstance(other, str) else "")


def message_id(upstream: str | None) -> str:
    """Return the message's id, made of the upstream's."""
    return "msg_" + (upstream or "").removeprefix("chatcmpl-").removeprefix("msg_")


def tool_id(message: str, index: int) -> str:
    """Return an id for a tool call that its server gave none."""
    return f"toolu_{message.removeprefix('msg_')}_{index}"


def _input(arguments: str) -> Json | msgspec.Raw:
    """Return a tool's input, byte for byte as the model wrote it; Anthropic's must be an object."""
    if not arguments.strip():
        return {}
    try:
        found = decode(arguments)
    except msgspec.MsgspecError:
        found = None
    if isinstance(found, dict):
        return msgspec.Raw(arguments.encode())
    return {"invalid_json": arguments}  # a small model's slip: the agent may answer with a tool error
