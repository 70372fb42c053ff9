"""HTTP/1.1 server: connections on asyncio.Protocol and httptools, whole requests in, responses out.

An ASGI server takes a third of a request's time. Heads, bodies, connections and the time of a slow client are bounded
here. A request goes to the handler when its body is whole; the next one on a connection waits until the response before
it has been written.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final, cast
from urllib.parse import unquote

import httptools

from llmproxy.gateway.errors import (
    BadRequestError,
    BusyError,
    CallError,
    Header,
    HeadTooLargeError,
    SlowRequestError,
    TooLargeError,
)
from llmproxy.gateway.http.exchange import JSON, HttpExchange, HttpRequest

MAX_HEAD = 64 << 10
"""Bytes of a request's head, and of trailers, which nobody reads."""
MAX_BODY = 32 << 20
"""Bytes of a request's body: images in base64 are large, gigabytes are an attack."""
HEAD_S = 30.0
BODY_S = 120.0
IDLE_S = 75.0
"""Longer than clients keep idle connections (5 to 60 s): the client closes first, so no request meets a closed one."""
WRITE_S = 120.0
"""Time of a client to read on, once more of a response waits than the kernel and the transport buffer."""
LINGER_S = 5.0
"""A connection stays open so long after an error: a client that still sends reads the response first."""
TICK_S = 1.0
CANCEL_S = 1.0
"""Time of cancelled calls to tell their clients."""
_STATUS: Final = {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}
log = logging.getLogger("llmproxy.gateway")

Handler = Callable[[HttpExchange], Coroutine[Any, Any, None]]
ErrorHandler = Callable[[CallError, str, list[Header]], bytes]
"""Gets an error, and path and head of the request as far as they are here; returns the body of the response."""


