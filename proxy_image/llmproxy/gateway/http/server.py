"""HTTP/1.1 for callers: connections on asyncio.Protocol and httptools, whole requests in, answers out.

A third of a request's cost with an ASGI server was that server's; and here the bounds are ours: of heads, bodies,
connections, and of the time that a slow client may take. A request is handed on when its body is whole; the next one on
a connection waits until the answer before it has been written.
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
from llmproxy.gateway.http.exchange import JSON, Caller, Request

MAX_HEAD = 64 << 10
"""Bytes of a request's head, and of what comes without a part of its body: trailers, which nobody reads."""
MAX_BODY = 32 << 20
"""Bytes of a request's body: images in base64 are large, gigabytes are an attack."""
HEAD_S = 30.0
BODY_S = 120.0
IDLE_S = 75.0
"""Longer than clients keep theirs (5 to 60 s): they close theirs, and no request meets a closed one."""
WRITE_S = 120.0
"""How long a client may leave an answer unread, once more of it waits than the kernel and the transport hold."""
GOODBYE_S = 5.0
"""A connection whose request was refused stays open so long: a client that still sends reads its answer first."""
LOOK_S = 1.0
CUT_S = 1.0
"""How long calls that were cut may take to say so to their callers."""
_STATUS: Final = {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}
log = logging.getLogger("llmproxy.gateway")

Handle = Callable[[Caller], Coroutine[Any, Any, None]]
Refused = Callable[[CallError, str, list[Header]], bytes]
"""Gets what is known of path and head of a request that cannot be read; returns the body of its answer."""


