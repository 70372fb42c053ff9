"""HTTP/1.1 server: connections on asyncio.Protocol and httptools, whole requests in, responses out.

An ASGI server takes a third of a request's time. Heads, bodies, connections and the time of a slow client are bounded
here. A request goes to the handler when its body is whole; the next one on a connection waits until the response before
it has been written.
"""

import asyncio
import contextlib
import logging
import re
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
    OverloadedError,
    SlowRequestError,
    TooLargeError,
    VersionError,
    retry_after,
)
from llmproxy.gateway.http.exchange import JSON, ByteBudget, HttpExchange, HttpRequest

MAX_HEAD = 64 << 10
"""Bytes of a request's head, and of trailers, which nobody reads."""
MAX_BODY = 32 << 20
"""Bytes of a request's body: images in base64 are large, gigabytes are an attack."""
MAX_LINES: Final = 200
"""Lines of a head: each takes some 200 bytes of memory besides its own."""
HEAD_S = 30.0
BODY_S = 120.0
IDLE_S = 75.0
"""Longer than clients keep idle connections (5 to 60 s): the client closes first, so no request meets a closed one."""
WRITE_S = 120.0
"""Time of a client to read on, once more of a response waits than the kernel and the transport buffer."""
LINGER_S = 5.0
"""A connection stays open so long after an error: a client that still sends reads the response first."""
MAX_REFUSED: Final = 64
"""Connections above the most that get an error; further ones are closed at once."""
MAX_PIPELINED: Final = 8
"""Requests that wait on a connection; above it reading pauses, and a client that disconnects is not noticed."""
TICK_S = 1.0
CANCEL_S = 1.0
"""Time of cancelled calls to tell their clients."""
_STATUS: Final = {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}
_HOST: Final = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]+")
"""RFC 9110, 7.2: a host and a port."""
_BLANK: Final = 0x20
_HOP: Final = frozenset({b"upgrade", b"http2-settings"})
log = logging.getLogger("llmproxy.gateway")

Handler = Callable[[HttpExchange], Coroutine[Any, Any, None]]
ErrorHandler = Callable[[CallError, str, list[Header]], bytes]
"""Gets an error, and path and head of the request as far as they are here; returns the body of the response."""
HeadCheck = Callable[[str, str, list[Header]], None]
"""Gets method, path and head of a request before its body is read; raises CallError to refuse it."""