class ServerConnection(asyncio.Protocol):
    """One connection of a client."""

    __slots__ = (
        "_body", "_chunked", "_closing", "_exchange", "_expects_continue", "_head_bytes", "_headers",
        "_is_11", "_keep", "_lines", "_parser", "_pipelined", "_server", "_size", "_task", "_transport", "_url",
        "_writable", "deadline",
    )  # fmt: skip

    def __init__(self, server: "HttpServer") -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._pipelined: deque[tuple[HttpRequest, bool, bool]] = deque()
        self._exchange: HttpExchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._keep = True
        self._is_11 = True
        self._closing = False
        self._chunked = False
        self._head_bytes = 0
        """Bytes of an unfinished head, or since the last part of its body; 0 between requests."""
        self._expects_continue = False
        """The client waits for `100 Continue`."""
        self._url = b""
        self._headers: list[Header] = []
        self._lines = self._headers
        """Receives header lines: of the head, then of trailers."""
        self._body: list[bytes] = []
        self._size = 0
        self.deadline = 0.0
        """Time by which the client must act, by the loop's clock; 0 while it waits for a response."""

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register with the server, unless it has too many connections."""
        self._transport = cast("asyncio.Transport", transport)
        server = self._server
        self.deadline = server.loop.time() + HEAD_S
        server.connections.add(self)
        if len(server.connections) > server.max_connections:
            server.log_full()
            self._fail(BusyError(f"there are {server.max_connections} connections already: try again later"))

    def data_received(self, data: bytes) -> None:
        """Parse the bytes."""
        if self._closing:
            return
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._keep = False  # the request is answered as HTTP/1.1
        except httptools.HttpParserError as exc:
            self._fail(BadRequestError(f"this is not HTTP/1.1: {exc}"))
        if self._head_bytes > MAX_HEAD:
            self._fail(HeadTooLargeError(f"a request's head, or its trailers, have more than {MAX_HEAD} bytes"))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason makes no difference
        """Cancel the request whose client has disconnected."""
        self._server.connections.discard(self)
        self._pipelined.clear()
        if self._exchange is not None:
            self._exchange.on_disconnect()
            self._exchange = None
        if self._task is not None and not self._task.done():
            self._server.keep_until_done(self._task)
        self.resume_writing()

    def pause_writing(self) -> None:
        """Make the response wait: the client reads slower than it comes."""
        if self._writable is None:
            loop = self._server.loop
            self._writable = loop.create_future()
            self.deadline = loop.time() + WRITE_S

    def resume_writing(self) -> None:
        """Let the response go on."""
        if self._writable is not None:
            if not self._writable.done():
                self._writable.set_result(None)
            self._writable = None
            self.deadline = 0.0 if self._exchange is not None else self._server.loop.time() + IDLE_S

    # -- httptools

    def on_message_begin(self) -> None:
        """Start a request."""
        self._url = b""
        self._headers = self._lines = []
        self._body = []
        self._size = 0
        if self._exchange is None:
            self.deadline = self._server.loop.time() + HEAD_S

    def on_url(self, url: bytes) -> None:
        """Store a part of the address."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a line of the head."""
        self._lines.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Read the head."""
        self._head_bytes = 1
        self._lines = []
        self._expects_continue = _expects_continue(self._headers) and self._parser.get_http_version() == "1.1"
        if self._exchange is None:
            self._expect_body()

    def _expect_body(self) -> None:
        """Start the time of the body; send `100 Continue` to a client that waits for it."""
        self.deadline = self._server.loop.time() + BODY_S
        if self._expects_continue:
            self._expects_continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        """Store a part of the body."""
        self._head_bytes = 1
        self._size += len(data)
        if self._size <= MAX_BODY:
            self._body.append(data)
        else:
            self._fail(TooLargeError(f"the body has more than {MAX_BODY} bytes, the most this gateway reads"))

    def on_message_complete(self) -> None:
        """Pass the whole request to the handler, or queue it behind the one before."""
        self._head_bytes = 0
        self._expects_continue = False
        if self._closing:
            return
        parser = self._parser
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        request = HttpRequest(parser.get_method().decode(), read_path(self._url), self._headers, body)
        is_11 = parser.get_http_version() == "1.1"
        pipelined = (request, is_11, is_11 and parser.should_keep_alive())  # the parser knows that only in here
        if self._exchange is None:
            self._start(*pipelined)
        else:
            self._pipelined.append(pipelined)
            self._transport.pause_reading()

    # -- requests, one after the other

    def _start(self, request: HttpRequest, is_11: bool, keep: bool) -> None:  # noqa: FBT001 - a tuple of the queue
        self.deadline = 0.0
        self._is_11 = is_11
        self._keep = self._keep and keep
        exchange = self._exchange = HttpExchange(request, self)
        self._task = exchange.task = self._server.loop.create_task(self._server.handler(exchange))

    def _done(self) -> None:
        """Close after a response, or start the next request."""
        self._exchange = None
        if not self._keep or self._server.draining:
            self.deadline = self._server.loop.time() + WRITE_S
            self._transport.close()
        elif self._pipelined:
            pipelined = self._pipelined.popleft()
            if not self._pipelined:
                self._transport.resume_reading()
            self._start(*pipelined)
        elif self._expects_continue:
            self._expect_body()
        else:
            self.deadline = self._server.loop.time() + IDLE_S

    def _fail(self, error: CallError) -> None:
        """Answer a request that cannot be read with *error*, and read no more."""
        if self._closing:
            return
        self._closing = True
        self._keep = False
        self._body = []
        self._pipelined.clear()
        if self._exchange is not None:
            return  # the request before it is answered, then the connection closes
        body = self._server.error_handler(error, read_path(self._url), self._headers)
        self._write_whole(error.status, (JSON, *error.headers), body)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self.deadline = self._server.loop.time() + LINGER_S

    # -- for the server

    @property
    def is_idle(self) -> bool:
        """True between requests."""
        return self._exchange is None and not self._head_bytes

    def expire(self) -> None:
        """Close: the client took too long."""
        if self._closing or self._writable is not None or self._transport.is_closing():
            self._transport.abort()
        elif self.is_idle:
            self._transport.close()
        else:
            self._fail(SlowRequestError("the request did not come in time"))

    def cancel(self) -> None:
        """Cancel the request in flight."""
        if self._task is not None:
            self._task.cancel()

    # -- the response

    def respond(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """Write a whole response."""
        self._write_whole(status, headers, body)
        self._done()

    def _write_whole(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        exchange = self._exchange
        parts = [self._status_line(status)]
        parts.extend([b"%b: %b\r\n" % header for header in headers])
        parts.append(b"content-length: %d\r\n\r\n" % len(body))
        if exchange is None or exchange.request.method != "HEAD":
            parts.append(body)
        self._transport.write(b"".join(parts))

    def begin(self, status: int, headers: Sequence[Header]) -> None:
        """Write the head of a response that comes in parts."""
        self._chunked = self._is_11
        parts = [self._status_line(status)]
        parts.extend([b"%b: %b\r\n" % header for header in headers])
        parts.append(b"transfer-encoding: chunked\r\n\r\n" if self._chunked else b"\r\n")
        self._transport.write(b"".join(parts))

    def part(self, data: bytes) -> Awaitable[None] | None:
        """Write a part; return what to wait for before the next one, if the client is slow."""
        if data:
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        return self._writable

    def end(self, data: bytes) -> None:
        """Write the last part."""
        self.part(data)
        if self._chunked:
            self._transport.write(b"0\r\n\r\n")
        else:
            self._keep = False
        self._done()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def _status_line(self, status: int) -> bytes:
        line = _STATUS.get(status) or b"HTTP/1.1 %d \r\n" % status
        keep = self._keep and not self._server.draining
        return line + (self._server.date if keep else self._server.date + b"connection: close\r\n")


class HttpServer:
    """All connections of a port. `start`, then `drain`."""

    def __init__(self, handler: Handler, error_handler: ErrorHandler, *, max_connections: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.handler = handler
        self.error_handler = error_handler
        self.max_connections = max_connections
        self.connections: set[ServerConnection] = set()
        self.draining = False
        self.date = b""
        self._is_full = False
        self._detached: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tick()

    async def start(self, listener: socket.socket, backlog: int) -> None:
        """Accept connections."""
        self._server = await self.loop.create_server(lambda: ServerConnection(self), sock=listener, backlog=backlog)

    async def drain(self, linger_s: float, grace_s: float) -> None:
        """End: no new connections; open ones take one more request, calls in flight go on for *grace_s*."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        await self._wait_until_empty(linger_s)
        for connection in [c for c in self.connections if c.is_idle]:
            connection.expire()
        await self._wait_until_empty(grace_s)
        if self.connections:
            log.error("calls_cancelled", extra={"calls": len(self.connections)})
        for connection in list(self.connections):
            connection.cancel()
        await self._wait_until_empty(CANCEL_S)
        for connection in list(self.connections):
            connection.abort()
        if self._timer is not None:
            self._timer.cancel()

    def keep_until_done(self, task: asyncio.Task[None]) -> None:
        """Hold a task whose connection is closed: nothing else does."""
        self._detached.add(task)
        task.add_done_callback(self._detached.discard)

    def log_full(self) -> None:
        """Log that there are too many connections: once, until a tenth of them has closed."""
        if not self._is_full:
            self._is_full = True
            log.warning("connection_limit_reached", extra={"connections": self.max_connections})

    async def _wait_until_empty(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.connections or self._detached:  # noqa: ASYNC110 - at the end only
                    await asyncio.sleep(0.02)

    def _tick(self) -> None:
        """Each second: update the date of responses, expire slow clients."""
        self._timer = self.loop.call_later(TICK_S, self._tick)
        self.date = b"date: %b\r\n" % formatdate(time.time(), usegmt=True).encode()
        now = self.loop.time()
        self._is_full = self._is_full and len(self.connections) > self.max_connections * 0.9
        for connection in [c for c in self.connections if 0 < c.deadline < now]:
            connection.expire()


def _expects_continue(headers: list[Header]) -> bool:
    """Return True when the client waits for `100 Continue`."""
    for name, value in headers:  # noqa: SIM110 - `any` costs a generator for each request
        if name == b"expect" and value.lower() == b"100-continue":
            return True
    return False


def read_path(url: bytes) -> str:
    """Return the path of a request's address, decoded, without its query."""
    if not url.startswith(b"/"):
        try:
            url = httptools.parse_url(url).path or b"/"
        except httptools.HttpParserInvalidURLError:
            return ""
    path = url.partition(b"?")[0].decode("latin-1")
    return unquote(path) if "%" in path else path
