"""HTTP/1.1 to model servers: one connection, on asyncio.Protocol and httptools. `pool` opens and keeps them.

It is what a request pays for most, which is why it is ours: the best library costs twice as much. It knows no retries,
no models and no limits. A connection is used by one call at a time; whatever is odd about an answer (bytes after its
end, broken framing, an early close) ends the connection.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, cast

import httptools

from llmproxy.gateway.http.keepalive import notice_dead_peers

if TYPE_CHECKING:
    from llmproxy.gateway.http.pool import Pool

HIGH_WATER: Final = 256 << 10
"""Bytes read and not taken yet; above it the socket is not read, so that a slow caller slows its upstream."""
MAX_HEAD: Final = 64 << 10
"""Bytes of an answer's head, and of what comes without a part of its body: trailers."""
STALE_S: Final = 0.05
"""From sending a request to the end of a connection that the server had closed before: so long, and a round trip."""
MAX_FAR_S: Final = 0.5
"""No server is farther away: what a connection took longer was something else."""
Sink = Callable[[bytes], Awaitable[None] | None]
"""Takes a part of a body; returns what to wait for before it takes the next one, if anything."""


class UpstreamFailure(Exception):  # noqa: N818 - an outcome of a try, not an error of ours
    """A try gave no whole answer.

    `code` is short and stable: connect, connect_timeout, timeout, first_byte_timeout, idle_timeout, closed, incomplete
    (it ended in order, and yet too early), protocol, cancelled.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class Connection(asyncio.Protocol):
    """One connection. `send`, then `head`, then `pour` or `read` until it returns b"", then `release`."""

    __slots__ = (
        "_at_once", "_begun", "_blocked", "_buffer", "_buffered", "_complete", "_error", "_first_byte_at",
        "_head_bytes", "_head_done", "_headers", "_idle_s", "_keep", "_length_known", "_parser", "_paused", "_pool",
        "_sent_at", "_sink", "_spilt", "_total_at", "_transport", "_waiter", "busy", "deadline", "far_s",
        "idle_since", "status",
    )  # fmt: skip

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._parser: Any = httptools.HttpResponseParser(self)
        """For all answers on this connection: one that was not read to a clean end is the last."""
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.busy = False
        self.deadline = 0.0
        """By the loop's clock; the pool looks after it while the connection is busy."""
        self.idle_since = 0.0
        self.far_s = 0.0
        """How long it took to connect: a round trip at least."""
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self._headers: dict[bytes, bytes] = {}
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._head_bytes = 0
        self._head_done = False
        self._begun = False
        """The answer is worth a caller's while: a byte of its body has come, or its end, or an error's head."""
        self._at_once = False
        """The connection was lost so early that the server cannot have begun with the request."""
        self._length_known = False
        self._complete = False
        self._keep = False
        self._paused = False
        self._error: UpstreamFailure | None = None
        self._sink: Sink | None = None
        self._blocked: Awaitable[None] | None = None
        """What the sink said to wait for."""
        self._spilt: Exception | None = None
        """What the sink raised."""

    # -- what the pipeline calls

    def send(
        self, head: bytes, body: bytes, timeout_s: float, *, first_byte_s: float | None = None, idle_s: float = 0.0
    ) -> None:
        """Send one request; everything until the last byte of its answer must happen within *timeout_s*.

        The first byte of its body must come within *first_byte_s*, and no pause may be longer than *idle_s* (0: any).
        """
        transport = cast("asyncio.Transport", self._transport)
        self._reset()
        self.busy = True
        now = self._sent_at = self._pool.loop.time()
        self._total_at = self.deadline = now + timeout_s
        self._first_byte_at = self._total_at
        if first_byte_s is not None and first_byte_s < timeout_s:
            self._first_byte_at = self.deadline = now + first_byte_s
        self._idle_s = idle_s
        self._pool.look_after()
        transport.write(head + body)

    async def head(self) -> tuple[int, dict[bytes, bytes]]:
        """Return status and headers (names in lower case) once the body has begun; raise UpstreamFailure.

        Servers may send a head before they think: until a byte of the body is here nothing can be passed on, so a
        failure may be tried again. An error is one by its head.
        """
        while not self._begun and self._error is None:
            waiter = self._waiter = self._pool.loop.create_future()  # `_wait`, less a coroutine for each call
            try:
                await waiter
            finally:
                self._waiter = None
        if not self._begun:
            raise cast("UpstreamFailure", self._error)
        return self.status, self._headers

    async def read(self) -> bytes:
        """Return what has come of the body, b"" at its end; raise UpstreamFailure if it has none."""
        while not self._buffer:
            if self._error is not None:
                raise self._error
            if self._complete:
                return b""
            await self._wait()
        return self._take()

    async def pour(self, sink: Sink) -> None:
        """Give *sink* each part of the body as it comes, to the end; raise UpstreamFailure, or what *sink* raises.

        The sink is called where the bytes come in: to wake a task for each costs a third of a stream's part.
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
            if self._spilt is not None:
                raise self._spilt
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
                raise UpstreamFailure("protocol", f"an answer of more than {limit} bytes")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def is_stale(self, failure: UpstreamFailure) -> bool:
        """Whether *failure* is a kept connection that the server had closed already when the request was sent.

        A server that closes it without a word later than STALE_S and a round trip may have worked on the request.
        """
        return failure.code == "closed" and self.idle_since > 0 and self._head_bytes == 0 and self._at_once

    def is_empty(self) -> bool:
        """Whether the answer is over and nothing of its body is here."""
        return self._complete and not self._buffer

    def ends_by_closing(self) -> bool:
        """Whether nothing but the connection's end says where the body ends: one that is cut looks whole."""
        return not self._length_known and b"transfer-encoding" not in self._headers

    def expire(self) -> None:
        """Give the call up because its time is over."""
        if self.deadline >= self._total_at:
            self._fail(UpstreamFailure("timeout"))
        else:
            self._fail(
                UpstreamFailure("first_byte_timeout" if self.deadline == self._first_byte_at else "idle_timeout")
            )

    def cancel(self) -> None:
        """Give the call up: the upstream sees its connection close, a waiting reader UpstreamFailure("cancelled")."""
        self._fail(UpstreamFailure("cancelled"))

    def release(self) -> None:
        """Return the connection to its pool, or close it if the answer was not read to a clean end."""
        self.busy = False
        transport = self._transport
        if transport is None or transport.is_closing():
            self._pool.forget(self)
        elif self._error is None and self._complete and self._keep and not self._buffer:
            self._pool.keep(self)
        else:
            self._pool.forget(self)
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
            self._go_on()
        return data

    def _give(self, sink: Sink) -> None:
        """Give what has come to *sink*; wake `pour` when it takes no more for now."""
        try:
            self._blocked = sink(self._take())
        except Exception as exc:  # noqa: BLE001 - raised where the sink came from
            self._spilt = exc
        if self._blocked is not None or self._spilt is not None:
            self._sink = None
            self._wake()

    def _go_on(self) -> None:
        """A part of the body has come, or may come again: count its pause from now."""
        self.deadline = self._total_at
        if self._idle_s:
            self.deadline = min(self._total_at, self._pool.loop.time() + self._idle_s)

    async def _wait(self) -> None:
        self._waiter = self._pool.loop.create_future()
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
        """Be open."""
        notice_dead_peers(transport)
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse what has come and wake whoever waits for it."""
        if not self.busy or self._complete:
            self._keep = False  # bytes that nobody asked for: the next answer could be somebody else's
            self.close()
            return
        self._parse(data)
        if self._sink is not None and self._buffer:
            self._give(self._sink)
            if self._complete:
                self._wake()
            return
        if self._buffered > HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
            self.deadline = self._total_at  # its caller is slow, not the upstream
        if self._complete or (self._begun and not self._length_known):
            self._wake()  # a sized answer is read in one go, a stream part by part
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
        """Close; connection_lost decides whether the answer is whole."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits that no more will come."""
        if self.busy and not self._complete and self._error is None:
            if self._begun and self.ends_by_closing() and exc is None:
                self._complete = True  # a body that ends with the connection (RFC 9112, 6.3)
            else:
                self._error = UpstreamFailure("closed", str(exc) if exc else "")
                self._at_once = self._pool.loop.time() - self._sent_at <= STALE_S + self.far_s
        self._transport = None
        self._pool.forget(self)
        self._wake()

    # -- httptools

    def on_message_begin(self) -> None:
        """A second answer to one request: never use the connection again."""
        if self._complete:
            self._keep = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a line of the head; trailers are nobody's."""
        if not self._head_done:
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """The head is there, unless it was an interim one."""
        if self._complete:
            return
        status = self._parser.get_status_code()
        if status >= 200:  # noqa: PLR2004 - 1xx is not the answer yet
            self.status = status
            self._head_done = True
            self._length_known = b"content-length" in self._headers
            if status >= 400:  # noqa: PLR2004 - an error, whatever it says besides
                self._begun = True
                if not self._length_known:
                    self._wake()

    def on_body(self, data: bytes) -> None:
        """Keep a part of the body."""
        if not self._complete:
            if self._idle_s or self.deadline != self._total_at:
                self._go_on()
            self._begun = True
            self._buffer.append(data)
            self._buffered += len(data)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if not self._head_done:
            self._headers = {}  # 100 Continue, 103 Early Hints
            self._head_bytes = 0
        elif not self._complete:
            self._complete = self._begun = True
            self._keep = bool(self._parser.should_keep_alive())  # true only in here
