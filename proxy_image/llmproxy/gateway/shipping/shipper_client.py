"""Tells the shipper of calls, over its unix socket, without ever making a request wait for it.

A call is kept here until the shipper has it on disk, and sent again when the connection was lost in between. Calls
that end faster than a shipper takes them wait for it, so that none is lost and memory stays. A shipper that takes none
is not waited for: what is kept is bounded in bytes, and above that the newest call is dropped and counted.
A call is encoded once, when it has ended, and kept as these bytes. Messages go together, after FLUSH_S or at once when
a caller waits: a write for each would wake the shipper, on another core, for each.
"""

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from pathlib import Path
from typing import Final, cast

import msgspec

from llmproxy import shipping_protocol
from llmproxy.gateway.shipping.memory import trim

log = logging.getLogger("llmproxy.handover")

MAX_KEPT_BYTES = 64 << 20
ROOM_BYTES = 8 << 20
"""Kept bytes above which the ends of calls wait for room."""
ROOM_S = 1.0
"""How long they wait at most, and how long the shipper may have taken nothing for them to wait at all."""
RECONNECT_S: Final = 0.2
FLUSH_S = 0.002
"""How long a message may wait for others that go with it."""
OVERHEAD: Final = 128
"""Bytes that keeping a call takes besides its own."""
TRIM_BYTES = 8 << 20
"""A backlog above it leaves holes in the heap: they are given back to the system when it is gone."""


