"""This pod is the authority for others: answer what they ask, hold their slots, tell them what is counted."""

from llmproxy.gateway.limits.limiter import Limiter
from llmproxy.gateway.limits.local.counters import ModelLimits, Reservation
from llmproxy.gateway.limits.local.history import History, WindowCounts
from llmproxy.gateway.limits.local.kinds import Rejection
from llmproxy.gateway.limits.local.queue import Waiter
from llmproxy.gateway.limits.local.transfer import export
from llmproxy.gateway.limits.local.window import Window
from llmproxy.gateway.limits.peers.connection import Link
from llmproxy.gateway.limits.peers.messages import (
    Ask,
    Attach,
    Copy,
    Drop,
    Granted,
    Queued,
    Rejected,
    Release,
    Settle,
)

PUSH_S = 0.02
"""How often what was counted is told: a pod that dies may have admitted for so long, and the transit, untold."""
WHOLE_S = 1.0
"""How often all buckets are told, so that what was settled late reaches the copies too."""
MAX_WAIT_S = 7 * 24 * 3600.0


class Client:
    """One pod that asks."""

    def __init__(self, limiter: Limiter, link: Link, attach: Attach) -> None:
        self.link = link
        self._limiter = limiter
        self._held: dict[ModelLimits, int] = {}
        self._waiting: dict[int, Waiter[Granted | Rejected]] = {}
        for model, calls in attach.in_flight.items():
            self._hold(limiter.counters.limits_of(model), max(0, calls))

    def ask(self, message: Ask) -> None:
        """Answer a question, now or when its turn has come."""
        limiter = self._limiter
        limits = limiter.counters.limits_of(message.model, is_fallback=message.is_fallback)
        tokens = max(0, message.tokens)
        desk = _Desk(self, message.id)
        if not limiter.queue.is_behind(limits):
            granted = desk.take(limits, tokens)
            if granted is not None:
                self.link.send(granted)
                return
        if message.wait_s <= 0:
            self.link.send(desk.reject(limits, tokens, ""))
        elif limiter.queue.is_full:
            self.link.send(desk.reject(limits, tokens, "too many requests wait already"))
        else:
            waiter: Waiter[Granted | Rejected] = Waiter(limits, tokens, min(message.wait_s, MAX_WAIT_S), desk)
            waiter.future.add_done_callback(lambda _: self._decided(message.id, waiter))
            self._waiting[message.id] = waiter
            self.link.send(Queued(message.id))
            limiter.queue.join(waiter)

    def drop(self, message: Drop) -> None:
        """Its caller has left."""
        waiter = self._waiting.pop(message.id, None)
        if waiter is not None:
            if not waiter.future.done():
                waiter.cancel()
            self.link.send(Rejected(message.id, None))

    def settle(self, message: Settle) -> None:
        """Change one of its charges."""
        limits = self._limiter.counters.limits_of(message.model, is_fallback=message.is_fallback)
        buckets = self._limiter.counters.in_order(message.buckets)
        reservation = Reservation(message.epoch, buckets, max(0, message.charged))
        self._limiter.settle_here(limits, reservation, max(0, message.tokens), 1 if message.requests else 0)

    def release(self, message: Release) -> None:
        """One of its calls has ended."""
        limits = self._limiter.counters.limits_of(message.model)
        if self._held.get(limits, 0) > 0:
            self._hold(limits, -1)
            self._limiter.queue.notify()

    def end(self) -> None:
        """It asks no more: its slots are free, and nobody of it waits."""
        for limits, calls in self._held.items():
            self._limiter.counters.hold(limits, -calls)
        self._held.clear()
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting.values():
            if not waiter.future.done():
                waiter.cancel()
        self._limiter.queue.notify()

    def take(self, ask_id: int, limits: ModelLimits, tokens: int) -> Granted | None:
        """Charge a request of this pod, with a lease."""
        counters = self._limiter.counters
        at_s = self.link.earliest(counters.clock())
        taken = counters.take_ahead(limits, tokens)
        if taken is None:
            return None
        reservation, lease_s = taken
        held = counters.limits_of(limits.model)
        self._held[held] = self._held.get(held, 0) + 1
        return Granted(ask_id, counters.epoch, counters.by_window(reservation.buckets), at_s, lease_s)

    def give_back(self, granted: Granted, limits: ModelLimits, tokens: int) -> None:
        """Undo a grant that was never sent."""
        buckets = self._limiter.counters.in_order(granted.buckets)
        self._limiter.settle_here(limits, Reservation(granted.epoch, buckets, tokens), 0, 1)
        held = self._limiter.counters.limits_of(limits.model)
        if self._held.get(held, 0) > 0:
            self._hold(held, -1)

    def rejection(self, limits: ModelLimits, tokens: int) -> Rejection:
        """Return what is in the way of a request that is not admitted."""
        return self._limiter.rejection(limits, tokens)

    def _hold(self, limits: ModelLimits, calls: int) -> None:
        self._held[limits] = self._held.get(limits, 0) + calls
        self._limiter.counters.hold(limits, calls)

    def _decided(self, ask_id: int, waiter: Waiter[Granted | Rejected]) -> None:
        if self._waiting.pop(ask_id, None) is None:  # it has left, or nobody is there to tell
            if not waiter.future.cancelled():
                waiter.handler.undo(waiter.future.result())
        elif not waiter.future.cancelled():
            self.link.send(waiter.future.result())


class _Desk:
    """Makes the answers for one question."""

    def __init__(self, client: Client, ask_id: int) -> None:
        self._client = client
        self._id = ask_id
        self._plan: ModelLimits | None = None
        self._tokens = 0

    def take(self, limits: ModelLimits, tokens: int) -> Granted | None:
        self._plan, self._tokens = limits, tokens
        return self._client.take(self._id, limits, tokens)

    def reject(self, limits: ModelLimits, tokens: int, reason: str) -> Rejected:
        return Rejected(self._id, self._client.rejection(limits, tokens).because(reason))

    def undo(self, result: Granted | Rejected) -> None:
        if isinstance(result, Granted) and self._plan is not None:
            self._client.give_back(result, self._plan, self._tokens)


class Teller:
    """Tells all clients what was counted since it was told last."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._since: dict[Window, int] = {}
        self._told: dict[tuple[str, str], WindowCounts] = {}
        self._whole_s = float("-inf")

    def copy(self) -> Copy | None:
        """Return what is new, or None."""
        counters = self._limiter.counters
        now = counters.clock()
        if now - self._whole_s >= WHOLE_S:
            self._whole_s = now
            history = export(counters)
            self._since = {window: window.at for window in counters.windows()}
            return Copy(history, whole=True)
        history = export(counters, self._since)
        fresh = [counts for counts in history.windows if self._is_new(counts)]
        self._since = {window: window.at for window in counters.windows()}
        if not fresh:
            return None
        return Copy(History(history.epoch, history.now_s, fresh, {}), whole=False)

    def _is_new(self, counts: WindowCounts) -> bool:
        key = (counts.model, counts.kind)
        if self._told.get(key) == counts or not any(counts.amounts):
            return False
        self._told[key] = counts
        return True
