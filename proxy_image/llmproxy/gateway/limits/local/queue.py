"""The wait queue: first come, first served, and woken by time or by a release, not by polling.

Each model has a queue. A request that waits for a limit of its model lets other models pass. One that waits for a limit
of the proxy lets no later request pass: a small request behind a big one waits its turn, because otherwise the big one
might never come to it.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Generic, Protocol, TypeVar

from llmproxy.gateway.limits.local.counters import Counters, ModelLimits
from llmproxy.gateway.limits.local.kinds import MAX_WAITING, Rejection

T = TypeVar("T")


class AdmissionHandler(Protocol[T]):
    """Decides about waiters of one sort: calls of this pod, or of another that asks it."""

    def take(self, limits: ModelLimits, tokens: int) -> T | None:
        """Admit a request, or return None when it must go on waiting."""

    def reject(self, limits: ModelLimits, tokens: int, reason: str) -> T:
        """Return the answer for a request that is not admitted."""

    def undo(self, result: T) -> None:
        """Take back a result that nobody was left to use."""


class Waiter(Generic[T]):
    """One request and its future. Await it once; cancelling that takes it out of the queue."""

    __slots__ = ("deadline", "future", "handler", "limits", "on_leave", "order", "timer", "tokens")

    def __init__(self, limits: ModelLimits, tokens: int, wait_s: float, handler: "AdmissionHandler[T]") -> None:
        """Wait at most *wait_s* from now."""
        loop = asyncio.get_running_loop()
        self.limits = limits
        self.tokens = tokens
        self.deadline = loop.time() + wait_s
        self.handler = handler
        self.future: asyncio.Future[T] = loop.create_future()
        self.order = 0
        self.timer: asyncio.TimerHandle | None = None
        self.on_leave: Callable[[Waiter[Any]], None] | None = None
        """Called when the waiter gives up its place."""

    def __await__(self) -> Generator[object, None, T]:
        try:
            return (yield from self.future.__await__())
        except asyncio.CancelledError:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Leave the queue; a result that came in the same moment is undone."""
        if self.future.done() and not self.future.cancelled():
            self.handler.undo(self.future.result())
        else:
            self.future.cancel()
            if self.on_leave is not None:
                self.on_leave(self)

    def answer(self, result: T) -> bool:
        """Give it its result; False when it has left meanwhile."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.future.done():
            return False
        self.future.set_result(result)
        return True


class WaitQueue:
    """All waiting requests of a pod."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._queues: dict[ModelLimits, deque[Waiter[Any]]] = {}
        self._order = 0
        self._proxy_full = False
        self._wake: asyncio.TimerHandle | None = None
        self._soon: asyncio.Handle | None = None
        self.waiting = 0
        self.rejection: Rejection | None = None
        """Limit that the queue waits for, at the last look."""

    @property
    def is_full(self) -> bool:
        """One more must be rejected."""
        return self.waiting >= MAX_WAITING

    def is_behind(self, limits: ModelLimits) -> bool:
        """Return whether a new request of *limits* may not be admitted before those that wait."""
        return self.waiting > 0 and not limits.is_fallback and (self._proxy_full or limits in self._queues)

    def join(self, waiter: Waiter[Any]) -> None:
        """Put *waiter* at the end."""
        loop = asyncio.get_running_loop()
        self._order += 1
        waiter.order = self._order
        waiter.on_leave = self._leave
        waiter.timer = loop.call_at(waiter.deadline, self._expire, waiter)
        queue = self._queues.setdefault(waiter.limits, deque())
        queue.append(waiter)
        self.waiting += 1
        if len(queue) == 1:
            self.notify()

    def notify(self) -> None:
        """Look once, soon, because something was given back; more calls before that are the same."""
        if self.waiting and self._soon is None:
            self._soon = asyncio.get_running_loop().call_soon(self._look)

    def drain(self) -> list[Waiter[Any]]:
        """Return all waiters in the order they came and be empty: another authority decides now."""
        waiters = sorted((w for queue in self._queues.values() for w in queue), key=lambda w: w.order)
        for waiter in waiters:
            if waiter.timer is not None:
                waiter.timer.cancel()
                waiter.timer = None
            waiter.on_leave = None
        self._queues.clear()
        self.waiting = 0
        self._look()
        return waiters

    def _look(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        wait_s = self._serve()
        if wait_s is not None:
            self._wake = asyncio.get_running_loop().call_later(wait_s, self._look)

    def _serve(self) -> float | None:
        """Admit whom there is room for; return the seconds until there may be room for another."""
        self._proxy_full = False
        self.rejection = None
        wait_s: float | None = None
        stuck: set[ModelLimits] = set()
        while not self._proxy_full:
            heads = [queue[0] for limits, queue in self._queues.items() if limits not in stuck]
            if not heads:
                break
            head = min(heads, key=lambda w: w.order)
            result = head.handler.take(head.limits, head.tokens)
            if result is not None:
                self._remove(head)
                if not head.answer(result):
                    head.handler.undo(result)
                continue
            rejection = self._counters.rejection(head.limits, head.tokens)
            if rejection is None:  # an edge was passed between the two looks
                continue
            if self.rejection is None or rejection.by_proxy:
                self.rejection = rejection
            self._proxy_full = rejection.by_proxy
            stuck.add(head.limits)
            wait_s = rejection.retry_after_s if wait_s is None else min(wait_s, rejection.retry_after_s)
        return wait_s

    def _expire(self, waiter: Waiter[Any]) -> None:
        result = waiter.handler.reject(waiter.limits, waiter.tokens, "its turn did not come in time")
        self._leave(waiter)
        waiter.answer(result)

    def _leave(self, waiter: Waiter[Any]) -> None:
        was_first = self._remove(waiter)
        if waiter.timer is not None:
            waiter.timer.cancel()
            waiter.timer = None
        if was_first:
            self.notify()

    def _remove(self, waiter: Waiter[Any]) -> bool:
        queue = self._queues.get(waiter.limits)
        if queue is None or waiter not in queue:
            return False
        was_first = queue[0] is waiter
        if was_first:
            queue.popleft()
        else:
            queue.remove(waiter)
        if not queue:
            del self._queues[waiter.limits]
        self.waiting -= 1
        return was_first
