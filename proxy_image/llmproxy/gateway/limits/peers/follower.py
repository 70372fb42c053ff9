"""The authority is another pod: ask it, pipelined over one connection, and never wait for a silent one.

A granted request must be used within its lease, else it is given back and asked for again. A question that is not
answered within `ANSWER_S` ends the reign of that pod: this one decides by itself again.
"""

import asyncio
from collections.abc import Callable

from llmproxy.gateway.limits.limiter import Grant, Limiter
from llmproxy.gateway.limits.local.counters import ModelLimits, Reservation
from llmproxy.gateway.limits.local.kinds import Rejection
from llmproxy.gateway.limits.local.queue import Waiter
from llmproxy.gateway.limits.peers.connection import Link
from llmproxy.gateway.limits.peers.messages import Ask, Drop, Granted, Queued, Rejected, Release, Settle

ANSWER_S = 1.0


class Asker:
    """Questions on their way, and a leader once there is one that answers."""

    def __init__(self, limiter: Limiter, on_silence: Callable[[], None]) -> None:
        """*on_silence* must make the limiter decide by itself: it calls `give_up`."""
        self.leader: Link | None = None
        self.is_welcome = False
        self._limiter = limiter
        self._on_silence = on_silence
        self._asked: dict[int, Waiter[Grant | Rejection]] = {}
        self._left: dict[int, tuple[ModelLimits, int]] = {}
        """Callers that have left and whose question the leader may have answered already."""
        self._last = 0

    def ask(self, limits: ModelLimits, tokens: int, wait_s: float) -> Waiter[Grant | Rejection]:
        """Ask as soon as somebody answers."""
        waiter: Waiter[Grant | Rejection] = Waiter(limits, tokens, wait_s, self._limiter)
        self.take_on(waiter)
        return waiter

    def take_on(self, waiter: Waiter[Grant | Rejection]) -> None:
        """Ask for one that waits already."""
        self._last += 1
        waiter.order = self._last
        waiter.on_leave = self._leave
        self._asked[waiter.order] = waiter
        self._watch(waiter, asyncio.get_running_loop().time() + ANSWER_S)
        self._send(waiter)

    def settle(self, limits: ModelLimits, reservation: Reservation, tokens: int, requests: int) -> None:
        """Tell what was used; without a leader it is noted here and told with the rest."""
        if self.leader is None:
            self._limiter.settle_here(limits, reservation, tokens, requests)
            return
        buckets = self._limiter.counters.by_window(reservation.buckets)
        charged = reservation.tokens
        self.leader.send(
            Settle(limits.model, reservation.epoch, buckets, charged, tokens, requests, limits.is_fallback)
        )

    def release(self, limits: ModelLimits) -> None:
        """Tell that a call has ended; a later leader is told the number of those that have not."""
        if self.leader is not None:
            self.leader.send(Release(limits.model))

    def switch(self, leader: Link | None) -> None:
        """Ask *leader* once it has said welcome. What was asked of another is asked again then."""
        self.leader = leader
        self.is_welcome = False
        self._left.clear()

    def welcomed(self) -> None:
        """The leader answers from now on."""
        self.is_welcome = True
        for waiter in self._asked.values():
            self._send(waiter)

    def give_up(self) -> None:
        """Let this pod decide all that is open, in the order it came. The limiter does so already."""
        self.switch(None)
        asked, self._asked = self._asked, {}
        now = asyncio.get_running_loop().time()
        for waiter in asked.values():
            waiter.on_leave = None
            if waiter.timer is not None:
                waiter.timer.cancel()
                waiter.timer = None
            if not waiter.future.done():
                self._limiter.readmit(waiter, now)

    def granted(self, message: Granted) -> None:
        """A question was answered with yes."""
        limiter, counters = self._limiter, self._limiter.counters
        left = self._left.pop(message.id, None)
        if left is not None:
            self._give_back(message, *left)
            return
        waiter = self._asked.get(message.id)
        if waiter is None:
            return
        limits = waiter.limits
        if counters.clock() - message.at_s > message.lease_s:
            self._give_back(message, limits, waiter.tokens)
            self._send(waiter)
            return
        del self._asked[message.id]
        buckets = counters.in_order(message.buckets)
        counters.note(limits, Reservation(message.epoch, buckets, waiter.tokens))
        limiter.decisions.granted += 1
        limits.in_flight += 1
        grant = Grant(limiter, limits, message.epoch, buckets, waiter.tokens)
        if not waiter.answer(grant):
            limiter.undo(grant)

    def rejected(self, message: Rejected) -> None:
        """A question was answered with no."""
        self._left.pop(message.id, None)
        waiter = self._asked.pop(message.id, None)
        if waiter is not None and message.rejection is not None:
            self._limiter.decisions.rejected += 1
            waiter.answer(message.rejection)

    def queued(self, message: Queued) -> None:
        """A question must wait for its turn: silence is no sign any more, until its time is up."""
        waiter = self._asked.get(message.id)
        if waiter is not None:
            self._watch(waiter, waiter.deadline + ANSWER_S)

    def _send(self, waiter: Waiter[Grant | Rejection]) -> None:
        if self.leader is not None and self.is_welcome:
            wait_s = max(0.0, waiter.deadline - asyncio.get_running_loop().time())
            limits = waiter.limits
            self.leader.send(Ask(waiter.order, limits.model, waiter.tokens, wait_s, limits.is_fallback))

    def _watch(self, waiter: Waiter[Grant | Rejection], until: float) -> None:
        if waiter.timer is not None:
            waiter.timer.cancel()
        waiter.timer = asyncio.get_running_loop().call_at(until, self._on_silence)

    def _leave(self, waiter: Waiter[Grant | Rejection]) -> None:
        if waiter.timer is not None:
            waiter.timer.cancel()
            waiter.timer = None
        if self._asked.pop(waiter.order, None) is not None and self.leader is not None and self.is_welcome:
            self._left[waiter.order] = (waiter.limits, waiter.tokens)
            self.leader.send(Drop(waiter.order))

    def _give_back(self, message: Granted, limits: ModelLimits, tokens: int) -> None:
        """Nobody used it: neither the request nor the slot."""
        self.release(limits)
        self._limiter.decisions.refunded += 1
        buckets = self._limiter.counters.in_order(message.buckets)
        self.settle(limits, Reservation(message.epoch, buckets, tokens), 0, 1)
