"""This pod is the authority for others: answer what they ask, hold their slots, tell them what is counted."""

from llmproxy.gateway.limits.limiter import Limiter
from llmproxy.gateway.limits.local.counters import Blocked, Charge, Plan
from llmproxy.gateway.limits.local.queue import Waiter
from llmproxy.gateway.limits.local.transfer import tell
from llmproxy.gateway.limits.local.window import Window
from llmproxy.gateway.limits.peers.connection import Link
from llmproxy.gateway.limits.peers.messages import (
    Ask,
    Attach,
    Copy,
    Counts,
    Denied,
    Drop,
    Granted,
    History,
    Queued,
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
        self._held: dict[Plan, int] = {}
        self._waiting: dict[int, Waiter[Granted | Denied]] = {}
        for model, calls in attach.in_flight.items():
            self._hold(limiter.book.plan(model), max(0, calls))

    def ask(self, message: Ask) -> None:
        """Answer a question, now or when its turn has come."""
        limiter = self._limiter
        plan = limiter.book.plan(message.model, again=message.again)
        tokens = max(0, message.tokens)
        desk = _Desk(self, message.id)
        if not limiter.line.is_behind(plan):
            granted = desk.take(plan, tokens)
            if granted is not None:
                self.link.send(granted)
                return
        if message.wait_s <= 0:
            self.link.send(desk.refuse(plan, tokens, ""))
        elif limiter.line.is_full:
            self.link.send(desk.refuse(plan, tokens, "too many requests wait already"))
        else:
            waiter: Waiter[Granted | Denied] = Waiter(plan, tokens, min(message.wait_s, MAX_WAIT_S), desk)
            waiter.future.add_done_callback(lambda _: self._decided(message.id, waiter))
            self._waiting[message.id] = waiter
            self.link.send(Queued(message.id))
            limiter.line.join(waiter)

    def drop(self, message: Drop) -> None:
        """Its caller has left."""
        waiter = self._waiting.pop(message.id, None)
        if waiter is not None:
            if not waiter.future.done():
                waiter.cancel()
            self.link.send(Denied(message.id, 0.0, "", "rpm", "proxy"))

    def settle(self, message: Settle) -> None:
        """Change one of its charges."""
        plan = self._limiter.book.plan(message.model, again=message.again)
        charge = Charge(message.minute, message.second, max(0, message.charged))
        self._limiter.settle_here(plan, message.lineage, charge, max(0, message.tokens), 1 if message.requests else 0)

    def release(self, message: Release) -> None:
        """One of its calls has ended."""
        plan = self._limiter.book.plan(message.model)
        if self._held.get(plan, 0) > 0:
            self._hold(plan, -1)
            self._limiter.line.poke()

    def end(self) -> None:
        """It asks no more: its slots are free, and nobody of it waits."""
        for plan, calls in self._held.items():
            self._limiter.book.hold(plan, -calls)
        self._held.clear()
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting.values():
            if not waiter.future.done():
                waiter.cancel()
        self._limiter.line.poke()

    def take(self, ask_id: int, plan: Plan, tokens: int) -> Granted | None:
        """Charge a request of this pod, with a lease."""
        book = self._limiter.book
        at_s = self.link.earliest(book.clock())
        taken = book.take_ahead(plan, tokens)
        if taken is None:
            return None
        charge, lease_s = taken
        held = book.plan(plan.model)
        self._held[held] = self._held.get(held, 0) + 1
        return Granted(ask_id, book.lineage, charge.minute, charge.second, at_s, lease_s)

    def give_back(self, granted: Granted, plan: Plan, tokens: int) -> None:
        """Undo a grant that was never sent."""
        self._limiter.settle_here(plan, granted.lineage, Charge(granted.minute, granted.second, tokens), 0, 1)
        held = self._limiter.book.plan(plan.model)
        if self._held.get(held, 0) > 0:
            self._hold(held, -1)

    def blocked(self, plan: Plan, tokens: int) -> Blocked:
        """Return what is in the way of a request that is not admitted."""
        return self._limiter.in_way(plan, tokens)

    def _hold(self, plan: Plan, calls: int) -> None:
        self._held[plan] = self._held.get(plan, 0) + calls
        self._limiter.book.hold(plan, calls)

    def _decided(self, ask_id: int, waiter: Waiter[Granted | Denied]) -> None:
        if self._waiting.pop(ask_id, None) is None:  # it has left, or nobody is there to tell
            if not waiter.future.cancelled():
                waiter.desk.undo(waiter.future.result())
        elif not waiter.future.cancelled():
            self.link.send(waiter.future.result())


class _Desk:
    """Makes the answers for one question."""

    def __init__(self, client: Client, ask_id: int) -> None:
        self._client = client
        self._id = ask_id
        self._plan: Plan | None = None
        self._tokens = 0

    def take(self, plan: Plan, tokens: int) -> Granted | None:
        self._plan, self._tokens = plan, tokens
        return self._client.take(self._id, plan, tokens)

    def refuse(self, plan: Plan, tokens: int, reason: str) -> Denied:
        denial = self._client.blocked(plan, tokens).denial(reason)
        return Denied(self._id, denial.retry_after_s, denial.message, denial.kind, denial.scope)

    def undo(self, result: Granted | Denied) -> None:
        if isinstance(result, Granted) and self._plan is not None:
            self._client.give_back(result, self._plan, self._tokens)


class Teller:
    """Tells all clients what was counted since it was told last."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._since: dict[Window, int] = {}
        self._told: dict[tuple[str, str], Counts] = {}
        self._whole_s = float("-inf")

    def copy(self) -> Copy | None:
        """Return what is new, or None."""
        book = self._limiter.book
        now = book.clock()
        if now - self._whole_s >= WHOLE_S:
            self._whole_s = now
            history = tell(book)
            self._since = {window: window.at for window in book.windows()}
            return Copy(history, whole=True)
        history = tell(book, self._since)
        fresh = [counts for counts in history.windows if self._is_new(counts)]
        self._since = {window: window.at for window in book.windows()}
        if not fresh:
            return None
        return Copy(History(history.lineage, history.now_s, fresh, {}), whole=False)

    def _is_new(self, counts: Counts) -> bool:
        key = (counts.model, counts.kind)
        if self._told.get(key) == counts or not any(counts.amounts):
            return False
        self._told[key] = counts
        return True
