"""The socket that the gateway speaks to: frames in, and word of what is durable, stored or refused out.

Calls are written together: while one write is synced, those that come meanwhile make up the next. Only then is a call
acknowledged. What cannot be kept, because the spool or the disk is full, is refused and counted, never half kept.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import msgspec

from llmproxy import shipping_protocol
from llmproxy.shipper.delivery.destination import Destination
from llmproxy.shipper.delivery.journal import Begun, Journal
from llmproxy.shipper.delivery.sequencer import Sequencer
from llmproxy.shipper.intake import sockets
from llmproxy.shipper.metrics import Counts
from llmproxy.shipper.spool import records

log = logging.getLogger("llmproxy.shipper")

SOCKET = "shipper.sock"
MAX_WAITING_BYTES = 2 << 20
"""Received and not on disk yet; above it the gateway is read no further, and keeps its calls itself."""
LARGE = 8 << 10
"""Bytes of a record above which its bodies are let go as soon as they are encoded."""
GONE_S = 15.0
"""A gateway that has been away so long does not come back: its calls have no end."""
ABANDONED = "gateway_gone"
NOWHERE = "no_destination"
"""Why a call is refused that nobody takes: one of no rollout, while there is a store alone."""


class _Waiting(NamedTuple):
    connection: "Connection | None"
    record: records.Record
    payload: bytes


class Intake:
    """All connections, and the task that writes what they bring."""

    def __init__(
        self, destinations: Sequence[Destination], sequencer: Sequencer, journal: Journal, counts: Counts
    ) -> None:
        self._destinations = destinations
        self._sequencer = sequencer
        self._journal = journal
        self._counts = counts
        self._waiting: list[_Waiting] = []
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._connections: dict[str, Connection] = {}
        self._gone: dict[str, asyncio.TimerHandle] = {}
        self._server: asyncio.Server | None = None

    @property
    def connected(self) -> bool:
        """Whether a gateway is there."""
        return bool(self._connections)

    @property
    def settled(self) -> bool:
        """Whether everything that was received is on disk or refused."""
        return not self._waiting and not self._waiting_bytes

    async def listen(self, path: Path) -> None:
        """Take connections at *path*; a socket that an ended process left is removed."""
        sockets.make_way(path)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: Connection(self), str(path))
        sockets.open_to_group(path)
        for gateway in {begun.gateway for begun in self._journal.begun.values()}:
            self._expect(gateway)

    def close(self) -> None:
        """Take no more connections, and hang up."""
        if self._server is not None:
            self._server.close()
        for timer in self._gone.values():
            timer.cancel()
        for connection in list(self._connections.values()):
            connection.hang_up()

    async def run(self) -> None:
        """Write what comes, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._waiting = self._waiting, []
            if batch:
                await self._write(batch)

    def stored(self, stored: Iterable[records.Record]) -> None:
        """Tell gateways which of their calls are in the store."""
        by_gateway: dict[str, list[int]] = {}
        for record in stored:
            by_gateway.setdefault(record.gateway, []).append(record.call.call_id)
        for gateway, call_ids in by_gateway.items():
            connection = self._connections.get(gateway)
            if connection is not None:
                connection.tell(shipping_protocol.StoredAck(call_ids))

    def abandon(self, gateway: str | None = None) -> None:
        """End the calls of a gateway that is gone, or of all that are, which have begun and will never end."""
        gone = [
            begun
            for begun in self._journal.begun.values()
            if not begun.ended and begun.gateway not in self._connections and gateway in {None, begun.gateway}
        ]
        for begun in gone:
            self._counts.abandoned += 1
            self._take(None, records.Record(begun.gateway, begun.sequence_id, _without_end(begun)))
        if gone:
            log.warning("calls_without_end", extra={"calls": len(gone), "reason": "their gateway ended before them"})

    # -- from the connections

    def greeted(self, connection: "Connection") -> None:
        """Note who is on a connection."""
        self._connections[connection.gateway] = connection
        timer = self._gone.pop(connection.gateway, None)
        if timer is not None:
            timer.cancel()
        log.info("gateway_connected", extra={"gateway": connection.gateway})

    def lost(self, connection: "Connection") -> None:
        """Note that a connection is gone."""
        if self._connections.get(connection.gateway) is connection:
            del self._connections[connection.gateway]
            self._expect(connection.gateway)

    def arrived(self, gateway: str, arrival: shipping_protocol.Arrival) -> None:
        """Take word of a call that has begun."""
        self._sequencer.arrived(gateway, arrival)

    def ended(self, connection: "Connection", call: shipping_protocol.CallRecord) -> None:
        """Take a call."""
        self._counts.accepted += 1
        number = self._sequencer.known(connection.gateway, call)
        self._take(connection, records.Record(connection.gateway, number, call))
        if self._waiting_bytes > MAX_WAITING_BYTES:
            connection.pause()

    def _expect(self, gateway: str) -> None:
        loop = asyncio.get_running_loop()
        self._gone[gateway] = loop.call_later(GONE_S, self.abandon, gateway)

    def _take(self, connection: "Connection | None", record: records.Record) -> None:
        payload = records.encode(record)
        if len(payload) > LARGE:  # once is enough in memory
            call = msgspec.structs.replace(record.call, request=b"", response=b"")
            record = msgspec.structs.replace(record, call=call)
        self._waiting_bytes += len(payload)
        self._waiting.append(_Waiting(connection, record, payload))
        self._wake.set()

    async def _write(self, batch: list[_Waiting]) -> None:
        """Put a batch on disk for every destination and say so, or refuse it.

        What the first destination of a call says of it is its fate: a gateway is told nothing of the second.
        """
        shares = [[i for i, item in enumerate(batch) if there.takes(item.record)] for there in self._destinations]
        kept_by = (
            there.keep([batch[i].payload for i in share])
            for there, share in zip(self._destinations, shares, strict=True)
        )
        fates = [NOWHERE] * len(batch)
        for share, verdict in reversed([*zip(shares, await asyncio.gather(*kept_by), strict=True)]):
            for i, why in zip(share, verdict, strict=True):
                fates[i] = why
        for why in dict.fromkeys(fates):
            items = [item for item, fate in zip(batch, fates, strict=True) if fate == why]
            if why:
                self._refuse(items, why)
            else:
                self._kept(items)
        self._waiting_bytes -= sum(len(item.payload) for item in batch)
        for connection in list(self._connections.values()):
            connection.resume()

    def _kept(self, kept: list[_Waiting]) -> None:
        self._sequencer.durable([item.record for item in kept])
        for connection, call_ids in _by_connection(kept):
            connection.tell(shipping_protocol.DurableAck(call_ids))

    def _refuse(self, refused: list[_Waiting], why: str) -> None:
        self._journal.end([(item.record.gateway, item.record.call.call_id) for item in refused])
        for item in refused:
            self._sequencer.forget(item.record.gateway, item.record.call.call_id)
        for connection, call_ids in _by_connection(refused):
            connection.tell(shipping_protocol.Nack(call_ids, why))


