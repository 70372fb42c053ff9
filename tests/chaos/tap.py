"""Listens on the wire between a gateway and the shipper: what was told, in which order, and what was acknowledged.

A gateway process that is killed can say nothing of what it knew; the wire can. Nothing is changed or held back.
"""

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmproxy import shipping_protocol
from llmproxy.shipper.intake import sockets

MARK = re.compile(rb"<call-\d+>")
"""What a caller puts into its question, so that its call is known on the wire."""


@dataclass
class Heard:
    """What went over all wires. A call's name is what the store has of it: gateway and number."""

    order: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    """By rollout and gateway: the calls in the order of their arrival. Two gateways have no order between them."""
    rollout: dict[str, str] = field(default_factory=dict)
    named: dict[bytes, str] = field(default_factory=dict)
    """The calls that ended, by the mark in their question."""
    durable: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)


class Tap:
    """A socket for one gateway, and behind it the shipper's."""

    def __init__(self, heard: Heard, path: Path, shipper: Path) -> None:
        self._heard = heard
        self._path = path
        self._shipper = shipper
        self._server: asyncio.Server | None = None

    async def listen(self) -> None:
        sockets.remove_stale(self._path)
        self._server = await asyncio.start_unix_server(self._connected, str(self._path))

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on both ways until one end is gone, which then both are."""
        try:
            from_shipper, to_shipper = await asyncio.open_unix_connection(str(self._shipper))
        except OSError:
            writer.close()
            return
        wire = Wire(self._heard)
        ways = [
            asyncio.ensure_future(pass_on(reader, to_shipper, Frames(shipping_protocol.decode_to_shipper, wire.told))),
            asyncio.ensure_future(
                pass_on(from_shipper, writer, Frames(shipping_protocol.decode_to_gateway, wire.said))
            ),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for end in (writer, to_shipper):
            end.transport.abort()


class Wire:
    """One connection."""

    def __init__(self, heard: Heard) -> None:
        self._heard = heard
        self._gateway = ""

    def told(self, message: Any) -> None:
        if isinstance(message, shipping_protocol.GatewayHello):
            self._gateway = message.gateway
            return
        name = f"{self._gateway}/{message.call_id}"
        if isinstance(message, shipping_protocol.Arrival) and name not in self._heard.rollout:
            self._heard.order[message.rollout_id, self._gateway].append(name)
        self._heard.rollout[name] = message.rollout_id
        if isinstance(message, shipping_protocol.Arrival):
            return
        found = MARK.search(message.request)
        if found is not None:
            self._heard.named[found.group()] = name

    def said(self, message: Any) -> None:
        if not isinstance(message, shipping_protocol.StoredAck):
            kept = self._heard.durable if isinstance(message, shipping_protocol.DurableAck) else self._heard.refused
            kept.update(f"{self._gateway}/{call_id}" for call_id in message.call_ids)


class Frames:
    """Reads the messages in a stream of bytes."""

    def __init__(self, decode: Callable[[bytes], list[Any]], heard: Callable[[Any], None]) -> None:
        self._decode = decode
        self._heard = heard
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= shipping_protocol.HEADER.size:
            end = shipping_protocol.HEADER.size + shipping_protocol.HEADER.unpack_from(self._buffer)[0]
            if len(self._buffer) < end:
                return
            for message in self._decode(bytes(self._buffer[shipping_protocol.HEADER.size : end])):
                self._heard(message)
            del self._buffer[:end]


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, frames: Frames) -> None:
    while data := await reader.read(1 << 16):
        frames.feed(data)
        writer.write(data)
        await writer.drain()
