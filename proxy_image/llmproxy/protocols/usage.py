"""Token usage of all three protocols: how it is counted, and each in the words of another. Pure.

OpenAI counts cached tokens into the prompt's; Anthropic counts them beside `input_tokens`. Sums are the same in both.
Some servers write null or floats for a count: what cannot be read as a count is none, and costs no answer.
"""

from typing import Any

import msgspec

from llmproxy.protocols.json_fields import Json

_MAX_COUNT = 1 << 53


class _UsageEnvelope(msgspec.Struct):
    usage: Any = None


class ChatUsage(msgspec.Struct):
    """Usage of a chat completion."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total(self) -> int:
        """All tokens, also where a server does not sum them up."""
        return self.total_tokens or self.prompt_tokens + self.completion_tokens


class MessagesUsage(msgspec.Struct):
    """Anthropic's usage; in a stream the counts so far, so that a later one replaces an earlier."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    thinking_tokens: int | None = None

    @property
    def prompt(self) -> int:
        """All tokens of the prompt, from the cache or not."""
        return (self.input_tokens or 0) + (self.cache_creation_input_tokens or 0) + (self.cache_read_input_tokens or 0)

    @property
    def total(self) -> int:
        """All tokens."""
        return self.prompt + (self.output_tokens or 0)

    def update(self, usage: object) -> None:
        """Take over the counts of a later *usage*."""
        if not isinstance(usage, dict):
            return
        counts = {**usage, "thinking_tokens": _part(usage, "output_tokens_details", "thinking_tokens")}
        for name in self.__struct_fields__:
            count = _count(counts.get(name))
            if count is not None:
                setattr(self, name, count)


_decode_body = msgspec.json.Decoder(_UsageEnvelope).decode


def answer_tokens(body: bytes) -> int | None:
    """Return the tokens of a plain answer of any protocol, None if it has no count."""
    try:
        return tokens_of(_decode_body(body).usage)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def tokens_of(usage: object) -> int | None:
    """Return all tokens of a `usage` of any protocol, None if it has no count."""
    if not isinstance(usage, dict):
        return None
    if total := _count(usage.get("total_tokens")):
        return total
    prompt = ("prompt_tokens",) if "prompt_tokens" in usage else _ANTHROPIC_PROMPT
    answer = "completion_tokens" if "completion_tokens" in usage else "output_tokens"
    counts = [_count(usage.get(name)) for name in (*prompt, answer, "total_tokens")]
    numbers = [count for count in counts if count is not None]
    return sum(numbers) if numbers else None


def read_chat(usage: object) -> ChatUsage | None:
    """Return the usage of a chat completion, None where there is none."""
    if not isinstance(usage, dict):
        return None
    return ChatUsage(
        _count(usage.get("prompt_tokens")) or 0,
        _count(usage.get("completion_tokens")) or 0,
        _count(usage.get("total_tokens")) or 0,
        _part(usage, "prompt_tokens_details", "cached_tokens") or 0,
        _part(usage, "prompt_tokens_details", "cache_write_tokens") or 0,
        _part(usage, "completion_tokens_details", "reasoning_tokens") or 0,
    )


def to_anthropic(usage: ChatUsage | None) -> Json:
    """Return Anthropic's usage; zeros when the upstream counted nothing."""
    usage = usage or ChatUsage()
    counts: Json = {
        "input_tokens": max(0, usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens),
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }
    if usage.reasoning_tokens:
        counts["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return counts


def to_openai(usage: MessagesUsage) -> Json:
    """Return the usage of a chat completion."""
    counts: Json = {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.output_tokens or 0,
        "total_tokens": usage.total,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_input_tokens or 0,
            "cache_write_tokens": usage.cache_creation_input_tokens or 0,
        },
    }
    if usage.thinking_tokens is not None:
        counts["completion_tokens_details"] = {"reasoning_tokens": usage.thinking_tokens}
    return counts


def to_responses(usage: ChatUsage | None) -> Json | None:
    """Return the usage of a response; None when the upstream counted nothing."""
    if usage is None:
        return None
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total,
    }


_ANTHROPIC_PROMPT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


def _count(number: object) -> int | None:
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < _MAX_COUNT:
        return None
    return int(number)


def _part(usage: Json, name: str, count: str) -> int | None:
    details = usage.get(name)
    return _count(details.get(count)) if isinstance(details, dict) else None
