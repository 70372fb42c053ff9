"""Client of the shipper: sends the records of calls over its unix socket, mostly without making a request wait.

A record is kept until the shipper has it on disk, and sent again over a new connection. Requests that end faster than
the shipper takes their records wait for it, so that none is lost and memory is bounded. Nothing waits for a shipper
that takes none: above a bound in bytes the newest record is dropped and counted.
A record is encoded once, at the end of its call. Messages are sent in batches, after FLUSH_S or at once when a request
waits: a write for each would wake the shipper, on another core, for each.
"""

import asyncio
import contextlib
import ctypes
import logging
import secrets
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

import msgspec

from llmproxy import shipping_protocol
from llmproxy.gateway.http.exchange import ByteBudget

log = logging.getLogger("llmproxy.shipper_client")

MAX_PENDING_BYTES = 64 << 20
ROOM_BYTES = 8 << 20
"""Pending bytes above which the ends of calls wait for room."""
ROOM_S = 1.0
"""Longest wait for room; no wait for a shipper that has taken nothing for this long."""
RECONNECT_S: Final = 0.2
FLUSH_S = 0.002
"""Longest wait of a message for others in its batch."""
OVERHEAD: Final = 128
"""Bytes of memory of a pending record besides its own."""
TRIM_BYTES = 8 << 20
"""A backlog above it fragments the heap: free pages go back to the system when it is gone."""
_malloc_trim: Callable[[int], int] | None = None
with contextlib.suppress(AttributeError, OSError):  # a C library other than glibc
    _malloc_trim = ctypes.CDLL(None).malloc_trim


