"""Intake server: frames of call records in, acknowledgements (durable, stored, refused) out.

Group commit: records that arrive during one sync make up the next write. A record is acknowledged after its sync. One
that cannot be written, because the spool or the disk is full, is refused and counted.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import msgspec

from llmproxy import shipping_protocol
from llmproxy.shipper.delivery.destination import Destination
from llmproxy.shipper.delivery.journal import InFlightCall, Journal
from llmproxy.shipper.delivery.sequencer import Sequencer
from llmproxy.shipper.intake import sockets
from llmproxy.shipper.metrics import ShipperCounters
from llmproxy.shipper.spool import records

log = logging.getLogger("llmproxy.shipper")

SOCKET = "shipper.sock"
MAX_PENDING_BYTES = 2 << 20
"""Bytes received and not on disk; above it the gateway's socket is not read, and the gateway keeps its calls."""
DROP_BODIES_BYTES = 8 << 10
"""Size of a record above which its bodies are dropped from memory once they are encoded."""
RECONNECT_GRACE_S = 15.0
"""Time for a gateway to reconnect; after it the gateway counts as dead, and its calls as abandoned."""
ABANDONED = "gateway_gone"
NO_DESTINATION = "no_destination"
"""Refusal of a call that no destination accepts: one without a rollout, if there is only a store."""


class _PendingWrite(NamedTuple):
    connection: "GatewayConnection | None"
    record: records.SpoolRecord
    payload: bytes


