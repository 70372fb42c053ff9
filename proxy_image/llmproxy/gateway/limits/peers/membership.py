"""Membership: one connection to each other pod of the proxy, opened again when it is lost.

It knows nothing of limits or ranks. Two pods that connect to each other at the same time keep the connection of the
one with the higher id.
"""

import asyncio
import contextlib
import logging
import random
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from llmproxy.gateway.limits.peers.connection import PeerConnection
from llmproxy.gateway.limits.peers.messages import Hello, Message

ROUND_S = 5.0
"""Interval of name lookups and of attempts to connect to pods without a connection."""
RETRY_S = 0.25
"""First delay after a lost connection; it doubles up to ROUND_S."""
RESOLVE_S = 2.0
CONNECT_S = 1.0
MEET_S = 2.0
"""Longest wait of a starting pod for the hello of the others."""
MAX_PEERS = 16
log = logging.getLogger(__name__)

Address = tuple[str, int]


class PeerListener(Protocol):
    """Callbacks for connections to other pods."""

    id: str

    def hello(self) -> Hello:
        """Return the first message to another pod."""

    def on_peer_connected(self, peer: str, generation: int) -> None:
        """Handle the hello of a pod."""

    def on_peer_message(self, peer: str, connection: PeerConnection, message: Message) -> None:
        """Handle a message of a pod."""

    def on_peer_disconnected(self, peer: str, reason: str) -> None:
        """Handle the loss of a pod."""

    def on_round(self) -> None:
        """Handle the end of a round of attempts to connect."""