class ShipperClient(asyncio.Protocol):
    """The gateway's end of the socket."""

    def __init__(self, socket_path: Path, budget: ByteBudget) -> None:
        self._budget = budget
        self._path = str(socket_path)
        self._loop = asyncio.get_running_loop()
        self._gateway = secrets.token_hex(8)
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._arrivals: dict[int, bytes] = {}
        """Of calls in flight: sent again over a new connection, since the lost one may not have delivered them."""
        self._unacked: dict[int, bytes] = {}
        self._stored: dict[int, asyncio.Future[bool]] = {}
        self._room_waiters: set[asyncio.Future[bool]] = set()
        self._progress_s = 0.0
        """Time of the last acknowledgement or connect, by the loop's clock."""
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._pending_bytes = 0
        self._peak_bytes = 0
        self._writable = True
        self._flushing: asyncio.Handle | None = None
        self._soon = False
        """The scheduled flush is an immediate one."""
        self._next_id = 1
        self._closed = asyncio.Event()
        self._task = self._loop.create_task(self._keep_connected())
        self.sent = self.durable = self.dropped = self.rejected = self.released_unstored = self.waited = 0

    @property
    def connected(self) -> bool:
        """Return True while the shipper is connected."""
        return self._transport is not None

    @property
    def backlog(self) -> int:
        """Return the number of records that the shipper has not on disk."""
        return len(self._unacked)

    @property
    def is_full(self) -> bool:
        """Return True when a call that ends should wait for `room` first."""
        return self._pending_bytes > ROOM_BYTES

    def new_id(self) -> int:
        """Return an id for a call, unique in this process."""
        self._next_id += 1
        return self._next_id

    def send_arrival(self, arrival: shipping_protocol.Arrival) -> None:
        """Announce an admitted call of a rollout: the shipper takes its sequence id now."""
        message = shipping_protocol.encode(arrival)
        self._arrivals[arrival.call_id] = message
        self._queue_message(message)

    def send_record(self, record: shipping_protocol.CallRecord) -> None:
        """Send the record of a call; drop and count it when too much is pending."""
        self._arrivals.pop(record.call_id, None)
        message = shipping_protocol.encode(record)
        pending_bytes = self._pending_bytes + len(message) + OVERHEAD
        if pending_bytes > MAX_PENDING_BYTES or not self._budget.take(len(message) + OVERHEAD):
            self.dropped += 1
            if self.dropped == 1 or self.dropped % 1000 == 0:
                log.error("call_record_dropped", extra={"dropped": self.dropped, "pending_bytes": self._pending_bytes})
            return
        self._pending_bytes = pending_bytes
        self._peak_bytes = max(self._peak_bytes, pending_bytes)
        self._unacked[record.call_id] = message
        self.sent += 1
        self._queue_message(message)

    async def room(self) -> None:
        """Wait until the shipper has taken most pending records, at most ROOM_S; not at all while it takes nothing."""
        if self._transport is None or self._loop.time() - self._progress_s > ROOM_S:
            return
        self.waited += 1
        future: asyncio.Future[bool] = self._loop.create_future()
        self._room_waiters.add(future)
        timer = self._loop.call_later(ROOM_S, _release, future)
        try:
            await future
        finally:
            timer.cancel()
            self._room_waiters.discard(future)

    async def stored(self, call_id: int, timeout_s: float) -> None:
        """Wait until the call's spans are in the store, at most *timeout_s*; at once without a shipper."""
        if self._transport is None or call_id not in self._unacked:
            self.released_unstored += 1
            return
        self._flush_soon()
        future: asyncio.Future[bool] = self._loop.create_future()
        self._stored[call_id] = future
        timer = self._loop.call_later(timeout_s, _release, future)
        try:
            if not await future:
                self.released_unstored += 1
        finally:
            timer.cancel()
            del self._stored[call_id]

    async def close(self, timeout_s: float) -> None:
        """Wait until the shipper has every record on disk, at most *timeout_s*, and disconnect; log the rest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._unacked:  # noqa: ASYNC110 - once, at the end
                    await asyncio.sleep(0.02)
        if self._unacked:
            log.error("call_records_undelivered", extra={"calls": len(self._unacked), "bytes": self._pending_bytes})
        self._closed.set()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        if self._flushing is not None:
            self._flushing.cancel()
            self._flush()  # the last messages, as far as the socket takes them
        if self._transport is not None:
            self._transport.close()

    # -- the connection

    async def _keep_connected(self) -> None:
        quiet = False
        while True:
            if self._transport is None:
                try:
                    await self._loop.create_unix_connection(lambda: self, self._path)
                    quiet = False
                except OSError as exc:
                    if not quiet:
                        log.warning("shipper_unreachable", extra={"reason": exc.strerror or str(exc)})
                    quiet = True
            await asyncio.sleep(RECONNECT_S)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send hello, the arrivals of calls in flight, and all records that the shipper did not acknowledge."""
        self._transport = cast("asyncio.Transport", transport)
        self._buffer.clear()
        self._writable = True
        self._progress_s = self._loop.time()
        self._transport.write(
            shipping_protocol.frame([shipping_protocol.GatewayHello(shipping_protocol.PROTOCOL, self._gateway)])
        )
        self._queue = deque((*self._arrivals.values(), *self._unacked.values()))
        self._queued_bytes = sum(map(len, self._queue))
        self._flush_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release every waiting request; the records stay and are sent again."""
        self._transport = None
        for future in (*self._stored.values(), *self._room_waiters):
            _release(future)
        if not self._closed.is_set():
            log.warning(
                "shipper_connection_lost", extra={"reason": str(exc) if exc else "closed", "pending": self.backlog}
            )

    def pause_writing(self) -> None:
        """Stop writing: the shipper reads slower than we write."""
        self._writable = False

    def resume_writing(self) -> None:
        """Write on."""
        self._writable = True
        self._flush_soon()

    def _queue_message(self, message: bytes) -> None:
        if self._transport is None:
            return
        self._queue.append(message)
        self._queued_bytes += len(message)
        if self._flushing is None:
            self._flushing = self._loop.call_later(FLUSH_S, self._flush)
        elif self._queued_bytes > shipping_protocol.BATCH_BYTES:
            self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._soon:
            self._soon = True
            if self._flushing is not None:
                self._flushing.cancel()
            self._flushing = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = None
        self._soon = False
        transport, queue = self._transport, self._queue
        if transport is None or not self._writable or not queue:
            return
        batch: list[bytes] = []
        size = 0
        while queue and size < shipping_protocol.BATCH_BYTES:
            message = queue.popleft()
            batch.append(message)
            size += len(message)
        self._queued_bytes -= size
        transport.write(shipping_protocol.frame_encoded(batch))
        if queue:
            self._flush_soon()  # streams run in between

    def data_received(self, data: bytes) -> None:
        """Read acknowledgements."""
        self._buffer += data
        while len(self._buffer) >= shipping_protocol.HEADER.size:
            (length,) = shipping_protocol.HEADER.unpack_from(self._buffer)
            end = shipping_protocol.HEADER.size + length
            if length > shipping_protocol.MAX_FRAME:
                self._fail(f"a frame of {length} bytes")
                return
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[shipping_protocol.HEADER.size : end])
            del self._buffer[:end]
            try:
                messages = shipping_protocol.decode_to_gateway(payload)
            except msgspec.MsgspecError as exc:
                self._fail(str(exc))
                return
            for message in messages:
                self._acknowledge(message)

    def _fail(self, reason: str) -> None:
        log.error("shipper_protocol_error", extra={"reason": reason})
        if self._transport is not None:
            self._transport.abort()

    def _acknowledge(self, message: shipping_protocol.ToGateway) -> None:
        if isinstance(message, shipping_protocol.StoredAck):
            for call_id in message.call_ids:
                future = self._stored.get(call_id)
                if future is not None and not future.done():
                    future.set_result(True)
            return
        removed = self._remove(message.call_ids)
        if isinstance(message, shipping_protocol.DurableAck):
            self.durable += removed
        else:
            self.rejected += removed
            log.error("call_records_rejected", extra={"calls": len(message.call_ids), "reason": message.reason})
            for call_id in message.call_ids:
                future = self._stored.get(call_id)
                if future is not None:
                    _release(future)

    def _remove(self, call_ids: list[int]) -> int:
        """Drop acknowledged records; return how many were pending."""
        before = len(self._unacked)
        self._progress_s = self._loop.time()
        for call_id in call_ids:
            message = self._unacked.pop(call_id, None)
            if message is not None:
                self._pending_bytes -= len(message) + OVERHEAD
                self._budget.give(len(message) + OVERHEAD)
        if self._room_waiters and not self.is_full:
            for future in self._room_waiters:
                _release(future)
        if not self._unacked and self._peak_bytes > TRIM_BYTES:
            self._peak_bytes = 0
            if _malloc_trim is not None:
                _malloc_trim(0)
        return before - len(self._unacked)


def _release(future: "asyncio.Future[bool]") -> None:
    if not future.done():
        future.set_result(False)