class ServerConnection(asyncio.Protocol):
    """One connection of a client."""

    __slots__ = (
        "_active_bytes", "_awaits_body", "_body", "_charged", "_chunked", "_closing", "_coding", "_content_length",
        "_exchange",
        "_expects_continue", "_head_bytes", "_headers", "_hosts", "_is_11", "_keep", "_line_bytes", "_lines", "_parser",
        "_pipelined", "_server", "_size", "_task", "_transport", "_upgrade", "_url", "_version", "_writable",
        "deadline",
    )  # fmt: skip

    def __init__(self, server: "HttpServer") -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._pipelined: deque[tuple[HttpRequest, bool, bool, int]] = deque()
        self._exchange: HttpExchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._charged = 0
        """Bytes of the budget for the request that is being read."""
        self._active_bytes = 0
        """Bytes of the budget for the request in flight."""
        self._awaits_body = False
        """The head is complete, the body is not, and the head has not been checked."""
        self._hosts = 0
        self._line_bytes = 0
        self._content_length = 0
        self._coding = b""
        self._upgrade = False
        self._version = "1.1"
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
        server.connections[self] = None
        if len(server.connections) > server.max_connections:
            server.make_room(self)

    def refuse(self) -> None:
        """Answer that there are too many connections."""
        most = self._server.max_connections
        error = BusyError(f"there are {most} connections already: try again later", headers=retry_after(1.0))
        self._fail(error)

    def data_received(self, data: bytes) -> None:
        """Parse the bytes."""
        if self._closing:
            return
        size = len(data)
        if not self._server.budget.take(size):
            self._fail(OverloadedError())
            return
        self._charged += size
        self._head_bytes += size
        self._feed(data)
        if self._head_bytes > MAX_HEAD:
            self._fail(HeadTooLargeError(f"a request's head, or its trailers, have more than {MAX_HEAD} bytes"))
        elif self._awaits_body and not self._closing:
            self._check_head()

    def _feed(self, data: bytes) -> None:
        """Parse bytes. A request to change the protocol is read as if it had none (RFC 9110, 7.8)."""
        while True:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as exc:
                if not self._upgrade or self._closing:
                    self._keep = False  # CONNECT: answered as any other method
                    return
                # llhttp ends the message at the head: another parser reads it, without the upgrade.
                data = self._head_without_upgrade() + data[exc.args[0] :]
                self._parser = httptools.HttpRequestParser(self)
                continue
            except httptools.HttpParserError as exc:
                self._fail(BadRequestError(f"this is not HTTP/1.1: {exc}"))
            return

    def _head_without_upgrade(self) -> bytes:
        parts = [b"%b %b HTTP/1.1\r\n" % (self._parser.get_method(), self._url)]
        for name, value in self._headers:
            if name == b"connection":
                options = [option.strip() for option in value.split(b",")]
                parts.extend(b"connection: %b\r\n" % option for option in options if option.lower() not in _HOP)
            elif name not in _HOP:
                parts.append(b"%b: %b\r\n" % (name, value))
        return b"".join(parts) + b"\r\n"

    def _check_head(self) -> None:
        """Refuse a request by its head, before its body is read."""
        self._awaits_body = False
        server = self._server
        try:
            if self._content_length > server.max_body:
                raise _too_large(server.max_body)
            if server.check_head is not None:
                method = self._parser.get_method().decode()
                server.check_head(method, read_path(self._url), self._headers)
        except CallError as error:
            self._fail(error)
            return
        if self._exchange is None:
            self._expect_body()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason makes no difference
        """Cancel the request whose client has disconnected."""
        self._server.connections.pop(self, None)
        self._give_back()
        self._server.budget.give(self._active_bytes)
        self._active_bytes = 0
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
        self._size = self._hosts = self._line_bytes = self._content_length = 0
        self._upgrade = self._expects_continue = False
        self._coding = b""
        if self._exchange is None:
            self.deadline = self._server.loop.time() + HEAD_S

    def on_url(self, url: bytes) -> None:
        """Store a part of the address."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: C901 - each costs a call otherwise
        """Store a line of the head."""
        name = name.lower()
        length = len(name)
        if value and value[-1] <= _BLANK:
            value = value.rstrip()  # RFC 9110, 5.5; httptools removes blanks before it only
        lines = self._lines
        lines.append((name, value))
        self._line_bytes += length + len(value)
        if lines is not self._headers:
            if len(lines) > MAX_LINES:
                self._fail(HeadTooLargeError(f"a request's trailers have more than {MAX_LINES} lines"))
        elif length == 4:  # noqa: PLR2004 - lengths are compared first: it is cheaper
            if name == b"host":
                self._hosts += 1
        elif length == 6:  # noqa: PLR2004
            if name == b"expect":
                self._expects_continue = value.lower() == b"100-continue"
        elif length == 7:  # noqa: PLR2004
            if name == b"upgrade":
                self._upgrade = True
        elif length == 14:  # noqa: PLR2004
            if name == b"content-length":
                self._content_length = int(value)
        elif length == 16 and name == b"content-encoding":  # noqa: PLR2004
            self._coding = self._coding + b", " + value if self._coding else value

    def on_headers_complete(self) -> None:
        """Read the head."""
        self._head_bytes = 1
        self._lines = []
        self._version = self._parser.get_http_version()
        if self._version != "1.1":
            self._expects_continue = False
            if self._version != "1.0":
                self._fail(VersionError(f"HTTP/{self._version} is not served here: use HTTP/1.1"))
        if len(self._headers) > MAX_LINES:
            self._fail(HeadTooLargeError(f"a request's head has more than {MAX_LINES} lines"))
        if self._line_bytes + len(self._url) > MAX_HEAD:
            self._fail(HeadTooLargeError(f"a request's head has more than {MAX_HEAD} bytes"))
        if self._hosts != 1 or not self._is_host_valid():
            self._check_host()
        self._upgrade = self._upgrade and bool(self._parser.should_upgrade())
        self._awaits_body = not self._upgrade

    def _is_host_valid(self) -> bool:
        for name, value in self._headers:
            if name == b"host":
                if value == self._server.host:
                    return True
                if _HOST.fullmatch(value):
                    self._server.host = value
                    return True
                return False
        return False

    def _check_host(self) -> None:
        """Refuse a request without exactly one valid Host (RFC 9112, 3.2); HTTP/1.0 needs none."""
        if self._hosts > 1:
            self._fail(BadRequestError("host is there more than once: send it once"))
        elif self._hosts:
            self._fail(BadRequestError("host is no name of a host"))
        elif self._version == "1.1":
            self._fail(BadRequestError("host is missing: HTTP/1.1 needs it"))

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
        if self._size <= self._server.max_body:
            self._body.append(data)
        else:
            self._fail(_too_large(self._server.max_body))

    def on_message_complete(self) -> None:
        """Pass the whole request to the handler, or queue it behind the one before."""
        if self._upgrade and self._parser.get_method() != b"CONNECT":
            return  # `_feed` reads it again
        self._head_bytes = 0
        self._expects_continue = self._awaits_body = False
        if self._closing:
            return
        parser = self._parser
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        request = HttpRequest(
            parser.get_method().decode(), self._url, read_path(self._url), self._headers, body, self._coding
        )
        is_11 = self._version == "1.1"
        keep = is_11 and parser.should_keep_alive()  # the parser knows that only in here
        charged = self._charged
        self._charged = 0
        if self._exchange is None:
            self._start(request, is_11, keep, charged)
        else:
            self._pipelined.append((request, is_11, keep, charged))
            if len(self._pipelined) == MAX_PIPELINED:
                self._transport.pause_reading()

    # -- requests, one after the other

    def _start(self, request: HttpRequest, is_11: bool, keep: bool, charged: int) -> None:  # noqa: FBT001 - of the queue
        self.deadline = 0.0
        self._is_11 = is_11
        self._keep = self._keep and keep
        self._active_bytes = charged
        exchange = self._exchange = HttpExchange(request, self)
        self._task = exchange.task = self._server.loop.create_task(self._server.handler(exchange))

    def _done(self) -> None:
        """Close after a response, or start the next request."""
        self._exchange = None
        self._server.budget.give(self._active_bytes)
        self._active_bytes = 0
        if not self._keep or self._server.draining:
            self.deadline = self._server.loop.time() + WRITE_S
            self._transport.close()
        elif self._pipelined:
            request, is_11, keep, charged = self._pipelined.popleft()
            if len(self._pipelined) == MAX_PIPELINED - 1:
                self._transport.resume_reading()
            self._start(request, is_11, keep, charged)
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
        self._give_back()
        if self._exchange is not None:
            return  # the request before it is answered, then the connection closes
        body = self._server.error_handler(error, read_path(self._url), self._headers)
        self._write_whole(error.status, (JSON, *error.headers), body)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self.deadline = self._server.loop.time() + LINGER_S

    def _give_back(self) -> None:
        """Give the bytes of requests that are not started back to the budget."""
        charged = self._charged
        for _, _, _, size in self._pipelined:
            charged += size
        self._server.budget.give(charged)
        self._charged = 0
        self._pipelined.clear()

    # -- for the server

    @property
    def is_idle(self) -> bool:
        """True between requests."""
        return self._exchange is None and not self._head_bytes

    @property
    def is_waiting(self) -> bool:
        """True while no request is in flight."""
        return self._exchange is None

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

    def __init__(  # noqa: PLR0913 - bounds
        self,
        handler: Handler,
        error_handler: ErrorHandler,
        *,
        max_connections: int,
        budget: ByteBudget,
        max_body: int | None = None,
        check_head: HeadCheck | None = None,
        evicts: bool = False,
    ) -> None:
        """With *evicts* a connection too many replaces the oldest one without a request; else it is refused."""
        self.loop = asyncio.get_running_loop()
        self.handler = handler
        self.error_handler = error_handler
        self.max_connections = max_connections
        self.budget = budget
        self.max_body = MAX_BODY if max_body is None else max_body
        self.check_head = check_head
        self.host = b"localhost"
        """The last valid Host: it need not be matched again."""
        self.connections: dict[ServerConnection, None] = {}
        """In order of their start."""
        self._evicts = evicts
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

    def make_room(self, connection: ServerConnection) -> None:
        """Evict a connection for a new one, or refuse that."""
        self.log_full()
        waiting = [c for c in self.connections if c.is_waiting and c is not connection] if self._evicts else []
        if waiting:
            waiting[0].abort()
        elif len(self.connections) > self.max_connections + MAX_REFUSED:
            connection.abort()
        else:
            connection.refuse()

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


def _too_large(most: int) -> TooLargeError:
    return TooLargeError(f"the body has more than {most} bytes, the most this gateway reads")


def read_path(url: bytes) -> str:
    """Return the path of a request's address, decoded, without its query."""
    if not url.startswith(b"/"):
        try:
            url = httptools.parse_url(url).path or b"/"
        except httptools.HttpParserInvalidURLError:
            return ""
    path = url.partition(b"?")[0].decode("latin-1")
    return unquote(path) if "%" in path else path
