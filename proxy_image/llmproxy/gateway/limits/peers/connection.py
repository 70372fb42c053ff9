"""Connection between two pods of one proxy: authentication by token, frames, heartbeats, clock offset.

Both sides prove that they know the token without sending it: HMAC-SHA256 over two fresh nonces, the connecting side
first, compared in constant time. Frames are neither encrypted nor signed: the port is for the pods of one proxy only.
Every wait and every size is bounded.
"""

import asyncio
import hmac
import secrets
import struct
from collections.abc import Callable
from typing import Protocol, cast

import msgspec

from llmproxy.gateway.limits.peers.messages import MAX_BATCH, MAX_FRAME, PROTOCOL, Frame, Message, decode, encode

PROOF_S = 2.0
"""Time limit of the authentication; a slower connection is closed."""
BEAT_S = 0.25
SILENCE_S = 1.0
"""A peer without a frame for this long counts as dead."""
MAX_UNSENT = 32 << 20
"""Unread bytes of a peer above which its connection is closed."""
_EPOCH_S = 4.0
_NONCE = 16
_MAC = 32
_LENGTH = struct.Struct("<I")


class ConnectionListener(Protocol):
    """Callbacks of a connection."""

    token: bytes

    def on_authenticated(self, connection: "PeerConnection") -> None:
        """Handle a peer that has proved the token."""

    def on_message(self, connection: "PeerConnection", message: Message) -> None:
        """Handle a message."""

    def on_closed(self, connection: "PeerConnection", reason: str) -> None:
        """Handle the end of the connection. Called once, also without authentication."""


class PeerConnection(asyncio.Protocol):
    """One side of a connection."""

    def __init__(self, owner: ConnectionListener, clock: Callable[[], float], *, outgoing: bool) -> None:
        self.outgoing = outgoing
        self.is_authenticated = False
        self.host = ""
        self.port = 0
        """Port that the peer listens on, from its hello."""
        self._owner = owner
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._ours = secrets.token_bytes(_NONCE)
        self._theirs = b""
        self._out: list[Message] = []
        self._flush: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._last_frame_s = self._sent_s = self._beat_s = 0.0
        self._ahead = [float("-inf"), float("-inf")]
        self._epoch_s = 0.0
        self._reason = "closed"

    def send(self, *messages: Message) -> None:
        """Send *messages* at the end of this turn of the loop, after those before them."""
        if self._transport is None or self._transport.is_closing():
            return
        self._out.extend(messages)
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_soon(self._flush_now)

    def close(self, reason: str) -> None:
        """Flush and close."""
        self._reason = reason
        if self._transport is not None and not self._transport.is_closing():
            if self._flush is not None:
                self._flush.cancel()
                self._flush_now()
            self._transport.close()

    def abort(self, reason: str) -> None:
        """Close at once."""
        self._reason = reason
        if self._transport is not None:
            self._transport.abort()

    def earliest(self, at_s: float) -> float:
        """Return the peer's clock at our clock's *at_s*, or a little earlier: by the shortest transit so far."""
        return at_s + max(self._ahead)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the nonce."""
        transport = self._transport = cast("asyncio.Transport", transport)  # uvloop's are of no class of asyncio
        transport.set_write_buffer_limits(high=MAX_UNSENT)
        peer = transport.get_extra_info("peername")
        self.host = str(peer[0]) if peer else ""
        self._timer = asyncio.get_running_loop().call_later(PROOF_S, self.abort, "no proof of the token in time")
        transport.write(PROTOCOL + self._ours)

    def data_received(self, data: bytes) -> None:
        """Authenticate, then read frames."""
        self._buffer += data
        if not self.is_authenticated and not self._prove():
            return
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME:
                self.abort(f"a frame of {length} bytes; at most {MAX_FRAME} are read")
                return
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            frame = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            try:
                self._take(decode(frame))
            except msgspec.MsgspecError as exc:
                self.abort(f"not understood: {exc}")
                return

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end to the owner."""
        for handle in (self._timer, self._flush):
            if handle is not None:
                handle.cancel()
        self._owner.on_closed(self, str(exc) if exc is not None else self._reason)

    def pause_writing(self) -> None:
        """Abort: the peer reads too slowly."""
        self.abort("it reads nothing")

    def _prove(self) -> bool:
        """Continue the authentication; return True once both proofs are there."""
        if not self._theirs:
            if len(self._buffer) < len(PROTOCOL) + _NONCE:
                return False
            if not self._buffer.startswith(PROTOCOL):
                self.abort("another protocol")
                return False
            self._theirs = bytes(self._buffer[len(PROTOCOL) : len(PROTOCOL) + _NONCE])
            del self._buffer[: len(PROTOCOL) + _NONCE]
            if self.outgoing:
                self._write(self._proof(outgoing=True))
        if len(self._buffer) < _MAC:
            return False
        proof = bytes(self._buffer[:_MAC])
        del self._buffer[:_MAC]
        if not hmac.compare_digest(proof, self._proof(outgoing=not self.outgoing)):
            self.abort("a wrong token")
            return False
        if not self.outgoing:
            self._write(self._proof(outgoing=False))
        self.is_authenticated = True
        self._last_frame_s = self._sent_s = self._beat_s = self._epoch_s = self._clock()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(BEAT_S, self._beat)
        self._owner.on_authenticated(self)
        return True

    def _proof(self, *, outgoing: bool) -> bytes:
        nonces = self._ours + self._theirs if self.outgoing else self._theirs + self._ours
        side = b"connects" if outgoing else b"accepts"
        return hmac.digest(self._owner.token, PROTOCOL + side + nonces, "sha256")

    def _take(self, frame: Frame) -> None:
        now = self._last_frame_s = self._clock()
        if now - self._epoch_s > _EPOCH_S:  # clocks drift: what was seen long ago is forgotten
            self._epoch_s = now
            self._ahead = [self._ahead[1], float("-inf")]
        self._ahead[1] = max(self._ahead[1], frame.clock_s - now)
        for message in frame.messages:
            self._owner.on_message(self, message)

    def _beat(self) -> None:
        now = self._clock()
        if now - self._beat_s > 2 * BEAT_S:
            self._last_frame_s = now  # this process itself stood still: what came meanwhile is not read yet
        self._beat_s = now
        if now - self._last_frame_s > SILENCE_S:
            self.abort(f"silent for {SILENCE_S:g} s")
            return
        if now - self._sent_s >= BEAT_S / 2:
            self._flush_now()
        self._timer = asyncio.get_running_loop().call_later(BEAT_S, self._beat)

    def _flush_now(self) -> None:
        self._flush = None
        messages, self._out = self._out, []
        self._sent_s = self._clock()
        for first in range(0, max(1, len(messages)), MAX_BATCH):
            payload = encode(Frame(self._sent_s, messages[first : first + MAX_BATCH]))
            self._write(_LENGTH.pack(len(payload)) + payload)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