class PeerConnections:
    """Connections of this pod to all others."""

    def __init__(self, member: PeerListener, clock: Callable[[], float], token: str) -> None:
        self.connections: dict[str, PeerConnection] = {}
        """By the peer's id; only connections with a hello."""
        self.token = token.encode()
        self.newest = 0
        """Highest generation known to any pod."""
        self.port = 0
        self._member = member
        self._clock = clock
        self._names: list[tuple[str, int]] = []
        self._candidates: set[Address] = set()
        self._own: set[Address] = set()
        self._ids: dict[PeerConnection, str] = {}
        self._targets: dict[PeerConnection, Address] = {}
        self._open: dict[PeerConnection, None] = {}
        """All connections, the oldest first."""
        self._server: asyncio.Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._has_lost = False
        self._handshake = asyncio.Event()
        self._ending = False

    async def listen(self, host: str, port: int) -> None:
        """Accept connections; raise OSError if the port is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accepted, host, port, backlog=MAX_PEERS)
        self.port = self._server.sockets[0].getsockname()[1]

    async def join(self, addresses: Sequence[str], default_port: int) -> None:
        """Connect to all reachable pods within MEET_S, and keep trying in the background."""
        self._names = [_split(address, default_port) for address in addresses]
        await self._try_all()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + MEET_S
        while loop.time() < deadline and any(connection not in self._ids for connection in self._targets):
            self._handshake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self._handshake.wait()
        self._task = asyncio.create_task(self._keep_trying())

    def addresses(self) -> list[Address]:
        """Return the addresses that the other pods listen on."""
        return [(connection.host, connection.port) for connection in self.connections.values()]

    def broadcast(self, message: Message) -> None:
        """Send *message* to all pods."""
        for connection in self.connections.values():
            connection.send(message)

    def try_soon(self, host: str, port: int) -> None:
        """Add an address to try in the next round, at once."""
        if len(self._candidates) < MAX_PEERS:
            self._candidates.add((host, port))
            self._wake.set()

    async def close(self, last: Message) -> None:
        """Send *last* to all pods and close all connections."""
        self._ending = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self.broadcast(last)
        for connection in list(self._open):
            connection.close("closing")
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._server.wait_closed(), CONNECT_S)

    # Callbacks of connections.

    def on_authenticated(self, connection: PeerConnection) -> None:
        """Send the hello."""
        connection.send(self._member.hello())

    def on_message(self, connection: PeerConnection, message: Message) -> None:
        """Pass a message on, once its pod has sent a hello."""
        if isinstance(message, Hello):
            self._hello(connection, message)
            return
        peer = self._ids.get(connection)
        if peer is not None and self.connections.get(peer) is connection:
            self._member.on_peer_message(peer, connection, message)

    def on_closed(self, connection: PeerConnection, reason: str) -> None:
        """Drop a closed connection; the next round opens it again."""
        self._open.pop(connection, None)
        if not connection.is_authenticated and not self._ending:
            log.warning("peer_refused", extra={"host": connection.host, "reason": reason})
        self.disconnect(connection, reason)

    def disconnect(self, connection: PeerConnection, reason: str) -> None:
        """Drop the pod of *connection*, which may still be closing."""
        self._targets.pop(connection, None)
        peer = self._ids.pop(connection, None)
        self._handshake.set()
        if peer is not None and self.connections.get(peer) is connection:
            del self.connections[peer]
            if not self._ending:
                self._member.on_peer_disconnected(peer, reason)
                self._has_lost = True
                self._wake.set()

    def _hello(self, connection: PeerConnection, hello: Hello) -> None:
        if hello.id == self._member.id:
            target = self._targets.get(connection)
            if target is not None:
                self._own.add(target)
            connection.close("this pod itself")
            return
        before = self.connections.get(hello.id)
        if before is not None and before is not connection and not self._is_better(connection, before, hello.id):
            connection.close("connected already")
            return
        connection.port = hello.port
        self._ids[connection] = hello.id
        self.connections[hello.id] = connection
        self.newest = max(self.newest, hello.newest, hello.generation)
        for host, port in hello.addresses[:MAX_PEERS]:
            self.try_soon(host, port)
        if before is not None and before is not connection:
            before.close("connected twice")
        self._handshake.set()
        self._member.on_peer_connected(hello.id, hello.generation)

    def _is_better(self, connection: PeerConnection, before: PeerConnection, peer: str) -> bool:
        """Return True for the newer of two that one side opened, else for that of the side with the higher id."""
        return connection.outgoing in {before.outgoing, self._member.id > peer}

    def _accepted(self) -> PeerConnection:
        connection = PeerConnection(self, self._clock, outgoing=False)
        self._open[connection] = None
        if len(self._open) > 4 * MAX_PEERS:  # a stranger must not keep a pod of ours out
            oldest = next(open_ for open_ in self._open if not open_.is_authenticated)
            asyncio.get_running_loop().call_soon(oldest.abort, "too many connections")
        return connection

    async def _keep_trying(self) -> None:
        pause_s = RETRY_S
        while True:
            # Not wait_for: in Python 3.11 it loses a cancellation that comes in the turn in which the event was set.
            jitter = random.uniform(0.8, 1.2)  # noqa: S311 - no secret
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s * jitter):
                    await self._wake.wait()
                pause_s = RETRY_S
                if self._has_lost:  # it may be on its way back: not at once, not late
                    self._has_lost = False
                    await asyncio.sleep(RETRY_S)
            pause_s = min(2 * pause_s, ROUND_S)
            self._wake.clear()
            try:
                await self._try_all()
            except Exception:  # this task must outlive whatever a resolver or a socket throws
                log.exception("peers_round_failed")
            self._member.on_round()

    async def _try_all(self) -> None:
        results = await asyncio.gather(*(_resolve(host, port) for host, port in self._names))
        addresses = {address for some in results for address in some} | self._candidates
        addresses -= self._own
        addresses -= set(self.addresses())
        addresses -= set(self._targets.values())
        await asyncio.gather(*(self._connect(address) for address in sorted(addresses)[:MAX_PEERS]))

    async def _connect(self, address: Address) -> None:
        loop = asyncio.get_running_loop()
        connection = PeerConnection(self, self._clock, outgoing=True)
        self._open[connection] = None
        self._targets[connection] = address
        try:
            async with asyncio.timeout(CONNECT_S):
                await loop.create_connection(lambda: connection, *address)
        except (OSError, TimeoutError):
            self._open.pop(connection, None)
            self._targets.pop(connection, None)
            self._candidates.discard(address)


def _split(address: str, default_port: int) -> Address:
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and (":" not in host or host.startswith("[")):
        return host.strip("[]"), int(port)
    return address.strip("[]"), default_port


async def _resolve(host: str, port: int) -> list[Address]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_S):
            results = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError) as exc:
        log.debug("peers_lookup_failed", extra={"host": host, "reason": str(exc)})
        return []
    return [(str(address[0]), port) for *_, address in results]
