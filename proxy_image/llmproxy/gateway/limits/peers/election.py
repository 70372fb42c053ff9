"""Election of the pod that counts the limits of one proxy: the youngest leads, the others follow.

    peers = await serve(limiter, host, port, token, self_id)    listen (9092)
    await peers.take_over(addresses)                            before this pod reports ready, also if there are none
    ...
    await peers.close()                                         when the last call has ended

A rank is (generation, id). The generation is one more than the highest that a starting pod meets, so it outranks all
pods that it replaces; ids break a tie between two that start together. No clock takes part. All pods that know each
other are connected. A pod that learns of a higher rank stops admitting: it sends its counters and the number of its
calls in flight, and follows. If the leader's connection drops, or the leader does not answer within a second, the next
in rank leads with its replica of the counters. A pod that was cut off is met again in the next round, within `ROUND_S`,
and the counters are merged.

docs/limits.md has the bounds of a hand-over. `membership` keeps the connections; this module elects.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Sequence

from llmproxy.gateway.limits.limiter import Limiter
from llmproxy.gateway.limits.local.history import History
from llmproxy.gateway.limits.local.transfer import begin, difference, export, merge, replicate
from llmproxy.gateway.limits.peers.connection import PeerConnection
from llmproxy.gateway.limits.peers.follower import Follower
from llmproxy.gateway.limits.peers.leader import REPLICATION_S, FollowerSession, Replicator
from llmproxy.gateway.limits.peers.membership import PeerConnections
from llmproxy.gateway.limits.peers.messages import (
    Acquire,
    Attach,
    Cancel,
    Copy,
    Detach,
    Goodbye,
    Granted,
    Hello,
    Message,
    Queued,
    Rank,
    Redirect,
    Rejected,
    Release,
    Settle,
    Welcome,
)

HAND_OVER_S = 0.5
"""Longest wait of a starting pod for the counters of the pods that it outranks."""
JOIN_S = 1.0
"""Longest wait of an outranked starting pod for the leader's welcome."""
log = logging.getLogger(__name__)


