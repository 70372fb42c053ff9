"""Leader: grants limits to followers, holds their slots, and replicates its counters to them."""

from llmproxy.gateway.limits.limiter import Limiter
from llmproxy.gateway.limits.local.counters import ModelLimits, Reservation
from llmproxy.gateway.limits.local.history import History, WindowCounts
from llmproxy.gateway.limits.local.kinds import Rejection
from llmproxy.gateway.limits.local.queue import Waiter
from llmproxy.gateway.limits.local.transfer import export
from llmproxy.gateway.limits.local.window import Window
from llmproxy.gateway.limits.peers.connection import PeerConnection
from llmproxy.gateway.limits.peers.messages import (
    Acquire,
    Attach,
    Cancel,
    Copy,
    Granted,
    Queued,
    Rejected,
    Release,
    Settle,
)

REPLICATION_S = 0.02
"""Interval of replication: admissions of this long, and the transit, are lost to the others when a leader dies."""
WHOLE_S = 1.0
"""Interval of whole copies, so that late settlements reach the replicas too."""
MAX_WAIT_S = 7 * 24 * 3600.0


class FollowerSession:
    """One follower of this pod."""

    def __init__(self, limiter: Limiter, connection: PeerConnection, attach: Attach) -> None:
        self.connection = connection
        self._limiter = limiter
        self._held: dict[ModelLimits, int] = {}
        self._waiting: dict[int, Waiter[Granted | Rejected]] = {}
        for model, calls in attach.in_flight.items():
            self._hold(limiter.counters.limits_of(model), max(0, calls))

    def ask(self, message: Acquire) -> None:
        """Grant or reject, now or when the request has its turn in the queue."""
        limiter = self._limiter
        limits = limiter.counters.limits_of(message.model, is_fallback=message.is_fallback)
        tokens = max(0, message.tokens)
        handler = _AcquireHandler(self, message.id)
        if not limiter.queue.is_behind(limits):
            granted = handler.take(limits, tokens)
            if granted is not None:
                self.connection.send(granted)
                return
        if message.wait_s <= 0:
            self.connection.send(handler.reject(limits, tokens, ""))
        elif limiter.queue.is_full:
            self.connection.send(handler.reject(limits, tokens, "too many requests wait already"))
        else:
            waiter: Waiter[Granted | Rejected] = Waiter(limits, tokens, min(message.wait_s, MAX_WAIT_S), handler)
            waiter.future.add_done_callback(lambda _: self._on_decision(message.id, waiter))
            self._waiting[message.id] = waiter
            self.connection.send(Queued(message.id))
            limiter.queue.join(waiter)

    def cancel(self, message: Cancel) -> None:
        """Cancel a request whose caller has left."""
        waiter = self._waiting.pop(message.id, None)
        if waiter is not None:
            if not waiter.future.done():
                waiter.cancel()
            self.connection.send(Rejected(message.id, None))

    def settle(self, message: Settle) -> None:
        """Settle one of its reservations."""
        limits = self._limiter.counters.limits_of(message.model, is_fallback=message.is_fallback)
        buckets = self._limiter.counters.in_order(message.buckets)
        reservation = Reservation(message.epoch, buckets, max(0, message.charged))
        self._limiter.settle_here(limits, reservation, max(0, message.tokens), 1 if message.requests else 0)

    def release(self, message: Release) -> None:
        """Release the slot of a call that has ended."""
        limits = self._limiter.counters.limits_of(message.model)
        if self._held.get(limits, 0) > 0:
            self._hold(limits, -1)
            self._limiter.queue.notify()

    def end(self) -> None:
        """Release all its slots and cancel its waiting requests."""
        for limits, calls in self._held.items():
            self._limiter.counters.hold(limits, -calls)
        self._held.clear()
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting.values():
            if not waiter.future.done():
                waiter.cancel()
        self._limiter.queue.notify()

    def take(self, ask_id: int, limits: ModelLimits, tokens: int) -> Granted | None:
        """Charge a request of this follower, with a lease."""
        counters = self._limiter.counters
        at_s = self.connection.earliest(counters.clock())
        charge = counters.take_ahead(limits, tokens)
        if charge is None:
            return None
        reservation, lease_s = charge
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
        """Return the limit that rejects a request."""
        return self._limiter.rejection(limits, tokens)

    def _hold(self, limits: ModelLimits, calls: int) -> None:
        self._held[limits] = self._held.get(limits, 0) + calls
        self._limiter.counters.hold(limits, calls)

    def _on_decision(self, ask_id: int, waiter: Waiter[Granted | Rejected]) -> None:
        if self._waiting.pop(ask_id, None) is None:  # cancelled, or the follower is gone
            if not waiter.future.cancelled():
                waiter.handler.undo(waiter.future.result())
        elif not waiter.future.cancelled():
            self.connection.send(waiter.future.result())


class _AcquireHandler:
    """Builds the answers to one acquire."""

    def __init__(self, client: FollowerSession, ask_id: int) -> None:
        self._client = client
        self._id = ask_id
        self._limits: ModelLimits | None = None
        self._tokens = 0

    def take(self, limits: ModelLimits, tokens: int) -> Granted | None:
        self._limits, self._tokens = limits, tokens
        return self._client.take(self._id, limits, tokens)

    def reject(self, limits: ModelLimits, tokens: int, reason: str) -> Rejected:
        return Rejected(self._id, self._client.rejection(limits, tokens).because(reason))

    def undo(self, result: Granted | Rejected) -> None:
        if isinstance(result, Granted) and self._limits is not None:
            self._client.give_back(result, self._limits, self._tokens)


class Replicator:
    """Builds the copies of the counters for followers: the changes since the last copy."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._since: dict[Window, int] = {}
        self._last_counts: dict[tuple[str, str], WindowCounts] = {}
        self._whole_s = float("-inf")

    def copy(self) -> Copy | None:
        """Return the changes, None without any."""
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
        if self._last_counts.get(key) == counts or not any(counts.amounts):
            return False
        self._last_counts[key] = counts
        return True