class Handover(asyncio.Protocol):
    """The gateway's end of the socket."""

    def __init__(self, socket_path: Path) -> None:
        self._path = str(socket_path)
        self._loop = asyncio.get_running_loop()
        self._gateway = secrets.token_hex(8)
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._begun: dict[int, bytes] = {}
        """Calls in flight: a new connection is told of them again, for one that was lost may not have been."""
        self._unacked: dict[int, bytes] = {}
        self._stored: dict[int, asyncio.Future[bool]] = {}
        self._for_room: set[asyncio.Future[bool]] = set()
        self._heard_s = 0.0
        """When the shipper took something last, or came, by the loop's clock."""
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._kept_bytes = 0
        self._most_kept_bytes = 0
        self._writable = True
        self._flushing: asyncio.Handle | None = None
        self._soon = False
        """Whether the flush that is due is one at once."""
        self._next_id = 1
        self._closed = asyncio.Event()
        self._task = self._loop.create_task(self._keep_connected())
        self.told = self.durable = self.dropped = self.refused = self.released_unstored = self.waited = 0

    @property
    def connected(self) -> bool:
        """Whether the shipper is there."""
        return self._transport is not None

    @property
    def backlog(self) -> int:
        """Calls that the shipper has not yet on disk."""
        return len(self._unacked)

    @property
    def is_full(self) -> bool:
        """Whether a call that ends should wait for `room` first."""
        return self._kept_bytes > ROOM_BYTES

    def new_id(self) -> int:
        """Return an id for a call, unique in this process."""
        self._next_id += 1
        return self._next_id

    def arrived(self, arrival: shipping_protocol.Arrival) -> None:
        """Tell that a rollout's call has been admitted: the shipper takes its sequence id now."""
        message = shipping_protocol.encode(arrival)
        self._begun[arrival.call_id] = message
        self._tell(message)

    def ended(self, call: shipping_protocol.CallRecord) -> None:
        """Hand a call over; it is dropped, and counted, when too much is kept already."""
        self._begun.pop(call.call_id, None)
        message = shipping_protocol.encode(call)
        kept = self._kept_bytes + len(message) + OVERHEAD
        if kept > MAX_KEPT_BYTES:
            self.dropped += 1
            if self.dropped == 1 or self.dropped % 1000 == 0:
                log.error("call_not_kept", extra={"dropped": self.dropped, "kept_bytes": self._kept_bytes})
            return
        self._kept_bytes = kept
        self._most_kept_bytes = max(self._most_kept_bytes, kept)
        self._unacked[call.call_id] = message
        self.told += 1
        self._tell(message)

    async def room(self) -> None:
        """Wait until the shipper has taken most of what is kept, at most ROOM_S; not at all while it takes nothing."""
        if self._transport is None or self._loop.time() - self._heard_s > ROOM_S:
            return
        self.waited += 1
        future: asyncio.Future[bool] = self._loop.create_future()
        self._for_room.add(future)
        timer = self._loop.call_later(ROOM_S, _let_go, future)
        try:
            await future
        finally:
            timer.cancel()
            self._for_room.discard(future)

    async def stored(self, call_id: int, timeout_s: float) -> None:
        """Wait until the call's spans are in the store, at most *timeout_s*; at once without a shipper."""
        if self._transport is None or call_id not in self._unacked:
            self.released_unstored += 1
            return
        self._flush_soon()
        future: asyncio.Future[bool] = self._loop.create_future()
        self._stored[call_id] = future
        timer = self._loop.call_later(timeout_s, _let_go, future)
        try:
            if not await future:
                self.released_unstored += 1
        finally:
            timer.cancel()
            del self._stored[call_id]

    async def close(self, timeout_s: float) -> None:
        """Wait until the shipper has everything on disk, at most *timeout_s*, and hang up; say what is left."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._unacked:  # noqa: ASYNC110 - once, at the end
                    await asyncio.sleep(0.02)
        if self._unacked:
            log.error("calls_left_behind", extra={"calls": len(self._unacked), "bytes": self._kept_bytes})
        self._closed.set()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        if self._flushing is not None:
            self._flushing.cancel()
            self._flush()  # what was told in the last moment, as far as it goes
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
                        log.warning("shipper_not_there", extra={"reason": exc.strerror or str(exc)})
                    quiet = True
            await asyncio.sleep(RECONNECT_S)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say who we are, which calls are in flight, and everything again that the shipper did not confirm."""
        self._transport = cast("asyncio.Transport", transport)
        self._buffer.clear()
        self._writable = True
        self._heard_s = self._loop.time()
        self._transport.write(
            shipping_protocol.frame([shipping_protocol.GatewayHello(shipping_protocol.PROTOCOL, self._gateway)])
        )
        self._queue = deque((*self._begun.values(), *self._unacked.values()))
        self._queued_bytes = sum(map(len, self._queue))
        self._flush_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let every waiting caller go; the calls stay and are sent again."""
        self._transport = None
        for future in (*self._stored.values(), *self._for_room):
            _let_go(future)
        if not self._closed.is_set():
            log.warning(
                "shipper_connection_lost", extra={"reason": str(exc) if exc else "closed", "kept": self.backlog}
            )

    def pause_writing(self) -> None:
        """Stop encoding: the shipper reads slower than we write."""
        self._writable = False

    def resume_writing(self) -> None:
        """Go on."""
        self._writable = True
        self._flush_soon()

    def _tell(self, message: bytes) -> None:
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
        """Read confirmations."""
        self._buffer += data
        while len(self._buffer) >= shipping_protocol.HEADER.size:
            (length,) = shipping_protocol.HEADER.unpack_from(self._buffer)
            end = shipping_protocol.HEADER.size + length
            if length > shipping_protocol.MAX_FRAME:
                self._give_up(f"a frame of {length} bytes")
                return
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[shipping_protocol.HEADER.size : end])
            del self._buffer[:end]
            try:
                messages = shipping_protocol.decode_to_gateway(payload)
            except msgspec.MsgspecError as exc:
                self._give_up(str(exc))
                return
            for message in messages:
                self._confirmed(message)

    def _give_up(self, reason: str) -> None:
        log.error("shipper_not_understood", extra={"reason": reason})
        if self._transport is not None:
            self._transport.abort()

    def _confirmed(self, message: shipping_protocol.ToGateway) -> None:
        if isinstance(message, shipping_protocol.StoredAck):
            for call_id in message.call_ids:
                future = self._stored.get(call_id)
                if future is not None and not future.done():
                    future.set_result(True)
            return
        forgotten = self._forget(message.call_ids)
        if isinstance(message, shipping_protocol.DurableAck):
            self.durable += forgotten
        else:
            self.refused += forgotten
            log.error("calls_refused", extra={"calls": len(message.call_ids), "reason": message.reason})
            for call_id in message.call_ids:
                future = self._stored.get(call_id)
                if future is not None:
                    _let_go(future)

    def _forget(self, call_ids: list[int]) -> int:
        """Keep these calls no longer; return how many were kept."""
        before = len(self._unacked)
        self._heard_s = self._loop.time()
        for call_id in call_ids:
            kept = self._unacked.pop(call_id, None)
            if kept is not None:
                self._kept_bytes -= len(kept) + OVERHEAD
        if self._for_room and not self.is_full:
            for future in self._for_room:
                _let_go(future)
        if not self._unacked and self._most_kept_bytes > TRIM_BYTES:
            self._most_kept_bytes = 0
            trim()
        return before - len(self._unacked)


def _let_go(future: "asyncio.Future[bool]") -> None:
    if not future.done():
        future.set_result(False)
