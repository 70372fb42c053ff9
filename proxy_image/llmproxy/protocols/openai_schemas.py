"""A chat completion as an upstream sends it, whole and in chunks: what every mapping of one reads. Pure.

A mapping adds to these shapes what it alone reads, in its own module.
"""

from typing import Any

import msgspec

from llmproxy.protocols.stop_reasons import ChatUsage


class AnswerError(Exception):
    """An upstream's answer is none of its protocol."""


class Function(msgspec.Struct):
    """A function that is called, or a piece of one."""

    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct):
    """A call of a tool."""

    id: str | None = None
    function: Function = msgspec.field(default_factory=Function)


class ToolCallPiece(msgspec.Struct):
    """A call of a tool on its way."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None

    def number(self, begun: int) -> int:
        """Return which call it belongs to, *begun* being how many have: an unnumbered one with an id is the next."""
        if self.index is not None:
            return self.index
        return begun if self.id or not begun else begun - 1


class Words(msgspec.Struct):
    """What a model says and thinks, in a message or a piece of one."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    refusal: str | None = None

    @property
    def thought(self) -> str:
        """The reasoning: `reasoning_content` at vLLM and DeepSeek, `reasoning` at OpenRouter and newer vLLM."""
        return self.reasoning_content or (self.reasoning if isinstance(self.reasoning, str) else "")


class Message(Words):
    """A message."""

    tool_calls: list[ToolCall] | None = None


class Delta(Words):
    """A piece of a message."""

    tool_calls: list[ToolCallPiece] | None = None


class Head(msgspec.Struct, kw_only=True):
    """What stands beside the choices, in an answer and in a chunk."""

    id: str | None = None
    model: str | None = None
    usage: ChatUsage | None = None


class Choice(msgspec.Struct):
    """A choice in a chunk."""

    index: int = 0
    delta: Delta | None = None
    finish_reason: str | None = None
    stop_reason: Any = None
    """vLLM's: the stop sequence that ended the answer."""


class Chunk(Head):
    """A chunk of a stream."""

    choices: list[Choice] | None = None
    error: Any = None