class Connection(asyncio.Protocol):
    """One connection of a client."""

    __slots__ = (
        "_body", "_caller", "_chunked", "_expects", "_head", "_headers", "_is_11", "_keep", "_lines",
        "_parser", "_refused", "_server", "_size", "_task", "_transport", "_url", "_waiting", "_writable", "until",
    )  # fmt: skip

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._waiting: deque[tuple[Request, bool, bool]] = deque()
        self._caller: Caller | None = None
        self._task: asyncio.Task[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._keep = True
        self._is_11 = True
        self._refused = False
        self._chunked = False
        self._head = 0
        """Bytes of a head that is not whole, or since the last part of its body; 0 between requests."""
        self._expects = False
        """Whether the client waits to be told to send the body."""
        self._url = b""
        self._headers: list[Header] = []
        self._lines = self._headers
        """Where lines go: of a head, then of trailers."""
        self._body: list[bytes] = []
        self._size = 0
        self.until = 0.0
        """When the client must have done what it is to do next, by the loop's clock; 0 while it waits for an answer."""

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be one of the server's connections, unless it has too many."""
        self._transport = cast("asyncio.Transport", transport)
        server = self._server
        self.until = server.loop.time() + HEAD_S
        server.connections.add(self)
        if len(server.connections) > server.max_connections:
            server.say_full()
            self._refuse(BusyError(f"there are {server.max_connections} connections already: try again later"))

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        if self._refused:
            return
        self._head += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._keep = False  # it was answered as if it had not asked for another protocol
        except httptools.HttpParserError as exc:
            self._refuse(BadRequestError(f"this is not HTTP/1.1: {exc}"))
        if self._head > MAX_HEAD:
            self._refuse(HeadTooLargeError(f"a request's head, or its trailers, have more than {MAX_HEAD} bytes"))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why makes no difference
        """End the call whose caller has left."""
        self._server.connections.discard(self)
        self._waiting.clear()
        if self._caller is not None:
            self._caller.left()
            self._caller = None
        if self._task is not None and not self._task.done():
            self._server.keep_until_done(self._task)
        self.resume_writing()

    def pause_writing(self) -> None:
        """Have the answer wait: the client reads slower than it comes."""
        if self._writable is None:
            loop = self._server.loop
            self._writable = loop.create_future()
            self.until = loop.time() + WRITE_S

    def resume_writing(self) -> None:
        """Go on."""
        if self._writable is not None:
            if not self._writable.done():
                self._writable.set_result(None)
            self._writable = None
            self.until = 0.0 if self._caller is not None else self._server.loop.time() + IDLE_S

    # -- httptools

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._url = b""
        self._headers = self._lines = []
        self._body = []
        self._size = 0
        if self._caller is None:
            self.until = self._server.loop.time() + HEAD_S

    def on_url(self, url: bytes) -> None:
        """Keep a part of the address."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a line of the head."""
        self._lines.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._head = 1
        self._lines = []
        self._expects = _expects(self._headers) and self._parser.get_http_version() == "1.1"
        if self._caller is None:
            self._invite()

    def _invite(self) -> None:
        """Give the client time for the body, and tell it to send it if it waits for that."""
        self.until = self._server.loop.time() + BODY_S
        if self._expects:
            self._expects = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        """Keep a part of the body."""
        self._head = 1
        self._size += len(data)
        if self._size <= MAX_BODY:
            self._body.append(data)
        else:
            self._refuse(TooLargeError(f"the body has more than {MAX_BODY} bytes, the most this gateway reads"))

    def on_message_complete(self) -> None:
        """The request is whole: answer it, or let it wait for its turn."""
        self._head = 0
        self._expects = False
        if self._refused:
            return
        parser = self._parser
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        request = Request(parser.get_method().decode(), read_path(self._url), self._headers, body)
        is_11 = parser.get_http_version() == "1.1"
        turn = (request, is_11, is_11 and parser.should_keep_alive())  # the parser knows that only in here
        if self._caller is None:
            self._take(*turn)
        else:
            self._waiting.append(turn)
            self._transport.pause_reading()

    # -- requests, one after the other

    def _take(self, request: Request, is_11: bool, keep: bool) -> None:  # noqa: FBT001 - a turn
        self.until = 0.0
        self._is_11 = is_11
        self._keep = self._keep and keep
        caller = self._caller = Caller(request, self)
        self._task = caller.task = self._server.loop.create_task(self._server.handle(caller))

    def _done(self) -> None:
        """The answer is written: close, or take the next request."""
        self._caller = None
        if not self._keep or self._server.draining:
            self.until = self._server.loop.time() + WRITE_S
            self._transport.close()
        elif self._waiting:
            turn = self._waiting.popleft()
            if not self._waiting:
                self._transport.resume_reading()
            self._take(*turn)
        elif self._expects:
            self._invite()
        else:
            self.until = self._server.loop.time() + IDLE_S

    def _refuse(self, error: CallError) -> None:
        """Answer what cannot be read, and read no more of it."""
        if self._refused:
            return
        self._refused = True
        self._keep = False
        self._body = []
        self._waiting.clear()
        if self._caller is not None:
            return  # what came before it is answered, then the connection is closed
        body = self._server.refused(error, read_path(self._url), self._headers)
        self._write_whole(error.status, (JSON, *error.headers), body)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self.until = self._server.loop.time() + GOODBYE_S

    # -- what the server asks

    @property
    def is_idle(self) -> bool:
        """Whether nothing of a request is here."""
        return self._caller is None and not self._head

    def expire(self) -> None:
        """Close: the client has taken too long."""
        if self._refused or self._writable is not None or self._transport.is_closing():
            self._transport.abort()
        elif self.is_idle:
            self._transport.close()
        else:
            self._refuse(SlowRequestError("the request did not come in time"))

    def cut(self) -> None:
        """Cancel the call that is on its way."""
        if self._task is not None:
            self._task.cancel()

    # -- the answer

    def answer(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """Write a whole answer."""
        self._write_whole(status, headers, body)
        self._done()

    def _write_whole(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        caller = self._caller
        parts = [self._status_line(status)]
        parts.extend([b"%b: %b\r\n" % header for header in headers])
        parts.append(b"content-length: %d\r\n\r\n" % len(body))
        if caller is None or caller.request.method != "HEAD":
            parts.append(body)
        self._transport.write(b"".join(parts))

    def begin(self, status: int, headers: Sequence[Header]) -> None:
        """Write the head of an answer that comes in parts."""
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
        """Hang up."""
        self._transport.abort()

    def _status_line(self, status: int) -> bytes:
        line = _STATUS.get(status) or b"HTTP/1.1 %d \r\n" % status
        keep = self._keep and not self._server.draining
        return line + (self._server.date if keep else self._server.date + b"connection: close\r\n")


class Server:
    """All connections of the data port. `start`, then `drain`."""

    def __init__(self, handle: Handle, refused: Refused, *, max_connections: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.handle = handle
        self.refused = refused
        self.max_connections = max_connections
        self.connections: set[Connection] = set()
        self.draining = False
        self.date = b""
        self._is_full = False
        self._leaving: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._look()

    async def start(self, listener: socket.socket, backlog: int) -> None:
        """Take connections."""
        self._server = await self.loop.create_server(lambda: Connection(self), sock=listener, backlog=backlog)

    async def drain(self, linger_s: float, grace_s: float) -> None:
        """End: no new connections; kept ones are good for one more request, calls in flight go on for *grace_s*."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        await self._emptied(linger_s)
        for connection in [c for c in self.connections if c.is_idle]:
            connection.expire()
        await self._emptied(grace_s)
        if self.connections:
            log.error("calls_cut", extra={"calls": len(self.connections)})
        for connection in list(self.connections):
            connection.cut()
        await self._emptied(CUT_S)
        for connection in list(self.connections):
            connection.abort()
        if self._timer is not None:
            self._timer.cancel()

    def keep_until_done(self, task: asyncio.Task[None]) -> None:
        """Hold a task whose connection is gone: nobody else does."""
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def say_full(self) -> None:
        """Log that there is no room for a connection: once, until there is room for a tenth."""
        if not self._is_full:
            self._is_full = True
            log.warning("connections_full", extra={"connections": self.max_connections})

    async def _emptied(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.connections or self._leaving:  # noqa: ASYNC110 - at the end only
                    await asyncio.sleep(0.02)

    def _look(self) -> None:
        """Each second: the date for answers, and clients that take too long."""
        self._timer = self.loop.call_later(LOOK_S, self._look)
        self.date = b"date: %b\r\n" % formatdate(time.time(), usegmt=True).encode()
        now = self.loop.time()
        self._is_full = self._is_full and len(self.connections) > self.max_connections * 0.9
        for connection in [c for c in self.connections if 0 < c.until < now]:
            connection.expire()


def _expects(headers: list[Header]) -> bool:
    """Whether the client waits for `100 Continue`."""
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