class Intake:
    """All connections of gateways, and the task that writes their records."""

    def __init__(
        self, destinations: Sequence[Destination], sequencer: Sequencer, journal: Journal, counters: ShipperCounters
    ) -> None:
        self._destinations = destinations
        self._sequencer = sequencer
        self._journal = journal
        self._counters = counters
        self._pending: list[_PendingWrite] = []
        self._pending_bytes = 0
        self._wake = asyncio.Event()
        self._connections: dict[str, GatewayConnection] = {}
        self._grace_timers: dict[str, asyncio.TimerHandle] = {}
        self._server: asyncio.Server | None = None

    @property
    def connected(self) -> bool:
        """True if a gateway is connected."""
        return bool(self._connections)

    @property
    def drained(self) -> bool:
        """True if every received record is on disk or refused."""
        return not self._pending and not self._pending_bytes

    async def listen(self, path: Path) -> None:
        """Accept connections at *path*; a stale socket is removed first."""
        sockets.remove_stale(path)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: GatewayConnection(self), str(path))
        sockets.allow_group(path)
        for gateway in {call.gateway for call in self._journal.calls.values()}:
            self._start_grace_timer(gateway)

    def close(self) -> None:
        """Stop listening and close all connections."""
        if self._server is not None:
            self._server.close()
        for timer in self._grace_timers.values():
            timer.cancel()
        for connection in list(self._connections.values()):
            connection.close()

    async def run(self) -> None:
        """Write records as they arrive, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._pending = self._pending, []
            if batch:
                await self._write(batch)

    def acknowledge_stored(self, stored: Iterable[records.SpoolRecord]) -> None:
        """Acknowledge to gateways which of their calls are in the store."""
        by_gateway: dict[str, list[int]] = {}
        for record in stored:
            by_gateway.setdefault(record.gateway, []).append(record.call.call_id)
        for gateway, call_ids in by_gateway.items():
            connection = self._connections.get(gateway)
            if connection is not None:
                connection.send(shipping_protocol.StoredAck(call_ids))

    def abandon(self, gateway: str | None = None) -> None:
        """End the calls in flight of a dead gateway, or of all that are not connected."""
        calls = [
            call
            for call in self._journal.calls.values()
            if not call.ended and call.gateway not in self._connections and gateway in {None, call.gateway}
        ]
        for call in calls:
            self._counters.abandoned += 1
            self._enqueue(None, records.SpoolRecord(call.gateway, call.sequence_id, _abandoned_record(call)))
        if calls:
            log.warning("calls_abandoned", extra={"calls": len(calls), "reason": "their gateway ended before them"})

    # -- events of connections

    def on_hello(self, connection: "GatewayConnection") -> None:
        """Register the gateway of a connection."""
        self._connections[connection.gateway] = connection
        timer = self._grace_timers.pop(connection.gateway, None)
        if timer is not None:
            timer.cancel()
        log.info("gateway_connected", extra={"gateway": connection.gateway})

    def on_disconnect(self, connection: "GatewayConnection") -> None:
        """Start the grace timer of a gateway that has disconnected."""
        if self._connections.get(connection.gateway) is connection:
            del self._connections[connection.gateway]
            self._start_grace_timer(connection.gateway)

    def on_arrival(self, gateway: str, arrival: shipping_protocol.Arrival) -> None:
        """Pass an arrival to the sequencer."""
        self._sequencer.on_arrival(gateway, arrival)

    def on_record(self, connection: "GatewayConnection", call: shipping_protocol.CallRecord) -> None:
        """Queue a record for the next write."""
        self._counters.accepted += 1
        number = self._sequencer.id_at_end(connection.gateway, call)
        self._enqueue(connection, records.SpoolRecord(connection.gateway, number, call))
        if self._pending_bytes > MAX_PENDING_BYTES:
            connection.pause()

    def _start_grace_timer(self, gateway: str) -> None:
        loop = asyncio.get_running_loop()
        self._grace_timers[gateway] = loop.call_later(RECONNECT_GRACE_S, self.abandon, gateway)

    def _enqueue(self, connection: "GatewayConnection | None", record: records.SpoolRecord) -> None:
        payload = records.encode(record)
        if len(payload) > DROP_BODIES_BYTES:  # the payload has them
            call = msgspec.structs.replace(record.call, request=b"", response=b"")
            record = msgspec.structs.replace(record, call=call)
        self._pending_bytes += len(payload)
        self._pending.append(_PendingWrite(connection, record, payload))
        self._wake.set()

    async def _write(self, batch: list[_PendingWrite]) -> None:
        """Write a batch for every destination, then acknowledge or refuse each call.

        The first destination that accepts a call decides; the gateway learns nothing of a second one.
        """
        shares = [[i for i, item in enumerate(batch) if there.accepts(item.record)] for there in self._destinations]
        writes = (
            there.persist([batch[i].payload for i in share])
            for there, share in zip(self._destinations, shares, strict=True)
        )
        reasons = [NO_DESTINATION] * len(batch)
        for share, verdict in reversed([*zip(shares, await asyncio.gather(*writes), strict=True)]):
            for i, reason in zip(share, verdict, strict=True):
                reasons[i] = reason
        for reason in dict.fromkeys(reasons):
            items = [item for item, own in zip(batch, reasons, strict=True) if own == reason]
            if reason:
                self._refuse(items, reason)
            else:
                self._acknowledge(items)
        self._pending_bytes -= sum(len(item.payload) for item in batch)
        for connection in list(self._connections.values()):
            connection.resume()

    def _acknowledge(self, written: list[_PendingWrite]) -> None:
        self._sequencer.on_durable([item.record for item in written])
        for connection, call_ids in _by_connection(written):
            connection.send(shipping_protocol.DurableAck(call_ids))

    def _refuse(self, refused: list[_PendingWrite], reason: str) -> None:
        self._journal.remove([(item.record.gateway, item.record.call.call_id) for item in refused])
        for item in refused:
            self._sequencer.forget(item.record.gateway, item.record.call.call_id)
        for connection, call_ids in _by_connection(refused):
            connection.send(shipping_protocol.Nack(call_ids, reason))


class GatewayConnection(asyncio.Protocol):
    """Connection of one gateway."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self.gateway = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the hello."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Report the loss to the intake."""
        self._transport = None
        if self.gateway:
            self._intake.on_disconnect(self)

    def data_received(self, data: bytes) -> None:
        """Read complete frames."""
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= shipping_protocol.HEADER.size:
            (length,) = shipping_protocol.HEADER.unpack_from(self._buffer, start)
            end = start + shipping_protocol.HEADER.size + length
            if length > shipping_protocol.MAX_FRAME:
                self._abort(f"a frame of {length} bytes")
                return
            if len(self._buffer) < end:
                break
            payload = bytes(memoryview(self._buffer)[start + shipping_protocol.HEADER.size : end])
            start = end
            if not self._read(payload):
                return
        if start:
            del self._buffer[:start]

    def send(self, message: shipping_protocol.ToGateway) -> None:
        """Send *message* unless the connection is closing."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(shipping_protocol.frame([message]))

    def pause(self) -> None:
        """Pause reading."""
        if self._transport is not None and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Resume reading."""
        if self._transport is not None and self._paused:
            self._paused = False
            self._transport.resume_reading()

    def close(self) -> None:
        """Close after the buffered messages."""
        if self._transport is not None:
            self._transport.close()

    def _read(self, payload: bytes) -> bool:
        try:
            messages = shipping_protocol.decode_to_shipper(payload)
        except msgspec.MsgspecError as exc:
            self._abort(f"an invalid frame: {exc}")
            return False
        for message in messages:
            if isinstance(message, shipping_protocol.GatewayHello):
                if message.protocol != shipping_protocol.PROTOCOL:
                    self._abort(
                        f"protocol {message.protocol}, this is {shipping_protocol.PROTOCOL}: run images of one release"
                    )
                    return False
                self.gateway = message.gateway
                self._intake.on_hello(self)
            elif not self.gateway:
                self._abort("a message before hello")
                return False
            elif isinstance(message, shipping_protocol.Arrival):
                self._intake.on_arrival(self.gateway, message)
            else:
                self._intake.on_record(self, message)
        return True

    def _abort(self, reason: str) -> None:
        log.error("gateway_protocol_error", extra={"gateway": self.gateway, "reason": reason})
        if self._transport is not None:
            self._transport.abort()


def _by_connection(items: list[_PendingWrite]) -> Iterable[tuple[GatewayConnection, list[int]]]:
    call_ids: dict[GatewayConnection, list[int]] = {}
    for item in items:
        if item.connection is not None:
            call_ids.setdefault(item.connection, []).append(item.record.call.call_id)
    return call_ids.items()


def _abandoned_record(call: InFlightCall) -> shipping_protocol.CallRecord:
    return shipping_protocol.CallRecord(
        call_id=call.call_id,
        rollout_id=call.rollout_id,
        attempt_id=call.attempt_id,
        sequence_id=call.sequence_id,
        route="",
        model="",
        provider="",
        upstream_model="",
        started_ns=call.arrived_ns,
        first_byte_ns=0,
        ended_ns=call.arrived_ns,
        status=0,
        error=ABANDONED,
        streamed=False,
        request=b"",
        response=b"",
        tries=[],
    )
