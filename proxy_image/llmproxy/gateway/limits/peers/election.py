"""The pods of one proxy settle on one authority for its limits: the youngest. The others ask it.

    peers = await serve(limiter, host, port, token, self_id)    listen (9092)
    await peers.take_over(addresses)                            before this pod reports ready, also if there are none
    ...
    await peers.close()                                         when the last call has ended

Every pod has a rank (generation, id). The generation is one more than the highest it has met when it started, so a
starting pod outranks all it replaces, and ids settle it between two that start at one time; no clock is asked. All that
know each other are connected. Whoever learns of a higher rank admits nothing by itself from then on: it sends its
counters and the number of its calls, and asks. If the authority's connection is lost, or a question is not answered
within a second, the next in rank goes on with the copy that it was sent all the time. A pod that was cut off and comes
back is met again in the next round, within `ROUND_S`, and counters are joined.

docs/limits.md has the bounds while it happens. Where membership comes from is `mesh`; this module decides who leads.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Sequence

from llmproxy.gateway.limits.limiter import Limiter
from llmproxy.gateway.limits.local.history import History
from llmproxy.gateway.limits.local.transfer import begin, difference, export, merge, replicate
from llmproxy.gateway.limits.peers.connection import Link
from llmproxy.gateway.limits.peers.follower import Asker
from llmproxy.gateway.limits.peers.leader import PUSH_S, Client, Teller
from llmproxy.gateway.limits.peers.membership import Mesh
from llmproxy.gateway.limits.peers.messages import (
    Ask,
    Attach,
    Bye,
    Copy,
    Detach,
    Drop,
    Elsewhere,
    Granted,
    Hello,
    Message,
    Queued,
    Rank,
    Rejected,
    Release,
    Settle,
    Welcome,
)

HAND_OVER_S = 0.5
"""How long a starting pod waits for the counters of those it outranks."""
JOIN_S = 1.0
"""How long a starting pod that is outranked waits for its welcome."""
log = logging.getLogger(__name__)


class Peers:
    """This pod among the others. Use `serve`."""

    def __init__(self, limiter: Limiter, token: str, self_id: str) -> None:
        """*self_id* names the pod; a started process gets an id of its own with it."""
        self.id = f"{self_id}/{secrets.token_hex(4)}"
        self.generation = 0
        self._limiter = limiter
        self._asker = Asker(limiter, self._silent)
        self._mesh = Mesh(self, limiter.counters.clock, token)
        self._ranks: dict[str, int] = {}
        self._attached: dict[str, Attach] = {}
        """What those that ask, or want to, said when they came."""
        self._unmerged: dict[str, History] = {}
        """What they had admitted by themselves, until it is added here."""
        self._clients: dict[str, Client] = {}
        self._leads = True
        """This pod decides. A pod that is alone leads."""
        self._leader = ""
        """Id of the pod that decides, if it is another."""
        self._last_leader = ""
        self._told: History | None = None
        """What the last leader knew when this pod went on without it."""
        self._owes = False
        """It has admitted by itself, and nobody else knows."""
        self._solo = False
        self._changed = asyncio.Event()
        self._teller = Teller(limiter)
        self._push: asyncio.TimerHandle | None = None

    @property
    def port(self) -> int:
        """Where this pod listens."""
        return self._mesh.port

    @property
    def leader(self) -> str:
        """Id of the pod that decides, also if it is this one; empty while none is found."""
        return self.id if self._leads else self._leader

    @property
    def peers(self) -> list[str]:
        """Ids of the pods that this one is connected to."""
        return sorted(self._mesh.links)

    async def listen(self, host: str, port: int) -> None:
        """Take connections of other pods; raise OSError if that cannot be."""
        await self._mesh.listen(host, port)

    async def take_over(self, addresses: Sequence[str], default_port: int = 9092) -> None:
        """Take the counters over from those at *addresses*, or find who is younger; go on looking in the background.

        *addresses* are `host:port` or `host`; a host that stands for several (a headless Service) is all of them. Until
        this returns nothing is admitted by this pod. It never raises for a peer that cannot be reached, and takes at
        most about 4 s: after that the pod leads, as if it had been alone.
        """
        self._leads = False
        self._limiter.remote = self._asker
        await self._mesh.join(addresses, default_port)
        self.generation = 1 + max([self._mesh.newest, *self._ranks.values()])
        self._mesh.broadcast(Rank(self.generation))
        self._elect()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (HAND_OVER_S if self._is_first() else JOIN_S)
        while loop.time() < deadline and not self._is_complete():
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self._changed.wait()
        if not self._leads and self._is_first():
            self._conclude()
        log.info("limits_taken_over", extra={"leader": self.leader, "peers": len(self._mesh.links)})

    async def close(self) -> None:
        """Tell the others that this pod ends, and what it has counted."""
        if self._push is not None:
            self._push.cancel()
        if self._leads:
            self._mesh.broadcast(Copy(export(self._limiter.counters), whole=True))
        await self._mesh.close(Bye())

    # What the mesh tells.

    def hello(self) -> Hello:
        """Return how this pod introduces itself."""
        newest = max([self._mesh.newest, self.generation, *self._ranks.values()])
        return Hello(self.id, self.generation, newest, self._mesh.port, self._mesh.known())

    def met(self, peer: str, generation: int) -> None:
        """A pod is connected, or connected anew over another connection."""
        self._forget(peer)
        if self.generation:
            self._mesh.links[peer].send(Rank(self.generation))
        if generation:
            self._ranks[peer] = generation
        if self._leader == peer:
            self._leader = ""
            self._asker.switch(None)
        self._solo = False
        self._elect()

    def parted(self, peer: str, reason: str) -> None:
        """The connection to a pod is lost."""
        log.warning("peer_lost", extra={"peer": peer, "reason": reason})
        self._forget(peer)
        self._ranks.pop(peer, None)
        if self._leader == peer:
            self._leader = ""
            self._asker.switch(None)
        self._elect()

    def round(self) -> None:
        """Some time has passed: try again to ask a leader that was silent."""
        if self._solo:
            self._solo = False
            self._elect()

    def heard(self, peer: str, link: Link, message: Message) -> None:
        """A message of a connected pod."""
        match message:
            case Rank(generation=generation):
                self._ranks[peer] = generation
                self._solo = False
                self._elect()
            case Attach():
                self._attach(peer, link, message)
            case Ask() | Drop() | Settle() | Release():
                self._asked(peer, message)
            case Detach():
                self._forget(peer)
            case Elsewhere(host=host, port=port):
                self._mesh.try_soon(host, port)
            case Bye():
                link.close("it ends")
                self._mesh.part(link, "it ends")
            case _:
                self._answered(peer, message)

    def _asked(self, peer: str, message: Message) -> None:
        client = self._clients.get(peer)
        if client is None:
            self._asked_too_early(peer, message)
            return
        match message:
            case Ask():
                client.ask(message)
            case Drop():
                client.drop(message)
            case Settle():
                client.settle(message)
            case Release():
                client.release(message)

    def _asked_too_early(self, peer: str, message: Message) -> None:
        attach = self._attached.get(peer)
        if isinstance(message, Release) and attach is not None and attach.in_flight.get(message.model, 0) > 0:
            attach.in_flight[message.model] -= 1
        elif isinstance(message, Ask) and self._leader:
            self._point_elsewhere(self._mesh.links[peer])

    def _answered(self, peer: str, message: Message) -> None:
        if peer != self._leader:
            if isinstance(message, Welcome) and self._solo:
                self._solo = False
                self._elect()
            return
        match message:
            case Welcome(history=history):
                self._owes = False
                self._told = None
                self._last_leader = peer
                replicate(self._limiter.counters, history, whole=True)
                self._asker.welcomed()
                self._changed.set()
            case Copy(history=history, whole=whole) if self._asker.is_welcome:
                replicate(self._limiter.counters, history, whole=whole)
            case Granted():
                self._asker.granted(message)
            case Rejected():
                self._asker.rejected(message)
            case Queued():
                self._asker.queued(message)

    # Who leads.

    def _is_first(self) -> bool:
        """Whether nobody that is connected outranks this pod."""
        return self._solo or (self.generation, self.id) >= self._highest()

    def _highest(self) -> tuple[int, str]:
        return max(((generation, peer) for peer, generation in self._ranks.items()), default=(0, ""))

    def _is_complete(self) -> bool:
        if not self._is_first():
            return self._asker.is_welcome
        return self._leads or all(peer in self._attached for peer in self._ranks)

    def _elect(self) -> None:
        """Follow the highest rank, which may be this pod's own."""
        self._changed.set()
        if not self.generation:
            return
        if self._is_first():
            if self._leader:
                self._leave_leader()
            if not self._leads and (self._last_leader or self._owes or self._solo):
                self._lead()
            elif not self._leads and self._is_complete():
                self._conclude()
            return
        _, peer = self._highest()
        if self._leads:
            self._yield()
        if peer != self._leader:
            self._leave_leader()
            self._attach_to(peer)

    def _attach_to(self, peer: str) -> None:
        link = self._mesh.links[peer]
        self._leader = peer
        self._asker.switch(link)
        history = export(self._limiter.counters)
        if self._owes and self._told is not None and peer == self._last_leader:
            history = difference(history, self._told)
        link.send(Attach(self._owes, self._last_leader, self._limiter.counters.in_flight(), history))

    def _leave_leader(self) -> None:
        link = self._mesh.links.get(self._leader)
        if link is not None:
            link.send(Detach())
        self._leader = ""
        self._asker.switch(None)

    def _yield(self) -> None:
        """Admit nothing by oneself any more."""
        self._leads = False
        limiter = self._limiter
        limiter.remote = self._asker
        waiting = limiter.queue.drain()
        for peer in list(self._clients):
            self._forget(peer)
        for waiter in waiting:
            if waiter.handler is limiter and not waiter.future.done():
                self._asker.take_on(waiter)

    def _lead(self) -> None:
        """Decide by oneself: with all that is known, for all that asked."""
        self._leads = True
        if not self._owes:
            self._told = export(self._limiter.counters)
        self._owes = True
        self._limiter.remote = None
        for window in self._limiter.counters.windows():
            window.reported_limit = window.limit
        for history in self._unmerged.values():
            merge(self._limiter.counters, history)
        self._unmerged.clear()
        for peer, attach in list(self._attached.items()):
            self._welcome(peer, attach)
        self._asker.give_up()
        self._tell_clients()
        log.info("limits_decided_here", extra={"generation": self.generation, "clients": len(self._clients)})

    def _conclude(self) -> None:
        """Begin to lead after the start, with the counters that were handed over."""
        order = sorted(self._attached, key=lambda peer: (self._ranks.get(peer, 0), peer), reverse=True)
        begin(
            self._limiter.counters,
            [self._unmerged[peer] for peer in order if peer in self._unmerged],
            [self._attached[peer].history for peer in order if self._attached[peer].leader],
        )
        self._unmerged.clear()
        self._lead()
        self._told = None

    def _attach(self, peer: str, link: Link, message: Attach) -> None:
        self._forget(peer)
        self._attached[peer] = message
        if message.authority and self._leads:
            merge(self._limiter.counters, message.history)
        elif message.authority:
            self._unmerged[peer] = message.history
        if self._leads:
            self._welcome(peer, message)
            self._tell_clients()
        elif self.generation and self._is_first() and self._is_complete():
            self._conclude()
        elif self._leader:
            self._point_elsewhere(link)
        self._changed.set()

    def _point_elsewhere(self, link: Link) -> None:
        leader = self._mesh.links[self._leader]
        link.send(Elsewhere(leader.host, leader.port))

    def _welcome(self, peer: str, attach: Attach) -> None:
        link = self._mesh.links[peer]
        self._clients[peer] = Client(self._limiter, link, attach)
        link.send(Welcome(export(self._limiter.counters)))

    def _forget(self, peer: str) -> None:
        self._attached.pop(peer, None)
        self._unmerged.pop(peer, None)
        client = self._clients.pop(peer, None)
        if client is not None:
            client.end()

    def _silent(self) -> None:
        """A question was not answered in time: nobody waits longer."""
        if self._leads:
            return
        log.warning("leader_silent", extra={"leader": self._leader})
        self._solo = True
        if self._leader:
            self._leave_leader()
        self._lead()

    def _tell_clients(self) -> None:
        if self._push is None and self._clients and self._leads:
            self._push = asyncio.get_running_loop().call_later(PUSH_S, self._tell_now)

    def _tell_now(self) -> None:
        self._push = None
        if not self._leads:
            return
        copy = self._teller.copy()
        if copy is not None:
            for client in self._clients.values():
                client.link.send(copy)
        self._tell_clients()


async def serve(limiter: Limiter, host: str, port: int, token: str, self_id: str) -> Peers:
    """Listen for other pods of this proxy; OSError if the port is taken, ValueError without a *token*."""
    if not token:
        raise ValueError("no token for peers: set PEER_TOKEN, the same in all pods of this proxy")
    peers = Peers(limiter, token, self_id)
    await peers.listen(host, port)
    return peers
