"""HTTP transport of litellm to a provider: httpx, with the escapes of `escapes`, and a trace of each call.

litellm reaches it through httpx's own seam for transports. Status, headers, an error's body and a broken
connection stand in `UpstreamTrace`, because litellm's exceptions lose them.
"""

import contextlib
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass, field

import httpx

from llmproxy.translator.escapes import StreamEscaper, is_text

NO_KEY = "llmproxy-sends-no-key"
"""Stands for the key where a deployment has none, since litellm insists on one; headers with it are not sent."""
MAX_ERROR_BODY = 1 << 20
"""Bytes of an error's body that are read."""
MAX_CONNECTIONS = 1000
KEEPALIVE_CONNECTIONS = 100

_BAD_REQUEST = 400
_RECODED = {"content-encoding", "content-length", "transfer-encoding", "location"}
"""Headers that are not passed on: bodies are decoded here, and a redirect would carry the key to wherever it points."""


@dataclass
class UpstreamTrace:
    """Status, headers and failure of one call at the provider."""

    status: int = 0
    """Of the last answer; 0: there was none."""
    headers: dict[str, str] = field(default_factory=dict)
    error_body: bytes = b""
    failure: str = ""
    """Why there was no whole answer: `timeout`, or in words."""
    responses: list[httpx.Response] = field(default_factory=list)

    async def close(self) -> None:
        """Hang up whatever is still open: a call that was given up must not go on at the provider."""
        for response in self.responses:
            with contextlib.suppress(httpx.HTTPError, RuntimeError):
                await response.aclose()


TRACE: ContextVar[UpstreamTrace] = ContextVar("TRACE")
"""Of the call that is running: litellm makes the request in the task of the call, at the latest at its first chunk."""


class Transport(httpx.AsyncBaseTransport):  # type: ignore[misc]  # httpx is in the translator's environment only
    """One for the process; it keeps connections."""

    def __init__(self) -> None:
        limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=KEEPALIVE_CONNECTIONS)
        self._inner = httpx.AsyncHTTPTransport(limits=limits, retries=0)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send *request* once."""
        trace = TRACE.get(None) or UpstreamTrace()  # a client of litellm's own may ask for a token in a task of its own
        request.headers["accept-encoding"] = "identity"  # bytes are escaped as they come
        for name in [name for name, value in request.headers.items() if NO_KEY in value]:
            del request.headers[name]
        try:
            response = await self._inner.handle_async_request(request)
        except httpx.TimeoutException:
            trace.failure = "timeout"
            raise
        except httpx.TransportError as exc:
            trace.failure = f"cannot be reached: {exc or type(exc).__name__}"
            # litellm sends a request again after ConnectError and RemoteProtocolError; tries are the gateway's.
            raise httpx.NetworkError(trace.failure) from exc
        trace.responses.append(response)
        trace.status, trace.headers = response.status_code, dict(response.headers)
        headers = [(name, value) for name, value in response.headers.multi_items() if name not in _RECODED]
        if response.status_code >= _BAD_REQUEST:
            trace.error_body = await _read(response)
            return httpx.Response(response.status_code, headers=headers, content=trace.error_body)
        return httpx.Response(response.status_code, headers=headers, stream=_EscapedBody(response, trace))

    async def aclose(self) -> None:
        """Stay open: litellm closes clients of its own that share this transport."""

    async def close(self) -> None:
        """Close every connection."""
        await self._inner.aclose()


class _EscapedBody(httpx.AsyncByteStream):  # type: ignore[misc]  # as above
    """The body of an answer, decoded; text is escaped."""

    def __init__(self, response: httpx.Response, trace: UpstreamTrace) -> None:
        self._response = response
        self._trace = trace

    async def __aiter__(self) -> AsyncIterator[bytes]:
        escaper = StreamEscaper() if is_text(self._response.headers.get("content-type", "")) else None
        try:
            async for data in self._response.aiter_bytes():
                if text := data if escaper is None else escaper.feed(data):
                    yield text
        except httpx.TimeoutException:
            self._trace.failure = "timeout"
            raise
        except httpx.HTTPError as exc:
            self._trace.failure = f"broke its answer off: {exc or type(exc).__name__}"
            raise
        if escaper is not None and (rest := escaper.rest()):
            yield rest

    async def aclose(self) -> None:
        await self._response.aclose()


async def _read(response: httpx.Response) -> bytes:
    body = b""
    with contextlib.suppress(httpx.HTTPError):
        async for data in response.aiter_bytes():
            body += data
            if len(body) > MAX_ERROR_BODY:
                break
    await response.aclose()
    return body[:MAX_ERROR_BODY]
