"""A chat completion from a message (Anthropic's answer). Pure; the time is given.

Thinking is `reasoning_content`, and `thinking_blocks` with the signatures that Anthropic wants back, both as LiteLLM
names them. Blocks of Anthropic's own tools have no place in a chat completion and are left out.
"""

from typing import Any

import msgspec

from llmproxy.protocols import stop_reasons, usage
from llmproxy.protocols.anthropic_schemas import ContentBlock, read_message
from llmproxy.protocols.json_fields import Json, encode
from llmproxy.protocols.openai_schemas import AnswerError
from llmproxy.protocols.openai_to_anthropic.request import JSON_TOOL


def from_message(body: bytes, created_s: int) -> tuple[bytes, int]:
    """Return the chat completion in a message, and the tokens it used; raise AnswerError if *body* is none."""
    try:
        message = read_message(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise AnswerError(f"no message: {exc}") from exc
    reply, in_json = _reply(message.content)
    choice: Json = {"index": 0, "message": reply, "logprobs": None}
    choice["finish_reason"] = "stop" if in_json else stop_reasons.finish_reason(message.stop_reason)
    if message.stop_sequence is not None:
        choice["stop_reason"] = message.stop_sequence  # as vLLM says it
    counts = usage.MessagesUsage()
    counts.update(message.usage)
    completion: Json = {
        "id": completion_id(message.id),
        "object": "chat.completion",
        "created": created_s,
        "model": message.model,
        "choices": [choice],
        "usage": usage.to_openai(counts),
    }
    return encode(completion), counts.total


def completion_id(upstream: str) -> str:
    """Return the completion's id, made of the message's."""
    return "chatcmpl-" + upstream.removeprefix("msg_")


def _reply(blocks: list[ContentBlock]) -> tuple[Json, bool]:
    """Return the assistant's message, and whether it is the JSON that was asked for."""
    text, thought, in_json = "", "", False
    thinking_blocks: list[Json] = []
    calls: list[Any] = []
    for block in blocks:
        if block.type == "text":
            text += block.text
        elif block.type == "thinking":
            thought += block.thinking
            thinking_blocks.append({"type": "thinking", "thinking": block.thinking, "signature": block.signature})
        elif block.type == "redacted_thinking":
            thinking_blocks.append({"type": "redacted_thinking", "data": block.data})
        elif block.type == "tool_use" and block.name == JSON_TOOL:
            text, in_json = bytes(block.input).decode(), True
        elif block.type == "tool_use":
            function = {"name": block.name, "arguments": bytes(block.input).decode()}
            calls.append({"id": block.id, "type": "function", "function": function})
    reply: Json = {"role": "assistant", "content": text or None, "refusal": None}
    if thinking_blocks:
        reply |= {"reasoning_content": thought, "thinking_blocks": thinking_blocks}
    if calls:
        reply["tool_calls"] = calls
    return reply, in_json
