"""A response of the Responses API from a chat completion. Pure: time is given."""

from typing import Any

import msgspec

from llmproxy.anthropic import outcome
from llmproxy.anthropic.messages_answer import AnswerError, thought_of
from llmproxy.anthropic.wire import Fields, Json, encode
from llmproxy.responses.made import Heading, refusal_part, text_part, usage_of


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
    thinking_blocks: list[Json] | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Logprobs(msgspec.Struct):
    content: list[Json] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice]
    id: str | None = None
    model: str | None = None
    usage: outcome.ChatUsage | None = None


_decode = msgspec.json.Decoder(_Answer).decode


def from_chat(body: bytes, fields: Fields, created_s: int) -> tuple[bytes, int]:
    """Return the response in a chat completion, and the tokens it used; *fields* are the request's.

    Raise AnswerError if *body* is none.
    """
    try:
        answer = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise AnswerError(f"no chat completion: {exc}") from exc
    if not answer.choices:
        raise AnswerError("no chat completion: choices is empty")
    choice = answer.choices[0]
    heading = Heading(fields, answer.id, answer.model, created_s)
    usage = usage_of(answer.usage)
    response = heading.response(_output(heading, choice), finish=choice.finish_reason or "stop", usage=usage)
    return encode(response), usage["total_tokens"] if usage is not None else 0


def _output(heading: Heading, choice: _Choice) -> list[Json]:
    message = choice.message
    made: list[Json] = []
    thought = thought_of(message.reasoning_content, message.reasoning)
    if thought or message.thinking_blocks:
        made.append(heading.reasoning(thought or "", message.thinking_blocks or ()))
    parts = []
    if message.content:
        parts.append(text_part(message.content, choice.logprobs.content if choice.logprobs is not None else None))
    if message.refusal:
        parts.append(refusal_part(message.refusal))
    calls = message.tool_calls or ()
    if parts or not calls:
        made.append(heading.message(parts or [text_part("")]))
    for number, call in enumerate(calls):
        function = call.function
        made.append(heading.call(number, call.id, function.name or "", function.arguments or ""))
    return made
