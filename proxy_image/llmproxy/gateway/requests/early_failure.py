"""Errors in a response of status 200 that come before any content: the attempt has failed, and is retried.

Until content has come, the client has been sent nothing. Anthropic's `error` event, OpenRouter's `{"error": ...}` and a
`finish_reason` of `error` come so.
"""

from typing import Any, Final

import msgspec

from llmproxy.gateway.errors import UpstreamError
from llmproxy.gateway.requests.retry_policy import is_retried
from llmproxy.gateway.requests.upstream_response import UpstreamResponse
from llmproxy.protocols.sse import EventReader, event_data

MAX_MESSAGE: Final = 2000
"""Characters of a server's message."""
_STATUS: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "overloaded_error": 529,
}
"""Anthropic's types."""
_BEFORE_CONTENT: Final = frozenset({
    *("message_start", "ping", "content_block_start", "content_block_stop"),
    *("response.created", "response.queued", "response.in_progress"),
    *("response.output_item.added", "response.content_part.added", "keepalive"),
})  # fmt: skip
MAX_PREFIX: Final = 64 << 10
"""Bytes of a stream that are read for its first content."""


class AnswerFailedError(UpstreamError):
    """The server's own error, in its words and with its status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status

    @property
    def is_retried(self) -> bool:
        """Return True when another attempt may succeed."""
        return is_retried(self.status)


async def find_failure(response: UpstreamResponse) -> AnswerFailedError | None:
    """Return the error before any content, None without one; raise UpstreamFailure for a stream without content.

    Bytes of a stream that are read for it stay in `prefix`. Of a whole response only one that is here is looked at:
    it is read to its end before anything of it is sent, but a failure on the way is none of the first byte's.
    """
    if b"content-encoding" in response.headers:
        return None
    if response.headers.get(b"content-type", b"")[:17].lower() == b"text/event-stream":
        return await _find_in_stream(response)
    body = response.body = response.connection.whole()
    return _failure(_object(body)) if body is not None and b"error" in body else None


async def _find_in_stream(response: UpstreamResponse) -> AnswerFailedError | None:
    connection = response.connection
    reader = EventReader()
    size = 0
    connection.hold_first_byte()  # comments are no bytes of an answer
    while size < MAX_PREFIX:
        data = await connection.read()
        if not data:
            break
        response.prefix.append(data)
        size += len(data)
        for event in reader.feed(data):
            data = event_data(event)
            content = _object(data)
            failure = _failure(content)
            if failure is not None:
                return failure
            if _has_content(content) or (content is None and data.strip()):
                connection.release_first_byte()
                return None
    connection.release_first_byte()
    return None


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        content = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return content if isinstance(content, dict) else None


def _failure(content: dict[str, Any] | None) -> AnswerFailedError | None:
    """Return the error in an event or a whole response."""
    if content is None:
        return None
    response = content.get("response")
    if content.get("type") == "response.failed" and isinstance(response, dict):
        content = response
    choices = content.get("choices")
    error = content.get("error")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and choice.get("finish_reason") == "error":
            error = error or choice.get("error") or "the model server ended its answer with an error"
    if not error and content.get("type") != "error":
        return None
    error = error or content
    message = error.get("message") if isinstance(error, dict) else error
    return AnswerFailedError(str(message or "the model server failed in its answer")[:MAX_MESSAGE], _status(error))


def _status(error: object) -> int:
    for name in ("code", "status") if isinstance(error, dict) else ():
        code = str(error[name]) if isinstance(error, dict) and name in error else ""
        if code.isdecimal() and 400 <= int(code) < 600:  # noqa: PLR2004
            return int(code)
    kind = str(error.get("type", "")) if isinstance(error, dict) else ""
    return _STATUS.get(kind, AnswerFailedError.status)


def _has_content(event: dict[str, Any] | None) -> bool:
    """Return True for an event of which a client keeps something; a role and empty deltas are nothing."""
    if event is None:
        return False
    choices = event.get("choices")
    if isinstance(choices, list):
        return any(_choice_has_content(choice) for choice in choices if isinstance(choice, dict))
    kind = event.get("type")
    return isinstance(kind, str) and kind not in _BEFORE_CONTENT


def _choice_has_content(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta")
    deltas = delta.items() if isinstance(delta, dict) else ()
    return bool(choice.get("text") or choice.get("finish_reason")) or any(
        value for name, value in deltas if name != "role"
    )
