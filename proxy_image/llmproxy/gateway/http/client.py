"""HTTP/1.1 to model servers: one connection, on asyncio.Protocol and httptools. `pool` opens and reuses them.

A request pays for it most, which is why it is ours: the best library costs twice as much. It knows no retries, no
models and no limits. A connection serves one call at a time. An odd response (bytes after its end, broken framing, an
early close) ends the connection.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import httptools

HIGH_WATER: Final = 256 << 10
"""Bytes received and not yet read; above it the socket pauses, so that a slow client slows its upstream."""
MAX_HEAD: Final = 64 << 10
"""Bytes of a response's head, and of trailers."""
STALE_S: Final = 0.05
"""A reused connection that ends within this and a round trip was closed by the server before the request came."""
MAX_CONNECT_RTT_S: Final = 0.5
"""Upper bound of a round trip: a connect that took longer waited for something else."""
Sink = Callable[[bytes], Awaitable[None] | None]
"""Takes a part of a body; returns what to wait for before it takes the next one, if anything."""


class UpstreamFailure(Exception):  # noqa: N818 - an outcome of an attempt, not an error of ours
    """An attempt gave no whole response.

    `code` is short and stable: connect, connect_timeout, timeout, first_byte_timeout, idle_timeout, closed, incomplete
    (it ended in order, and yet too early), protocol, cancelled.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class ClientConnection(asyncio.Protocol):
    """One connection. `send`, then `head`, then `pipe` or `read` until it returns b"", then `release`."""

    __slots__ = (
        "_blocked",
        "_body_started",
        "_buffer",
        "_buffered",
        "_complete",
        "_error",
        "_first_byte_at",
        "_give_back",
        "_has_length",
        "_head_bytes",
        "_head_done",
        "_headers",
        "_holds_first_byte",
        "_idle_s",
        "_keep",
        "_loop",
        "_lost_early",
        "_parser",
        "_paused",
        "_sent_at",
        "_sink",
        "_sink_error",
        "_total_at",
        "_transport",
        "_waiter",
        "busy",
        "connect_rtt_s",
        "deadline",
        "idle_since",
        "status",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, give_back: "Callable[[ClientConnection, bool], None]") -> None:
        """*give_back* gets the connection when its call is over or it is lost, and whether it can be reused."""
        self._loop = loop
        self._give_back = give_back
        self._parser: Any = httptools.HttpResponseParser(self)
        """For all responses on this connection: one that was not read to a clean end is the last."""
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.busy = False
        self.deadline = 0.0
        """By the loop's clock; the pool calls `expire` after it while the connection is busy."""
        self.idle_since = 0.0
        self.connect_rtt_s = 0.0
        """Duration of the connect: a round trip at least."""
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self._headers: dict[bytes, bytes] = {}
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._head_bytes = 0
        self._head_done = False
        self._body_started = False
        """A byte of the body has come, or its end, or the head of an error: there is something to pass on."""
        self._lost_early = False
        """The connection was lost so early that the server cannot have started on the request."""
        self._has_length = False
        self._holds_first_byte = False
        self._complete = False
        self._keep = False
        self._paused = False
        self._error: UpstreamFailure | None = None
        self._sink: Sink | None = None
        self._blocked: Awaitable[None] | None = None
        """Returned by the sink: the body goes on after it."""
        self._sink_error: Exception | None = None
        """Raised by the sink."""

    # -- for the request path

    def send(
        self, head: bytes, body: bytes, timeout_s: float, *, first_byte_s: float | None = None, idle_s: float = 0.0
    ) -> None:
        """Send one request; the last byte of its response must come within *timeout_s*.

        The first byte of its body must come within *first_byte_s*, and no pause may be longer than *idle_s* (0: any).
        """
        transport = cast("asyncio.Transport", self._transport)
        self._reset()
        self.busy = True
        now = self._sent_at = self._loop.time()
        self._total_at = self.deadline = now + timeout_s
        self._first_byte_at = self._total_at
        if first_byte_s is not None and first_byte_s < timeout_s:
            self._first_byte_at = self.deadline = now + first_byte_s
        self._idle_s = idle_s
        transport.write(head + body)

    async def head(self) -> tuple[int, dict[bytes, bytes]]:
        """Return status and headers (names in lower case) once the body has started; raise UpstreamFailure.

        Servers may send the head of a success before the model runs. Until a byte of the body is here nothing was
        passed on, so the request can be retried. The head of an error is enough.
        """
        while not self._body_started and self._error is None:
            waiter = self._waiter = self._loop.create_future()  # `_wait`, less a coroutine for each call
            try:
                await waiter
            finally:
                self._waiter = None
        if not self._body_started:
            raise cast("UpstreamFailure", self._error)
        return self.status, self._headers

    def hold_first_byte(self) -> None:
        """Keep the first byte's timeout until `release_first_byte`: bytes so far may be comments."""
        self._holds_first_byte = True
        self.deadline = min(self._total_at, self._first_byte_at)

    def release_first_byte(self) -> None:
        """End the first byte's timeout: the answer has begun."""
        self._holds_first_byte = False
        self._restart_idle()

    async def read(self) -> bytes:
        """Return the bytes of the body that are here, b"" at its end; raise UpstreamFailure when it breaks off."""
        while not self._buffer:
            if self._error is not None:
                raise self._error
            if self._complete:
                return b""
            await self._wait()
        return self._take()

    async def pipe(self, sink: Sink) -> None:
        """Pass each part of the body to *sink* as it comes, to the end; raise UpstreamFailure, or what *sink* raises.

        The sink is called as bytes are received: to wake a task for each part costs a third of its time.
        """
        while True:
            while self._buffer:
                blocked = sink(self._take())
                if blocked is not None:
                    await blocked
            if self._error is not None:
                raise self._error
            if self._complete:
                return
            self._sink = sink
            try:
                await self._wait()
            finally:
                self._sink = None
            if self._sink_error is not None:
                raise self._sink_error
            blocked, self._blocked = self._blocked, None
            if blocked is not None:
                await blocked

    def whole(self) -> bytes | None:
        """Return the whole body if it is here and nothing of it has been read, else None."""
        if not self._complete or self._error is not None:
            return None
        return self._take()

    async def read_all(self, limit: int) -> bytes:
        """Return the whole body; raise UpstreamFailure, also when it is larger than *limit* bytes."""
        parts: list[bytes] = []
        size = 0
        while part := await self.read():
            parts.append(part)
            size += len(part)
            if size > limit:
                raise UpstreamFailure("protocol", f"a response of more than {limit} bytes")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def is_stale(self, failure: UpstreamFailure) -> bool:
        """Return True when the server had closed a reused connection before it saw the request.

        A server that closes one later than STALE_S and a round trip may have worked on the request.
        """
        return failure.code == "closed" and self.idle_since > 0 and self._head_bytes == 0 and self._lost_early

    def is_empty(self) -> bool:
        """Return True when the response is over and nothing of its body is left."""
        return self._complete and not self._buffer

    def ends_by_closing(self) -> bool:
        """Return True when the body ends with the connection (RFC 9112, 6.3): one that is cut looks whole."""
        return not self._has_length and b"transfer-encoding" not in self._headers

    def expire(self) -> None:
        """Fail the call because its time is over."""
        if self.deadline >= self._total_at:
            self._fail(UpstreamFailure("timeout"))
        else:
            self._fail(
                UpstreamFailure("first_byte_timeout" if self.deadline == self._first_byte_at else "idle_timeout")
            )

    def cancel(self) -> None:
        """Fail the call: the upstream sees its connection close, a waiting reader UpstreamFailure("cancelled")."""
        self._fail(UpstreamFailure("cancelled"))

    def release(self) -> None:
        """Give the connection back; close it if the response was not read to a clean end."""
        self.busy = False
        transport = self._transport
        if transport is None or transport.is_closing():
            self._give_back(self, False)  # noqa: FBT003 - a callback
        elif self._error is None and self._complete and self._keep and not self._buffer:
            self._give_back(self, True)  # noqa: FBT003
        else:
            self._give_back(self, False)  # noqa: FBT003
            transport.abort()

    def close(self) -> None:
        """Close a connection that nobody uses."""
        if self._transport is not None:
            self._transport.abort()

    def _take(self) -> bytes:
        data = self._buffer[0] if len(self._buffer) == 1 else b"".join(self._buffer)
        self._buffer = []
        self._buffered = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
            self._restart_idle()
        return data

    def _pass_on(self, sink: Sink) -> None:
        """Pass the received bytes to *sink*; wake `pipe` when it takes no more for now."""
        try:
            self._blocked = sink(self._take())
        except Exception as exc:  # noqa: BLE001 - `pipe` raises it
            self._sink_error = exc
        if self._blocked is not None or self._sink_error is not None:
            self._sink = None
            self._wake()

    def _restart_idle(self) -> None:
        """Restart the idle timeout: a part of the body has come, or may come again."""
        if self._holds_first_byte:
            return
        self.deadline = self._total_at
        if self._idle_s:
            self.deadline = min(self._total_at, self._loop.time() + self._idle_s)

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail(self, failure: UpstreamFailure) -> None:
        if self._complete or self._error is not None:
            return
        self._error = failure
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start: the connection is open."""
        _enable_keepalive(transport)
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse the bytes and wake the reader."""
        if not self.busy or self._complete:
            self._keep = False  # unsolicited bytes: the next response could belong to another request
            self.close()
            return
        self._parse(data)
        if self._sink is not None and self._buffer:
            self._pass_on(self._sink)
            if self._complete:
                self._wake()
            return
        if self._buffered > HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
            self.deadline = self._total_at  # the client is slow, not the upstream
        if self._complete or (self._body_started and not self._has_length):
            self._wake()  # a response with a length is read in one go, a stream part by part
        elif self._buffered > HIGH_WATER:
            self._wake()

    def _parse(self, data: bytes) -> None:
        before = self._buffered
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(UpstreamFailure("protocol", "the upstream switched protocols"))
        except httptools.HttpParserError as exc:
            if not self._complete:
                self._fail(UpstreamFailure("protocol", str(exc)))
            self._keep = False
        if self._buffered != before:
            self._head_bytes = 1  # not 0: something has come
        elif self._head_bytes > MAX_HEAD:
            self._fail(UpstreamFailure("protocol", f"a head, or trailers, of more than {MAX_HEAD} bytes"))

    def eof_received(self) -> bool:
        """Close; connection_lost decides whether the response is whole."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Complete or fail the response that is being read."""
        if self.busy and not self._complete and self._error is None:
            if self._body_started and self.ends_by_closing() and exc is None:
                self._complete = True  # RFC 9112, 6.3
            else:
                self._error = UpstreamFailure("closed", str(exc) if exc else "")
                self._lost_early = self._loop.time() - self._sent_at <= STALE_S + self.connect_rtt_s
        self._transport = None
        self._give_back(self, False)  # noqa: FBT003
        self._wake()

    # -- httptools

    def on_message_begin(self) -> None:
        """Never reuse a connection with a second response to one request."""
        if self._complete:
            self._keep = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a line of the head; drop trailers."""
        if not self._head_done:
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Read the head, unless it is an interim one."""
        if self._complete:
            return
        status = self._parser.get_status_code()
        if status >= 200:  # noqa: PLR2004 - 1xx is interim
            self.status = status
            self._head_done = True
            self._has_length = b"content-length" in self._headers
            if status >= 400:  # noqa: PLR2004 - an error
                self._body_started = True
                if not self._has_length:
                    self._wake()

    def on_body(self, data: bytes) -> None:
        """Store a part of the body."""
        if not self._complete:
            if self._idle_s or self.deadline != self._total_at:
                self._restart_idle()
            self._body_started = True
            self._buffer.append(data)
            self._buffered += len(data)

    def on_message_complete(self) -> None:
        """End the response."""
        if not self._head_done:
            self._headers = {}  # 100 Continue, 103 Early Hints
            self._head_bytes = 0
        elif not self._complete:
            self._complete = self._body_started = True
            self._keep = bool(self._parser.should_keep_alive())  # true only in here


def _enable_keepalive(transport: asyncio.BaseTransport) -> None:
    """Have the kernel probe a silent peer: one that has died ends its call within a minute.

    Unless a deployment says one, no time limit holds between two parts: models may think longer than any.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 60_000)):
        if hasattr(socket, name):  # Linux has all of them
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
