"""Short ways to say a request and to see what it becomes."""

import json
from typing import Any

import msgspec

from llmproxy.protocols.anthropic_to_openai import request as chat_request
from llmproxy.protocols.anthropic_to_openai.request import Traits
from llmproxy.protocols.json_fields import decode_fields
from llmproxy.protocols.openai_to_anthropic import request as messages_request

PLAIN = Traits()


def to_chat(traits: Traits = PLAIN, *, strict: bool = True, **body: Any) -> dict[str, Any]:
    """Return the chat completion request that a messages request becomes."""
    whole = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}], **body}
    whole = {name: value for name, value in whole.items() if value is not ...}
    made = chat_request.from_messages(decode_fields(json.dumps(whole)), traits, strict=strict)
    found: dict[str, Any] = json.loads(msgspec.json.encode(made))
    return found


def to_messages(upstream: str = "claude-opus-5", **body: Any) -> dict[str, Any]:
    """Return the messages request that a chat completion request becomes."""
    whole = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **body}
    whole = {name: value for name, value in whole.items() if value is not ...}
    made = messages_request.from_chat(decode_fields(json.dumps(whole)), upstream)
    found: dict[str, Any] = json.loads(msgspec.json.encode(made))
    return found


def user(*blocks: Any) -> list[dict[str, Any]]:
    """Return one user message of *blocks*."""
    return [{"role": "user", "content": list(blocks)}]


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}
