"""Follower: limits are acquired from the leader, pipelined over one connection, with a bound on its silence.

A grant must be used within its lease, else it is returned and acquired again. A leader that does not answer within
`ANSWER_S` is given up: this pod admits locally again.
"""

import asyncio
from collections.abc import Callable

from llmproxy.gateway.limits.limiter import Grant, Limiter
from llmproxy.gateway.limits.local.counters import ModelLimits, Reservation
from llmproxy.gateway.limits.local.kinds import Rejection
from llmproxy.gateway.limits.local.queue import Waiter
from llmproxy.gateway.limits.peers.connection import PeerConnection
from llmproxy.gateway.limits.peers.messages import Acquire, Cancel, Granted, Queued, Rejected, Release, Settle

ANSWER_S = 1.0


class Follower:
    """Pending acquires, and the leader once it answers."""

    def __init__(self, limiter: Limiter, on_silence: Callable[[], None]) -> None:
        """*on_silence* must make the limiter admit locally: it calls `give_up`."""
        self.leader: PeerConnection | None = None
        self.is_welcome = False
        self._limiter = limiter
        self._on_silence = on_silence
        self._pending: dict[int, Waiter[Grant | Rejection]] = {}
        self._cancellations: dict[int, tuple[ModelLimits, int]] = {}
        """Cancelled acquires that the leader may have granted already."""
        self._last = 0

    def ask(self, limits: ModelLimits, tokens: int, wait_s: float) -> Waiter[Grant | Rejection]:
        """Acquire from the leader, now or as soon as there is one."""
        waiter: Waiter[Grant | Rejection] = Waiter(limits, tokens, wait_s, self._limiter)
        self.take_on(waiter)
        return waiter

    def take_on(self, waiter: Waiter[Grant | Rejection]) -> None:
        """Acquire for a request that waits already."""
        self._last += 1
        waiter.order = self._last
        waiter.on_leave = self._leave
        self._pending[waiter.order] = waiter
        self._watch(waiter, asyncio.get_running_loop().time() + ANSWER_S)
        self._send(waiter)

    def settle(self, limits: ModelLimits, reservation: Reservation, tokens: int, requests: int) -> None:
        """Report the use of a grant; without a leader it is counted here and reported with the rest."""
        if self.leader is None:
            self._limiter.settle_here(limits, reservation, tokens, requests)
            return
        buckets = self._limiter.counters.by_window(reservation.buckets)
        charged = reservation.tokens
        self.leader.send(
            Settle(limits.model, reservation.epoch, buckets, charged, tokens, requests, limits.is_fallback)
        )

    def release(self, limits: ModelLimits) -> None:
        """Report the end of a call; a later leader gets the number of calls in flight."""
        if self.leader is not None:
            self.leader.send(Release(limits.model))

    def switch(self, leader: PeerConnection | None) -> None:
        """Follow *leader*. Pending acquires are sent again after its welcome."""
        self.leader = leader
        self.is_welcome = False
        self._cancellations.clear()

    def on_welcome(self) -> None:
        """Send the pending acquires: the leader answers from now on."""
        self.is_welcome = True
        for waiter in self._pending.values():
            self._send(waiter)

    def give_up(self) -> None:
        """Readmit all pending requests locally, in their order. The limiter admits locally already."""
        self.switch(None)
        pending, self._pending = self._pending, {}
        now = asyncio.get_running_loop().time()
        for waiter in pending.values():
            waiter.on_leave = None
            if waiter.timer is not None:
                waiter.timer.cancel()
                waiter.timer = None
            if not waiter.future.done():
                self._limiter.readmit(waiter, now)

    def on_granted(self, message: Granted) -> None:
        """Handle a grant."""
        limiter, counters = self._limiter, self._limiter.counters
        cancellation = self._cancellations.pop(message.id, None)
        if cancellation is not None:
            self._give_back(message, *cancellation)
            return
        waiter = self._pending.get(message.id)
        if waiter is None:
            return
        limits = waiter.limits
        if counters.clock() - message.at_s > message.lease_s:
            self._give_back(message, limits, waiter.tokens)
            self._send(waiter)
            return
        del self._pending[message.id]
        buckets = counters.in_order(message.buckets)
        counters.note(limits, Reservation(message.epoch, buckets, waiter.tokens))
        limiter.decisions.granted += 1
        limits.in_flight += 1
        grant = Grant(limiter, limits, message.epoch, buckets, waiter.tokens)
        if not waiter.answer(grant):
            limiter.undo(grant)

    def on_rejected(self, message: Rejected) -> None:
        """Handle a rejection."""
        self._cancellations.pop(message.id, None)
        waiter = self._pending.pop(message.id, None)
        if waiter is not None and message.rejection is not None:
            self._limiter.decisions.rejected += 1
            waiter.answer(message.rejection)

    def on_queued(self, message: Queued) -> None:
        """Extend the deadline of a request in the leader's queue: silence is no sign of a dead leader there."""
        waiter = self._pending.get(message.id)
        if waiter is not None:
            self._watch(waiter, waiter.deadline + ANSWER_S)

    def _send(self, waiter: Waiter[Grant | Rejection]) -> None:
        if self.leader is not None and self.is_welcome:
            wait_s = max(0.0, waiter.deadline - asyncio.get_running_loop().time())
            limits = waiter.limits
            self.leader.send(Acquire(waiter.order, limits.model, waiter.tokens, wait_s, limits.is_fallback))

    def _watch(self, waiter: Waiter[Grant | Rejection], until: float) -> None:
        if waiter.timer is not None:
            waiter.timer.cancel()
        waiter.timer = asyncio.get_running_loop().call_at(until, self._on_silence)

    def _leave(self, waiter: Waiter[Grant | Rejection]) -> None:
        if waiter.timer is not None:
            waiter.timer.cancel()
            waiter.timer = None
        if self._pending.pop(waiter.order, None) is not None and self.leader is not None and self.is_welcome:
            self._cancellations[waiter.order] = (waiter.limits, waiter.tokens)
            self.leader.send(Cancel(waiter.order))

    def _give_back(self, message: Granted, limits: ModelLimits, tokens: int) -> None:
        """Return the request and the slot of an unused grant."""
        self.release(limits)
        self._limiter.decisions.refunded += 1
        buckets = self._limiter.counters.in_order(message.buckets)
        self.settle(limits, Reservation(message.epoch, buckets, tokens), 0, 1)