class Connection(asyncio.Protocol):
    """One gateway."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self.gateway = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for its name."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Let the rest know."""
        self._transport = None
        if self.gateway:
            self._intake.lost(self)

    def data_received(self, data: bytes) -> None:
        """Read whole frames."""
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= shipping_protocol.HEADER.size:
            (length,) = shipping_protocol.HEADER.unpack_from(self._buffer, start)
            end = start + shipping_protocol.HEADER.size + length
            if length > shipping_protocol.MAX_FRAME:
                self._broken(f"a frame of {length} bytes")
                return
            if len(self._buffer) < end:
                break
            payload = bytes(memoryview(self._buffer)[start + shipping_protocol.HEADER.size : end])
            start = end
            if not self._read(payload):
                return
        if start:
            del self._buffer[:start]

    def tell(self, message: shipping_protocol.ToGateway) -> None:
        """Say something, if it still listens."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(shipping_protocol.frame([message]))

    def pause(self) -> None:
        """Read no further for now."""
        if self._transport is not None and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None and self._paused:
            self._paused = False
            self._transport.resume_reading()

    def hang_up(self) -> None:
        """Close after what was said."""
        if self._transport is not None:
            self._transport.close()

    def _read(self, payload: bytes) -> bool:
        try:
            messages = shipping_protocol.decode_to_shipper(payload)
        except msgspec.MsgspecError as exc:
            self._broken(f"a frame that is not understood: {exc}")
            return False
        for message in messages:
            if isinstance(message, shipping_protocol.GatewayHello):
                if message.protocol != shipping_protocol.PROTOCOL:
                    self._broken(
                        f"protocol {message.protocol}, this is {shipping_protocol.PROTOCOL}: run images of one release"
                    )
                    return False
                self.gateway = message.gateway
                self._intake.greeted(self)
            elif not self.gateway:
                self._broken("a message before hello")
                return False
            elif isinstance(message, shipping_protocol.Arrival):
                self._intake.arrived(self.gateway, message)
            else:
                self._intake.ended(self, message)
        return True

    def _broken(self, why: str) -> None:
        log.error("gateway_not_understood", extra={"gateway": self.gateway, "reason": why})
        if self._transport is not None:
            self._transport.abort()


def _by_connection(items: list[_Waiting]) -> Iterable[tuple[Connection, list[int]]]:
    found: dict[Connection, list[int]] = {}
    for item in items:
        if item.connection is not None:
            found.setdefault(item.connection, []).append(item.record.call.call_id)
    return found.items()


def _without_end(begun: Begun) -> shipping_protocol.CallRecord:
    return shipping_protocol.CallRecord(
        call_id=begun.call_id,
        rollout_id=begun.rollout_id,
        attempt_id=begun.attempt_id,
        sequence_id=begun.sequence_id,
        route="",
        model="",
        provider="",
        upstream_model="",
        started_ns=begun.arrived_ns,
        first_byte_ns=0,
        ended_ns=begun.arrived_ns,
        status=0,
        error=ABANDONED,
        streamed=False,
        request=b"",
        response=b"",
        tries=[],
    )
