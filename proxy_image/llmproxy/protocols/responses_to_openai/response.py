"""A response of the Responses API from a chat completion. Pure: time is given."""

from llmproxy.protocols import usage
from llmproxy.protocols.json_fields import Fields, Json, encode
from llmproxy.protocols.openai_schemas import CompletionChoice, read_completion
from llmproxy.protocols.responses_to_openai.items import (
    ResponseFields,
    last_status,
    refusal_part,
    text_part,
)
from llmproxy.protocols.stop_reasons import openai_finish


def from_chat(body: bytes, fields: Fields, created_s: int) -> tuple[bytes, int]:
    """Return the response in a chat completion, and the tokens it used; *fields* are the request's.

    Raise AnswerError if *body* is none.
    """
    completion = read_completion(body)
    choice = completion.choices[0]
    head = ResponseFields(fields, completion.id, completion.model, created_s)
    counts = usage.read_chat(completion.usage)
    response = head.response(
        _output(head, choice), finish=openai_finish(choice.finish_reason), usage=usage.to_responses(counts)
    )
    return encode(response), counts.total if counts is not None else 0


def _output(head: ResponseFields, choice: CompletionChoice) -> list[Json]:
    message = choice.message
    items: list[Json] = []
    thought = message.thought
    if thought or message.thinking_blocks:
        items.append(head.reasoning(thought, message.thinking_blocks or ()))
    parts = []
    if message.content:
        parts.append(text_part(message.content, choice.logprobs.content if choice.logprobs is not None else None))
    if message.refusal:
        parts.append(refusal_part(message.refusal))
    calls = message.tool_calls or ()
    if parts or not calls:
        status = "completed" if calls else last_status(openai_finish(choice.finish_reason))
        items.append(head.message(parts or [text_part("")], status=status, index=len(items)))
    for number, call in enumerate(calls):
        function = call.function
        status = last_status(openai_finish(choice.finish_reason)) if number == len(calls) - 1 else "completed"
        items.append(head.call(number, call.id, function.name or "", function.arguments or "", status=status))
    return items
