"""Errors in a response of status 200 that come before any content: the attempt has failed, and is retried.

Until content has come, the client has been sent nothing. Anthropic's `error` event, OpenRouter's `{"error": ...}` and a
`finish_reason` of `error` come so.
"""

from typing import Final

from llmproxy.gateway.errors import UpstreamError
from llmproxy.gateway.requests.retry_policy import is_retried
from llmproxy.gateway.requests.upstream_response import UpstreamResponse
from llmproxy.protocols.events import AnswerFailure, event_failure, has_content
from llmproxy.protocols.sse import EventReader, event_data

MAX_MESSAGE: Final = 2000
"""Characters of a server's message."""
MAX_PREFIX: Final = 64 << 10
"""Bytes of a stream that are read for its first content."""


class AnswerFailedError(UpstreamError):
    """The server's own error, in its words and with its status."""

    def __init__(self, failure: AnswerFailure) -> None:
        super().__init__(failure.message[:MAX_MESSAGE])
        self.status = failure.status

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
    failure = None if body is None else event_failure(body)
    return None if failure is None else AnswerFailedError(failure)


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
            if (failure := event_failure(data)) is not None:
                return AnswerFailedError(failure)
            if has_content(data):
                connection.release_first_byte()
                return None
    connection.release_first_byte()
    return None
