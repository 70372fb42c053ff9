"""A response of the Responses API from a chat completion. Pure: time is given."""

import msgspec

from llmproxy.protocols.openai_schemas import AnswerError, Head, Message
from llmproxy.protocols.responses_to_openai.items import (
    Heading,
    Logprobs,
    last_status,
    refusal_part,
    text_part,
    usage_of,
)
from llmproxy.protocols.sse import Fields, Json, encode


class _Message(Message):
    thinking_blocks: list[Json] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class _Answer(Head):
    choices: list[_Choice]


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
    thought = message.thought
    if thought or message.thinking_blocks:
        made.append(heading.reasoning(thought, message.thinking_blocks or ()))
    parts = []
    if message.content:
        parts.append(text_part(message.content, choice.logprobs.content if choice.logprobs is not None else None))
    if message.refusal:
        parts.append(refusal_part(message.refusal))
    calls = message.tool_calls or ()
    if parts or not calls:
        status = "completed" if calls else last_status(choice.finish_reason)
        made.append(heading.message(parts or [text_part("")], status=status, index=len(made)))
    for number, call in enumerate(calls):
        function = call.function
        status = last_status(choice.finish_reason) if number == len(calls) - 1 else "completed"
        made.append(heading.call(number, call.id, function.name or "", function.arguments or "", status=status))
    return made
