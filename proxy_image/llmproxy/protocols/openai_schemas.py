"""A chat completion as an upstream sends it, whole and in chunks, and the events of a streamed response. Pure.

Types that JSON is decoded into stand in modules that are not compiled: msgspec reads their annotations, of which a
compiled module keeps less.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from llmproxy.protocols import repair
from llmproxy.protocols.json_fields import Json
from llmproxy.protocols.stop_reasons import openai_finish

Schema = TypeVar("Schema")


class AnswerError(Exception):
    """An upstream's answer is none of its protocol."""


class UnfinishedAnswerError(AnswerError):
    """An upstream's answer has an end that is none of a whole answer."""


class FunctionCall(msgspec.Struct):
    """The name and arguments of a call, or a piece of them."""

    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct):
    """A call of a tool."""

    id: str | None = None
    function: FunctionCall = msgspec.field(default_factory=FunctionCall)


class ToolCallDelta(msgspec.Struct):
    """A piece of a call of a tool."""

    index: int | None = None
    id: str | None = None
    function: FunctionCall | None = None


class AssistantText(msgspec.Struct):
    """The texts of a model, in a message or a piece of one."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    refusal: str | None = None
    thinking_blocks: list[Json] | None = None
    """LiteLLM's: thinking with the signatures that Anthropic wants back."""

    @property
    def thought(self) -> str:
        """The reasoning: `reasoning_content` at vLLM and DeepSeek, `reasoning` at OpenRouter and newer vLLM."""
        return self.reasoning_content or (self.reasoning if isinstance(self.reasoning, str) else "")


class ChatMessage(AssistantText):
    """A message."""

    tool_calls: list[ToolCall] | None = None


class ChatDelta(AssistantText):
    """A piece of a message."""

    tool_calls: list[ToolCallDelta] | None = None


class ChatLogprobs(msgspec.Struct):
    """The log-probabilities of a choice."""

    content: list[Json] | None = None


class _Head(msgspec.Struct, kw_only=True):
    """The fields beside the choices, in an answer and in a chunk."""

    id: str | None = None
    model: str | None = None
    usage: Any = None


class ChunkChoice(msgspec.Struct):
    """A choice in a chunk."""

    index: int = 0
    delta: ChatDelta | None = None
    finish_reason: str | None = None
    stop_reason: Any = None
    """vLLM's: the stop sequence that ended the answer."""
    logprobs: ChatLogprobs | None = None


class ChatChunk(_Head):
    """A chunk of a stream."""

    choices: list[ChunkChoice] | None = None
    error: Any = None


class CompletionChoice(msgspec.Struct):
    """A choice of a whole answer."""

    message: ChatMessage
    finish_reason: str | None = None
    stop_reason: Any = None
    logprobs: ChatLogprobs | None = None


class ChatCompletion(_Head):
    """A whole answer."""

    choices: list[CompletionChoice]


class _ChoiceEnd(msgspec.Struct):
    index: object = 0
    finish_reason: object = None


class ChunkEnd(msgspec.Struct):
    """The fields of a chunk that a stream which is forwarded as it is looks for."""

    choices: list[_ChoiceEnd] | None = None
    usage: Any = None
    error: Any = None


class _ResponseUsage(msgspec.Struct):
    usage: Any = None


class ResponseEvent(msgspec.Struct):
    """The same fields of an event of the Responses API."""

    type: str
    response: _ResponseUsage | None = None


_decode_completion = msgspec.json.Decoder(ChatCompletion).decode
_decode_chunk = msgspec.json.Decoder(ChatChunk).decode
read_chunk_end: Callable[[bytes], ChunkEnd] = msgspec.json.Decoder(ChunkEnd).decode
read_response_event: Callable[[bytes], ResponseEvent] = msgspec.json.Decoder(ResponseEvent).decode


def read_chunk(data: bytes) -> ChatChunk:
    """Return the chunk in an event's *data*; raise AnswerError."""
    try:
        return _decode_chunk(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        return _repaired(data, ChatChunk, exc)


def read_completion(body: bytes) -> ChatCompletion:
    """Return the chat completion in *body*, with one choice at least and a whole answer in it; raise AnswerError."""
    try:
        completion = _decode_completion(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        completion = _repaired(body, ChatCompletion, exc)
    if not completion.choices:
        raise AnswerError("no chat completion: choices is empty")
    finish = completion.choices[0].finish_reason
    if openai_finish(finish) is None:
        raise UnfinishedAnswerError(f"ended its answer with finish_reason {finish!r}, before the answer was whole")
    return completion


def _repaired(data: bytes, kind: type[Schema], cause: Exception) -> Schema:
    try:
        return msgspec.convert(repair.completion(data), kind)
    except (ValueError, msgspec.MsgspecError):
        raise AnswerError(f"no chat completion: {cause}") from cause
