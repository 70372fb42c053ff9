"""Decisions on the events of a stream, of all three protocols: has content, is an error. Pure.

A server may answer 200 and put an error into the answer: Anthropic's event `error`, OpenRouter's `{"error": ...}` and
`finish_reason: "error"`, a response that failed. Until content has come, nothing is lost by another attempt.
"""

from typing import Any, NamedTuple

import msgspec

from llmproxy.protocols import repair
from llmproxy.protocols.errors import error_status, message_of
from llmproxy.protocols.json_fields import decode

_BEFORE_CONTENT = frozenset({
    *("message_start", "ping", "content_block_stop", "error"),
    *("response.created", "response.queued", "response.in_progress", "response.failed", "response.output_item.added"),
    *("response.content_part.added", "response.reasoning_summary_part.added", "keepalive"),
})  # fmt: skip


class AnswerFailure(NamedTuple):
    """An error in an answer that began as a good one."""

    message: str
    status: int


def has_content(data: bytes) -> bool:
    """Return True for an event of which a client keeps something: comments, pings and empty deltas have no content."""
    event = _object(data)
    if event is None:
        return data.strip() not in {b"", b"[DONE]"}
    if event.get("error"):
        return False
    choices = event.get("choices")
    if isinstance(choices, list):
        return any(_choice_has_content(choice) for choice in choices if isinstance(choice, dict))
    kind = event.get("type")
    if kind == "content_block_start":
        block = event.get("content_block")
        return isinstance(block, dict) and bool(block.get("text") or block.get("thinking") or block.get("name"))
    return isinstance(kind, str) and kind not in _BEFORE_CONTENT


def event_failure(data: bytes) -> AnswerFailure | None:
    """Return the error in an event, or in a whole answer of status 200; None if there is none."""
    answer = _object(data) if b"error" in data or b"failed" in data else None
    return None if answer is None else _failure(answer)


def _failure(answer: dict[str, Any]) -> AnswerFailure | None:
    response = answer.get("response")
    if answer.get("type") == "response.failed" and isinstance(response, dict):
        return _of(response.get("error"))
    if answer.get("object") == "response":
        return _of(answer.get("error")) if answer.get("status") == "failed" else None
    if answer.get("error") or answer.get("type") == "error":
        return _of(answer.get("error") or answer)
    choices = answer.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and choice.get("finish_reason") == "error":
            return _of(choice.get("error"))
    return None


def _of(error: object) -> AnswerFailure:
    return AnswerFailure(message_of(error) or "the model server failed in its answer", error_status(error))


def _choice_has_content(choice: dict[str, Any]) -> bool:
    if choice.get("text") or (choice.get("finish_reason") or "error") != "error":
        return True
    delta = choice.get("delta")
    return isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role")


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        content = decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        try:
            content = repair.parse(data)
        except ValueError:
            return None
    return content if isinstance(content, dict) else None
