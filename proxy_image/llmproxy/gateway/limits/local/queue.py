"""Requests that wait for their turn: first come, first served, and woken by time or by a release, not by polling.

There is one line for each model. A request that waits for a limit of its model lets other models pass; one that waits
for a limit of the proxy lets nobody pass who came later. So a small request behind a big one waits its turn, because
otherwise the big one might never come to it.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Generic, Protocol, TypeVar

from llmproxy.gateway.limits.local.counters import Blocked, Book, Plan
from llmproxy.gateway.limits.local.kinds import MAX_WAITING

T = TypeVar("T")


class Desk(Protocol[T]):
    """Makes the answers for waiters of one sort: calls of this pod, or of another that asks it."""

    def take(self, plan: Plan, tokens: int) -> T | None:
        """Admit a request, or return None when it must go on waiting."""

    def refuse(self, plan: Plan, tokens: int, reason: str) -> T:
        """Return the answer for a request that is not admitted."""

    def undo(self, result: T) -> None:
        """Take back a result that nobody was left to use."""


class Waiter(Generic[T]):
    """One request and its future. Await it once; cancelling that takes it out of the line."""

    __slots__ = ("deadline", "desk", "future", "left", "order", "plan", "timer", "tokens")

    def __init__(self, plan: Plan, tokens: int, wait_s: float, desk: "Desk[T]") -> None:
        """Wait at most *wait_s* from now."""
        loop = asyncio.get_running_loop()
        self.plan = plan
        self.tokens = tokens
        self.deadline = loop.time() + wait_s
        self.desk = desk
        self.future: asyncio.Future[T] = loop.create_future()
        self.order = 0
        self.timer: asyncio.TimerHandle | None = None
        self.left: Callable[[Waiter[Any]], None] | None = None
        """Called when the waiter gives up its place."""

    def __await__(self) -> Generator[object, None, T]:
        try:
            return (yield from self.future.__await__())
        except asyncio.CancelledError:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Leave the line; a result that came in the same moment is undone."""
        if self.future.done() and not self.future.cancelled():
            self.desk.undo(self.future.result())
        else:
            self.future.cancel()
            if self.left is not None:
                self.left(self)

    def answer(self, result: T) -> bool:
        """Give it its result; False when it has left meanwhile."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.future.done():
            return False
        self.future.set_result(result)
        return True


class Line:
    """All waiting requests of a pod."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._lines: dict[Plan, deque[Waiter[Any]]] = {}
        self._order = 0
        self._proxy_full = False
        self._wake: asyncio.TimerHandle | None = None
        self._soon: asyncio.Handle | None = None
        self.waiting = 0
        self.blocked: Blocked | None = None
        """What the line waits for, at the last look."""

    @property
    def is_full(self) -> bool:
        """Whether one more must be refused."""
        return self.waiting >= MAX_WAITING

    def is_behind(self, plan: Plan) -> bool:
        """Whether a new request of *plan* may not be admitted before those that wait."""
        return self.waiting > 0 and not plan.again and (self._proxy_full or plan in self._lines)

    def join(self, waiter: Waiter[Any]) -> None:
        """Put *waiter* at the end."""
        loop = asyncio.get_running_loop()
        self._order += 1
        waiter.order = self._order
        waiter.left = self._leave
        waiter.timer = loop.call_at(waiter.deadline, self._expire, waiter)
        line = self._lines.setdefault(waiter.plan, deque())
        line.append(waiter)
        self.waiting += 1
        if len(line) == 1:
            self.poke()

    def poke(self) -> None:
        """Something was given back: look once, soon, however many times this is called before."""
        if self.waiting and self._soon is None:
            self._soon = asyncio.get_running_loop().call_soon(self._look)

    def disband(self) -> list[Waiter[Any]]:
        """Return everybody in the order they came and be empty: another authority decides now."""
        everybody = sorted((w for line in self._lines.values() for w in line), key=lambda w: w.order)
        for waiter in everybody:
            if waiter.timer is not None:
                waiter.timer.cancel()
                waiter.timer = None
            waiter.left = None
        self._lines.clear()
        self.waiting = 0
        self._look()
        return everybody

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
        self.blocked = None
        wait_s: float | None = None
        stuck: set[Plan] = set()
        while not self._proxy_full:
            heads = [line[0] for plan, line in self._lines.items() if plan not in stuck]
            if not heads:
                break
            head = min(heads, key=lambda w: w.order)
            result = head.desk.take(head.plan, head.tokens)
            if result is not None:
                self._remove(head)
                if not head.answer(result):
                    head.desk.undo(result)
                continue
            blocked = self._book.blocked(head.plan, head.tokens)
            if blocked is None:  # an edge was passed between the two looks
                continue
            if self.blocked is None or blocked.by_proxy:
                self.blocked = blocked
            self._proxy_full = blocked.by_proxy
            stuck.add(head.plan)
            wait_s = blocked.retry_after_s if wait_s is None else min(wait_s, blocked.retry_after_s)
        return wait_s

    def _expire(self, waiter: Waiter[Any]) -> None:
        result = waiter.desk.refuse(waiter.plan, waiter.tokens, "its turn did not come in time")
        self._leave(waiter)
        waiter.answer(result)

    def _leave(self, waiter: Waiter[Any]) -> None:
        was_first = self._remove(waiter)
        if waiter.timer is not None:
            waiter.timer.cancel()
            waiter.timer = None
        if was_first:
            self.poke()

    def _remove(self, waiter: Waiter[Any]) -> bool:
        line = self._lines.get(waiter.plan)
        if line is None or waiter not in line:
            return False
        was_first = line[0] is waiter
        if was_first:
            line.popleft()
        else:
            line.remove(waiter)
        if not line:
            del self._lines[waiter.plan]
        self.waiting -= 1
        return was_first