class Peers:
    """This pod among its peers. Use `serve`."""

    def __init__(self, limiter: Limiter, token: str, self_id: str) -> None:
        """*self_id* names the pod; each process of it gets an id of its own."""
        self.id = f"{self_id}/{secrets.token_hex(4)}"
        self.generation = 0
        self._limiter = limiter
        self._follower = Follower(limiter, self._on_leader_timeout)
        self._membership = PeerConnections(self, limiter.counters.clock, token)
        self._ranks: dict[str, int] = {}
        self._attached: dict[str, Attach] = {}
        """Attach message of each follower."""
        self._unmerged: dict[str, History] = {}
        """Local admissions of followers, until they are merged here."""
        self._followers: dict[str, FollowerSession] = {}
        self._leads = True
        """This pod leads. A pod that is alone leads."""
        self._leader = ""
        """Id of the leader, if it is another pod."""
        self._last_leader = ""
        self._baseline: History | None = None
        """Counters that the last leader knew of when this pod went on without it."""
        self._has_unreported = False
        """This pod has admitted calls that no other pod has counted."""
        self._ignores_ranks = False
        """It leads although it is outranked, because the leader was silent."""
        self._changed = asyncio.Event()
        self._replicator = Replicator(limiter)
        self._replication_timer: asyncio.TimerHandle | None = None

    @property
    def port(self) -> int:
        """Port that this pod listens on."""
        return self._membership.port

    @property
    def leader(self) -> str:
        """Id of the leader, this pod included; empty while there is none."""
        return self.id if self._leads else self._leader

    @property
    def peers(self) -> list[str]:
        """Ids of the connected pods."""
        return sorted(self._membership.connections)

    async def listen(self, host: str, port: int) -> None:
        """Accept connections of other pods; raise OSError if the port is taken."""
        await self._membership.listen(host, port)

    async def take_over(self, addresses: Sequence[str], default_port: int = 9092) -> None:
        """Take the counters over from the pods at *addresses*, or follow a younger one; keep looking in the background.

        *addresses* are `host:port` or `host`; a host that stands for several (a headless Service) is all of them. Until
        this returns the pod admits nothing. An unreachable peer raises nothing. After about 4 s at most the pod leads,
        as if it were alone.
        """
        self._leads = False
        self._limiter.remote = self._follower
        await self._membership.join(addresses, default_port)
        self.generation = 1 + max([self._membership.newest, *self._ranks.values()])
        self._membership.broadcast(Rank(self.generation))
        self._elect()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (HAND_OVER_S if self._is_first() else JOIN_S)
        while loop.time() < deadline and not self._is_complete():
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self._changed.wait()
        if not self._leads and self._is_first():
            self._lead_after_handover()
        log.info("limits_taken_over", extra={"leader": self.leader, "peers": len(self._membership.connections)})

    async def close(self) -> None:
        """Send the last counters and a goodbye to all peers."""
        if self._replication_timer is not None:
            self._replication_timer.cancel()
        if self._leads:
            self._membership.broadcast(Copy(export(self._limiter.counters), whole=True))
        await self._membership.close(Goodbye())

    # Callbacks of `membership`.

    def hello(self) -> Hello:
        """Return this pod's hello."""
        newest = max([self._membership.newest, self.generation, *self._ranks.values()])
        return Hello(self.id, self.generation, newest, self._membership.port, self._membership.addresses())

    def on_peer_connected(self, peer: str, generation: int) -> None:
        """Handle a pod that has connected, or connected again."""
        self._forget(peer)
        if self.generation:
            self._membership.connections[peer].send(Rank(self.generation))
        if generation:
            self._ranks[peer] = generation
        if self._leader == peer:
            self._leader = ""
            self._follower.switch(None)
        self._ignores_ranks = False
        self._elect()

    def on_peer_disconnected(self, peer: str, reason: str) -> None:
        """Handle the loss of the connection to a pod."""
        log.warning("peer_lost", extra={"peer": peer, "reason": reason})
        self._forget(peer)
        self._ranks.pop(peer, None)
        if self._leader == peer:
            self._leader = ""
            self._follower.switch(None)
        self._elect()

    def on_round(self) -> None:
        """Follow a leader again that did not answer in an earlier round."""
        if self._ignores_ranks:
            self._ignores_ranks = False
            self._elect()

    def on_peer_message(self, peer: str, connection: PeerConnection, message: Message) -> None:
        """Handle a message of a connected pod."""
        match message:
            case Rank(generation=generation):
                self._ranks[peer] = generation
                self._ignores_ranks = False
                self._elect()
            case Attach():
                self._attach(peer, connection, message)
            case Acquire() | Cancel() | Settle() | Release():
                self._on_follower_message(peer, message)
            case Detach():
                self._forget(peer)
            case Redirect(host=host, port=port):
                self._membership.try_soon(host, port)
            case Goodbye():
                connection.close("the pod shuts down")
                self._membership.disconnect(connection, "the pod shuts down")
            case _:
                self._on_leader_message(peer, message)

    def _on_follower_message(self, peer: str, message: Message) -> None:
        client = self._followers.get(peer)
        if client is None:
            self._on_early_message(peer, message)
            return
        match message:
            case Acquire():
                client.ask(message)
            case Cancel():
                client.cancel(message)
            case Settle():
                client.settle(message)
            case Release():
                client.release(message)

    def _on_early_message(self, peer: str, message: Message) -> None:
        attach = self._attached.get(peer)
        if isinstance(message, Release) and attach is not None and attach.in_flight.get(message.model, 0) > 0:
            attach.in_flight[message.model] -= 1
        elif isinstance(message, Acquire) and self._leader:
            self._redirect(self._membership.connections[peer])

    def _on_leader_message(self, peer: str, message: Message) -> None:
        if peer != self._leader:
            if isinstance(message, Welcome) and self._ignores_ranks:
                self._ignores_ranks = False
                self._elect()
            return
        match message:
            case Welcome(history=history):
                self._has_unreported = False
                self._baseline = None
                self._last_leader = peer
                replicate(self._limiter.counters, history, whole=True)
                self._follower.on_welcome()
                self._changed.set()
            case Copy(history=history, whole=whole) if self._follower.is_welcome:
                replicate(self._limiter.counters, history, whole=whole)
            case Granted():
                self._follower.on_granted(message)
            case Rejected():
                self._follower.on_rejected(message)
            case Queued():
                self._follower.on_queued(message)

    # Election.

    def _is_first(self) -> bool:
        """Return True if no connected pod outranks this one, or the leader was silent."""
        return self._ignores_ranks or (self.generation, self.id) >= self._highest()

    def _highest(self) -> tuple[int, str]:
        return max(((generation, peer) for peer, generation in self._ranks.items()), default=(0, ""))

    def _is_complete(self) -> bool:
        if not self._is_first():
            return self._follower.is_welcome
        return self._leads or all(peer in self._attached for peer in self._ranks)

    def _elect(self) -> None:
        """Follow the pod of the highest rank, or lead if it is this one."""
        self._changed.set()
        if not self.generation:
            return
        if self._is_first():
            if self._leader:
                self._leave_leader()
            if not self._leads and (self._last_leader or self._has_unreported or self._ignores_ranks):
                self._lead()
            elif not self._leads and self._is_complete():
                self._lead_after_handover()
            return
        _, peer = self._highest()
        if self._leads:
            self._step_down()
        if peer != self._leader:
            self._leave_leader()
            self._attach_to(peer)

    def _attach_to(self, peer: str) -> None:
        connection = self._membership.connections[peer]
        self._leader = peer
        self._follower.switch(connection)
        history = export(self._limiter.counters)
        if self._has_unreported and self._baseline is not None and peer == self._last_leader:
            history = difference(history, self._baseline)
        connection.send(Attach(self._has_unreported, self._last_leader, self._limiter.counters.in_flight(), history))

    def _leave_leader(self) -> None:
        connection = self._membership.connections.get(self._leader)
        if connection is not None:
            connection.send(Detach())
        self._leader = ""
        self._follower.switch(None)

    def _step_down(self) -> None:
        """Stop leading: admit nothing locally any more."""
        self._leads = False
        limiter = self._limiter
        limiter.remote = self._follower
        waiting = limiter.queue.drain()
        for peer in list(self._followers):
            self._forget(peer)
        for waiter in waiting:
            if waiter.handler is limiter and not waiter.future.done():
                self._follower.take_on(waiter)

    def _lead(self) -> None:
        """Lead, with all known counters, for all followers."""
        self._leads = True
        if not self._has_unreported:
            self._baseline = export(self._limiter.counters)
        self._has_unreported = True
        self._limiter.remote = None
        for window in self._limiter.counters.windows():
            window.reported_limit = window.limit
        for history in self._unmerged.values():
            merge(self._limiter.counters, history)
        self._unmerged.clear()
        for peer, attach in list(self._attached.items()):
            self._welcome(peer, attach)
        self._follower.give_up()
        self._schedule_replication()
        log.info("limits_leader_elected", extra={"generation": self.generation, "followers": len(self._followers)})

    def _lead_after_handover(self) -> None:
        """Lead after the start, with the counters that were handed over."""
        order = sorted(self._attached, key=lambda peer: (self._ranks.get(peer, 0), peer), reverse=True)
        begin(
            self._limiter.counters,
            [self._unmerged[peer] for peer in order if peer in self._unmerged],
            [self._attached[peer].history for peer in order if self._attached[peer].leader],
        )
        self._unmerged.clear()
        self._lead()
        self._baseline = None

    def _attach(self, peer: str, connection: PeerConnection, message: Attach) -> None:
        self._forget(peer)
        self._attached[peer] = message
        if message.unreported and self._leads:
            merge(self._limiter.counters, message.history)
        elif message.unreported:
            self._unmerged[peer] = message.history
        if self._leads:
            self._welcome(peer, message)
            self._schedule_replication()
        elif self.generation and self._is_first() and self._is_complete():
            self._lead_after_handover()
        elif self._leader:
            self._redirect(connection)
        self._changed.set()

    def _redirect(self, connection: PeerConnection) -> None:
        leader = self._membership.connections[self._leader]
        connection.send(Redirect(leader.host, leader.port))

    def _welcome(self, peer: str, attach: Attach) -> None:
        connection = self._membership.connections[peer]
        self._followers[peer] = FollowerSession(self._limiter, connection, attach)
        connection.send(Welcome(export(self._limiter.counters)))

    def _forget(self, peer: str) -> None:
        self._attached.pop(peer, None)
        self._unmerged.pop(peer, None)
        client = self._followers.pop(peer, None)
        if client is not None:
            client.end()

    def _on_leader_timeout(self) -> None:
        """Lead in place of a leader that did not answer in time."""
        if self._leads:
            return
        log.warning("leader_silent", extra={"leader": self._leader})
        self._ignores_ranks = True
        if self._leader:
            self._leave_leader()
        self._lead()

    def _schedule_replication(self) -> None:
        if self._replication_timer is None and self._followers and self._leads:
            self._replication_timer = asyncio.get_running_loop().call_later(REPLICATION_S, self._replicate_now)

    def _replicate_now(self) -> None:
        self._replication_timer = None
        if not self._leads:
            return
        copy = self._replicator.copy()
        if copy is not None:
            for client in self._followers.values():
                client.connection.send(copy)
        self._schedule_replication()


async def serve(limiter: Limiter, host: str, port: int, token: str, self_id: str) -> Peers:
    """Listen for other pods of this proxy; OSError if the port is taken, ValueError without a *token*."""
    if not token:
        raise ValueError("no token for peers: set PEER_TOKEN, the same in all pods of this proxy")
    peers = Peers(limiter, token, self_id)
    await peers.listen(host, port)
    return peers
