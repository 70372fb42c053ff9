"""Who else is there: addresses to connections, one for each pod, made again when they are lost.

Knows nothing of limits or ranks. Two pods that connect to each other at one time keep the connection of the one with
the higher id.
"""

import asyncio
import contextlib
import logging
import random
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from llmproxy.gateway.limits.peers.connection import Link
from llmproxy.gateway.limits.peers.messages import Hello, Message

ROUND_S = 5.0
"""How often names are looked up again and whoever is not connected is tried."""
RETRY_S = 0.25
"""After a connection was lost, first; then twice as long each time, up to ROUND_S."""
RESOLVE_S = 2.0
CONNECT_S = 1.0
MEET_S = 2.0
"""A starting pod waits so long for the others' first word."""
MAX_PEERS = 16
log = logging.getLogger(__name__)

Address = tuple[str, int]


class Member(Protocol):
    """Hears of other pods."""

    id: str

    def hello(self) -> Hello:
        """Return the first message to another pod."""

    def met(self, peer: str, generation: int) -> None:
        """It has said hello."""

    def heard(self, peer: str, link: Link, message: Message) -> None:
        """It has said something."""

    def parted(self, peer: str, reason: str) -> None:
        """It is gone."""

    def round(self) -> None:
        """All addresses were tried once more."""


class Mesh:
    """All connections of a pod to others."""

    def __init__(self, member: Member, clock: Callable[[], float], token: str) -> None:
        self.links: dict[str, Link] = {}
        """By the id of the other side; only those that have said hello."""
        self.token = token.encode()
        self.newest = 0
        """The highest generation that anybody has heard of."""
        self.port = 0
        self._member = member
        self._clock = clock
        self._names: list[tuple[str, int]] = []
        self._heard_of: set[Address] = set()
        self._own: set[Address] = set()
        self._ids: dict[Link, str] = {}
        self._targets: dict[Link, Address] = {}
        self._open: dict[Link, None] = {}
        """Every connection, the oldest first."""
        self._server: asyncio.Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._has_lost = False
        self._met = asyncio.Event()
        self._ending = False

    async def listen(self, host: str, port: int) -> None:
        """Take connections; raise OSError if that cannot be."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accepted, host, port, backlog=MAX_PEERS)
        self.port = self._server.sockets[0].getsockname()[1]

    async def join(self, addresses: Sequence[str], default_port: int) -> None:
        """Meet everybody who can be met within some seconds, and go on trying in the background."""
        self._names = [_split(address, default_port) for address in addresses]
        await self._try_all()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + MEET_S
        while loop.time() < deadline and any(link not in self._ids for link in self._targets):
            self._met.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self._met.wait()
        self._task = asyncio.create_task(self._keep_trying())

    def known(self) -> list[Address]:
        """Return where the others listen."""
        return [(link.host, link.port) for link in self.links.values()]

    def broadcast(self, message: Message) -> None:
        """Send to everybody."""
        for link in self.links.values():
            link.send(message)

    def try_soon(self, host: str, port: int) -> None:
        """There may be a pod at this address."""
        if len(self._heard_of) < MAX_PEERS:
            self._heard_of.add((host, port))
            self._wake.set()

    async def close(self, last: Message) -> None:
        """Say *last* to everybody and close everything."""
        self._ending = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self.broadcast(last)
        for link in list(self._open):
            link.close("closing")
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._server.wait_closed(), CONNECT_S)

    # What links tell.

    def proved(self, link: Link) -> None:
        """Say hello."""
        link.send(self._member.hello())

    def received(self, link: Link, message: Message) -> None:
        """Pass on what a pod says, once it has said who it is."""
        if isinstance(message, Hello):
            self._hello(link, message)
            return
        peer = self._ids.get(link)
        if peer is not None and self.links.get(peer) is link:
            self._member.heard(peer, link, message)

    def lost(self, link: Link, reason: str) -> None:
        """Forget it, and try again soon."""
        self._open.pop(link, None)
        if not link.is_proved and not self._ending:
            log.warning("peer_refused", extra={"host": link.host, "reason": reason})
        self.part(link, reason)

    def part(self, link: Link, reason: str) -> None:
        """The pod behind *link* is gone, also if the connection is not closed yet."""
        self._targets.pop(link, None)
        peer = self._ids.pop(link, None)
        self._met.set()
        if peer is not None and self.links.get(peer) is link:
            del self.links[peer]
            if not self._ending:
                self._member.parted(peer, reason)
                self._has_lost = True
                self._wake.set()

    def _hello(self, link: Link, hello: Hello) -> None:
        if hello.id == self._member.id:
            target = self._targets.get(link)
            if target is not None:
                self._own.add(target)
            link.close("this pod itself")
            return
        before = self.links.get(hello.id)
        if before is not None and before is not link and not self._is_better(link, before, hello.id):
            link.close("connected already")
            return
        link.port = hello.port
        self._ids[link] = hello.id
        self.links[hello.id] = link
        self.newest = max(self.newest, hello.newest, hello.generation)
        for host, port in hello.known[:MAX_PEERS]:
            self.try_soon(host, port)
        if before is not None and before is not link:
            before.close("connected twice")
        self._met.set()
        self._member.met(hello.id, hello.generation)

    def _is_better(self, link: Link, before: Link, peer: str) -> bool:
        """Of two connections that one of the sides made, the newer; else that of the side with the higher id."""
        return link.outgoing in {before.outgoing, self._member.id > peer}

    def _accepted(self) -> Link:
        link = Link(self, self._clock, outgoing=False)
        self._open[link] = None
        if len(self._open) > 4 * MAX_PEERS:  # a stranger must not keep a pod of ours out
            oldest = next(open_ for open_ in self._open if not open_.is_proved)
            asyncio.get_running_loop().call_soon(oldest.abort, "too many connections")
        return link

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
            self._member.round()

    async def _try_all(self) -> None:
        found = await asyncio.gather(*(_resolve(host, port) for host, port in self._names))
        addresses = {address for some in found for address in some} | self._heard_of
        addresses -= self._own
        addresses -= set(self.known())
        addresses -= set(self._targets.values())
        await asyncio.gather(*(self._connect(address) for address in sorted(addresses)[:MAX_PEERS]))

    async def _connect(self, address: Address) -> None:
        loop = asyncio.get_running_loop()
        link = Link(self, self._clock, outgoing=True)
        self._open[link] = None
        self._targets[link] = address
        try:
            async with asyncio.timeout(CONNECT_S):
                await loop.create_connection(lambda: link, *address)
        except (OSError, TimeoutError):
            self._open.pop(link, None)
            self._targets.pop(link, None)
            self._heard_of.discard(address)


def _split(address: str, default_port: int) -> Address:
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and (":" not in host or host.startswith("[")):
        return host.strip("[]"), int(port)
    return address.strip("[]"), default_port


async def _resolve(host: str, port: int) -> list[Address]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_S):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError) as exc:
        log.debug("peers_unknown", extra={"host": host, "reason": str(exc)})
        return []
    return [(str(address[0]), port) for *_, address in found]
