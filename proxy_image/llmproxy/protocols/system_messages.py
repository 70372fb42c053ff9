"""System messages for chat templates that take one, at the beginning. Pure.

Templates of Qwen 3.5 and later raise "System message must be at the beginning" for any other; agents send more: Claude
Code one after the first user turn, Codex `instructions` and a developer message.
"""

from typing import Any

from llmproxy.protocols.json_fields import Json

BILLING_HEADER = "x-anthropic-billing-header:"
"""Begins a system block of Claude Code with a number that differs in each call: no prefix of a prompt stays in a cache.
vLLM, SGLang and Ollama take it out of their own Messages API, too."""


def lead_by_one_system(messages: list[Json]) -> list[Json]:
    """Return *messages* with one system message at most, at the beginning; later ones are user messages in place."""
    leading = 0
    while leading < len(messages) and messages[leading]["role"] == "system":
        leading += 1
    rest = [{**message, "role": "user"} if message["role"] == "system" else message for message in messages[leading:]]
    if leading == 0:
        return rest
    content: Any = messages[0]["content"]
    for message in messages[1:leading]:
        content = _joined(content, message["content"])
    return [{**messages[0], "content": content}, *rest]


def _joined(first: Any, second: Any) -> Any:  # noqa: ANN401 - a text or parts
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}"
    return [*_parts(first), *_parts(second)]


def _parts(content: Any) -> list[Json]:  # noqa: ANN401 - a text or parts
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
