"""A message (Anthropic's answer) from a chat completion. Pure."""

import msgspec

from llmproxy.protocols import stop_reasons, usage
from llmproxy.protocols.json_fields import Json, decode, encode
from llmproxy.protocols.openai_schemas import ChatMessage, read_completion


def from_chat(body: bytes) -> tuple[bytes, int]:
    """Return the message in a chat completion, and the tokens it used; raise AnswerError if *body* is none."""
    completion = read_completion(body)
    choice = completion.choices[0]
    message = choice.message
    ident = message_id(completion.id)
    content = _content(message, ident)
    finish = stop_reasons.openai_finish(choice.finish_reason)
    reason, matched = stop_reasons.stop_reason(
        finish, choice.stop_reason, called=bool(message.tool_calls), refused=bool(message.refusal)
    )
    counts = usage.read_chat(completion.usage)
    answer: Json = {
        "id": ident,
        "type": "message",
        "role": "assistant",
        "model": completion.model or "",
        "content": content,
        "stop_reason": reason,
        "stop_sequence": matched,
        "usage": usage.to_anthropic(counts),
    }
    return encode(answer), counts.total if counts is not None else 0


def _content(message: ChatMessage, ident: str) -> list[Json]:
    blocks: list[Json] = []
    if thought := message.thought:
        blocks.append({"type": "thinking", "thinking": thought, "signature": ""})
    if text := message.content or message.refusal:
        blocks.append({"type": "text", "text": text})
    for i, call in enumerate(message.tool_calls or ()):
        tool_use = {"type": "tool_use", "id": call.id or tool_id(ident, i), "name": call.function.name or ""}
        blocks.append({**tool_use, "input": _input(call.function.arguments or "")})
    return blocks


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
        fields = decode(arguments)
    except msgspec.MsgspecError:
        fields = None
    if isinstance(fields, dict):
        return msgspec.Raw(arguments.encode())
    return {"invalid_json": arguments}  # a small model's slip: the agent may answer with a tool error
