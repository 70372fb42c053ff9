"""Tokens and reasons to stop, said in either API.

OpenAI counts cached tokens into the prompt's; Anthropic counts them beside `input_tokens`. Sums are the same in both.
"""

import msgspec

from llmproxy.protocols.sse import Json


class PromptDetails(msgspec.Struct):
    """Parts of OpenAI's prompt tokens."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class CompletionDetails(msgspec.Struct):
    """Parts of OpenAI's completion tokens."""

    reasoning_tokens: int | None = None


class ChatUsage(msgspec.Struct):
    """OpenAI's usage."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None

    @property
    def total(self) -> int:
        """All tokens, also where a server does not sum them up."""
        return self.total_tokens or self.prompt_tokens + self.completion_tokens


class OutputDetails(msgspec.Struct):
    """Parts of Anthropic's output tokens."""

    thinking_tokens: int | None = None


class MessagesUsage(msgspec.Struct):
    """Anthropic's usage; in a stream the counts so far, so that a later one replaces an earlier."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens_details: OutputDetails | None = None

    @property
    def prompt(self) -> int:
        """All tokens that were read."""
        return (self.input_tokens or 0) + (self.cache_creation_input_tokens or 0) + (self.cache_read_input_tokens or 0)

    @property
    def total(self) -> int:
        """All tokens."""
        return self.prompt + (self.output_tokens or 0)

    def update(self, later: "MessagesUsage") -> None:
        """Take over what *later* says."""
        for name in self.__struct_fields__:
            found = getattr(later, name)
            if found is not None:
                setattr(self, name, found)


def to_anthropic(usage: ChatUsage | None) -> Json:
    """Return Anthropic's usage; zeros when the upstream said nothing."""
    usage = usage or ChatUsage()
    details = usage.prompt_tokens_details or PromptDetails()
    read, written = details.cached_tokens or 0, details.cache_write_tokens or 0
    made: Json = {
        "input_tokens": max(0, usage.prompt_tokens - read - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": usage.completion_tokens,
    }
    thought = usage.completion_tokens_details.reasoning_tokens if usage.completion_tokens_details else None
    if thought:
        made["output_tokens_details"] = {"thinking_tokens": thought}
    return made


def to_openai(usage: MessagesUsage) -> Json:
    """Return OpenAI's usage."""
    made: Json = {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.output_tokens or 0,
        "total_tokens": usage.total,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_input_tokens or 0,
            "cache_write_tokens": usage.cache_creation_input_tokens or 0,
        },
    }
    thought = usage.output_tokens_details.thinking_tokens if usage.output_tokens_details else None
    if thought is not None:
        made["completion_tokens_details"] = {"reasoning_tokens": thought}
    return made


_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_STOP = {"length": "max_tokens", "content_filter": "refusal", "tool_calls": "tool_use", "function_call": "tool_use"}


def finish_reason(stop_reason: str | None) -> str:
    """Return OpenAI's reason."""
    return _FINISH.get(stop_reason or "", "stop")


def stop_reason(finish: str | None, matched: object, *, called: bool, refused: bool = False) -> tuple[str, str | None]:
    """Return Anthropic's reason and the stop sequence that ended the answer.

    *matched* is vLLM's `stop_reason`, a string for one of the request's stop sequences; OpenAI does not say. A tool
    call counts whatever the reason is: servers answer "stop" when the call was forced by `tool_choice`.
    """
    if called and finish not in {"length", "content_filter"}:
        return "tool_use", None
    if refused:
        return "refusal", None
    if finish == "stop" and isinstance(matched, str) and matched:
        return "stop_sequence", matched
    return _STOP.get(finish or "", "end_turn"), None
