"""The authority is a store that all pods ask: leases from it, and shares of every limit when it does not answer.

    shared = Shared(limiter, channel, uid=..., pod=..., max_pods=...)
    await shared.start()        before this pod reports ready
    ...
    await shared.close()        when the last call has ended

Two states. *Joined*: the store admits, this pod uses leases and notes in its own book what it used. *Apart*: the
store is away, slow or new; the pod admits by its own book, up to its share of each limit, at once. It joins again
by telling what it admitted meanwhile. One call is open at a time; a request waits at most 20 ms for its answer.

This module has the requests and the leases. The conversation is `session`, the arithmetic of leases `leases`, that of
shares `shares`, the store's side `take.lua`. docs/limits.md has the bounds.
"""

import asyncio
from typing import Final

from llmproxy.gateway.limits.limiter import Grant, Limiter
from llmproxy.gateway.limits.local.counters import Blocked, Charge, Plan, Slots
from llmproxy.gateway.limits.local.kinds import MAX_WAITING, PARALLEL_RETRY_S, Denial
from llmproxy.gateway.limits.local.queue import Waiter
from llmproxy.gateway.limits.store.leases import Lease, Pool, later
from llmproxy.gateway.limits.store.protocol import Ask, Channel, Part, Told
from llmproxy.gateway.limits.store.session import LINEAGE, Session, Terms

KNOWN_S: Final = 0.05
"""For so long at most, what the store denied is denied without asking: others may give back."""
SLOTS_KNOWN_S: Final = 0.01
GIVE_BACK_S: Final = 0.01
"""What is given back is told within this,"""
ROOMY_S: Final = 0.1
"""or within this while nobody is near the limit."""
Handle = tuple[Pool, float]
"""Who asked, and how long a lease is good."""


class Shared:
    """This pod's limits while they are shared. Of the limiter's `Away`."""

    def __init__(self, limiter: Limiter, channel: Channel, *, uid: str, pod: str, max_pods: int) -> None:
        """*uid* names the proxy in the store; *max_pods* of it may be there at once, those being replaced included."""
        book = limiter.book
        self._limiter = limiter
        self._book = book
        self._pools = {plan: Pool(plan) for plan in (*book.plans.values(), *book.again.values(), book.other)}
        self._active: list[Pool] = []
        self._full: list[Pool] = []
        """Those that the store denied for maxParallel."""
        self._order = 0
        self.waiting = 0
        """Requests that wait for the store."""
        self.session: Session[Handle] = Session(limiter, channel, self, uid=uid, pod=pod, max_pods=max_pods)
        limiter.shared = self

    @property
    def joined(self) -> bool:
        """Whether the store admits; else this pod does, up to its shares."""
        return self.session.joined

    @property
    def told(self) -> Told:
        """What the conversation with the store came to."""
        return self.session.told

    def state(self) -> dict[str, object]:
        """Return what a person wants to know of it."""
        session = self.session
        found: dict[str, object] = {"joined": session.joined, "pods": len(session.parting.members)}
        if not session.joined:
            away_s = max(0.0, self._book.clock() - session.away_since_s)
            found |= {"away_s": round(away_s, 1), "reason": session.reason}
        return found

    @property
    def reason(self) -> str:
        """Why this pod is apart; empty when it is not."""
        return self.session.reason

    async def start(self) -> None:
        """Connect; return when the store has answered, or after a second without it."""
        await self.session.start()

    async def close(self) -> None:
        """Tell the store that this pod ends."""
        await self.session.close()

    # What the limiter asks.

    def ask(self, plan: Plan, tokens: int, wait_s: float) -> "Grant | Denial | Waiter[Grant | Denial]":
        """Admit from a lease, deny what is known to be denied, or ask the store."""
        pool = self._pools[plan]
        if not pool.limits:  # nothing to ask about
            return self._limiter.take(plan, tokens) or self._limiter.refuse(plan, tokens, "")
        pool.came(tokens)
        if not pool.active:
            self._activate(pool)
        if not pool.waiting:
            now = self._book.clock()
            grant = self._use(pool, tokens, now)
            if grant is not None:
                return grant
            if wait_s <= 0 and pool.is_denied(tokens, now):
                return self._denied(pool)
        if self.waiting >= MAX_WAITING:
            return self._limiter.refuse(plan, tokens, "too many requests wait already")
        waiter: Waiter[Grant | Denial] = Waiter(plan, tokens, wait_s, self._limiter)
        if wait_s > 0:
            self._limiter.decisions.queued += 1
        self._take_on(waiter)
        return waiter

    def settle(self, plan: Plan, lineage: str, charge: Charge, tokens: int, requests: int) -> None:
        """Replace a charge by what was used, here and in the store."""
        self.note_settle(plan, lineage, charge, tokens, requests)
        self._limiter.settle_here(plan, lineage, charge, tokens, requests)

    def note_settle(self, plan: Plan, lineage: str, charge: Charge, tokens: int, requests: int) -> None:
        """Remember to tell the store; what it was never told of needs no correction."""
        here = self._book.translated(lineage, charge)
        if not self.session.counts(here):
            return
        changed = False
        for window in plan.tokens:
            cost = window.charged(here.minute, here.tokens)
            if tokens < cost:
                self.session.change(window, here.minute, tokens - cost)
                changed = True
            elif tokens > cost and self.joined:  # apart it is told with what was admitted
                self.session.change(window, 0, tokens - cost)
                changed = True
        for window in plan.requests if requests else ():
            number = here.minute if window.ticker is self._book.minute else here.second
            self.session.change(window, number, -window.charged(number, 0))
            changed = True
        if changed:
            self._owe(self._pools[plan])

    def release(self, plan: Plan) -> None:
        """A call has ended: its slot is free for this pod at once, and soon for others."""
        pool = self._pools[plan]
        if not pool.limited or not self.joined:
            return
        self._owe(pool)
        if self._full:
            for pool in self._full:
                if pool.blocked is not None and pool.blocked.kind == "maxParallel":
                    pool.blocked_until = 0.0
                    if pool.waiting:
                        self.session.soon()
            self._full.clear()

    def _activate(self, pool: Pool) -> None:
        pool.active = True
        self._active.append(pool)

    def _owe(self, pool: Pool) -> None:
        """Something must be told: soon, where others may wait for it."""
        self.session.owe(ROOMY_S if pool.roomy else GIVE_BACK_S)

    # Requests.

    def _use(self, pool: Pool, tokens: int, now: float) -> Grant | None:
        """Admit from a lease that is still good."""
        leases = pool.leases
        while leases:
            lease = leases[0]
            if now < lease.until and lease.requests:
                if pool.plan.tokens and tokens > lease.tokens:
                    if len(leases) == 1:
                        return None
                else:
                    return self._grant(pool, lease, tokens)
            self._give_back(pool, leases.popleft())
        return None

    def _grant(self, pool: Pool, lease: Lease, tokens: int) -> Grant:
        plan, limiter = pool.plan, self._limiter
        lease.requests -= 1
        lease.tokens -= tokens
        for window in plan.requests:
            window.charge(lease.minute if window.ticker is self._book.minute else lease.second, 1)
        for window in plan.tokens:
            window.charge(lease.minute, tokens if tokens < window.limit else window.limit)
        for slots in plan.slots:
            slots.held += 1
        plan.in_flight += 1
        limiter.decisions.granted += 1
        if lease.requests <= pool.low and not self.session.is_busy and pool.left <= pool.low:
            self.session.soon()
        return Grant(limiter, plan, LINEAGE, lease.minute, lease.second, tokens)

    def _take_on(self, waiter: "Waiter[Grant | Denial]") -> None:
        self._order += 1
        self.waiting += 1
        waiter.order = self._order
        waiter.left = self._leave
        pool = self._pools[waiter.plan]
        loop = asyncio.get_running_loop()
        now = loop.time()
        queues = waiter.deadline > now
        if queues:
            waiter.timer = loop.call_at(waiter.deadline, self._expire, waiter)
        pool.waiting[waiter.order] = waiter
        if not pool.active:
            self._activate(pool)
        if queues and pool.is_denied(waiter.tokens, self._book.clock()):
            self.session.wake(pool.blocked_until - self._book.clock())
        elif not queues or len(pool.waiting) == 1:
            self.session.soon(since_s=now)

    def _leave(self, waiter: "Waiter[Grant | Denial]") -> None:
        if self._pools[waiter.plan].waiting.pop(waiter.order, None) is not None:
            self.waiting -= 1
        waiter.left = None
        if waiter.timer is not None:
            waiter.timer.cancel()
            waiter.timer = None

    def _expire(self, waiter: "Waiter[Grant | Denial]") -> None:
        self._leave(waiter)
        waiter.answer(self._denied(self._pools[waiter.plan], "its turn did not come in time"))

    def _denied(self, pool: Pool, reason: str = "") -> Denial:
        found = pool.blocked
        if found is None:
            return self._limiter.refuse(pool.plan, 0, reason)
        self._limiter.decisions.denied += 1
        wait_s = PARALLEL_RETRY_S if found.kind == "maxParallel" else max(0.001, pool.fits_at - self._book.clock())
        return Blocked(found.kind, found.limit, found.model, wait_s, found.by_proxy).denial(reason)

    # What the session asks.

    def asks(self, part: Part, answer_s: float) -> list[tuple[Ask, Handle]]:
        """Return what to ask for: those that wait in the order they came, then what is asked ahead of need."""
        now = self._book.clock()
        for pool in self._active:
            if pool.leases:
                self._drop_old(pool, now)
            pool.observe(now)
        self._active = sorted((pool for pool in self._active if pool.active), key=_turn)
        found = []
        for pool in self._active:
            lease_s = pool.lease_for(answer_s, now)
            with_waiting = bool(pool.waiting) and not self._is_early(pool, now)
            ask = pool.ask(part, lease_s, answer_s, with_waiting=with_waiting)
            if ask is not None:
                found.append((ask, (pool, lease_s)))
        return found

    def answer(self, handle: Handle, result: tuple[int, int, int, int], part: Part, terms: Terms) -> None:
        """Serve those that wait, or tell them what is in the way."""
        pool, _ = handle
        now = self._book.clock()
        requests, _, wait_us, place = result
        if requests:
            lease = self._lease(handle, result, terms)
            pool.blocked = None
            if now >= lease.until:  # too late to be used: asked for again
                self._give_back(pool, lease)
            else:
                pool.leases.append(lease)
                self._serve(pool, now)
            if pool.low < 0 and not pool.waiting:
                self._drop_old(pool, float("inf"))
        else:
            self._block(pool, part, place, wait_us / 1e6)
            self._deny(pool)
        if pool.waiting and not self._is_early(pool, now):
            first = next(iter(pool.waiting.values()))
            self.session.soon(since_s=min(first.deadline, asyncio.get_running_loop().time()))

    def drop(self, handle: Handle, result: tuple[int, int, int, int], terms: Terms) -> None:
        """Give back what came too late."""
        if result[0]:
            self._give_back(handle[0], self._lease(handle, result, terms))

    def reserved(self, slots: Slots) -> int:
        """Return how many requests may still be started with leases in these slots."""
        return sum(pool.left for pool in self._active if pool.leases and slots in pool.limited)

    def leave(self) -> None:
        """Go apart: the limiter decides here about everybody, in the order they came."""
        self._limiter.away = None
        for pool in self._pools.values():
            pool.blocked = None
            self._drop_old(pool, float("inf"))
        waiters = sorted((w for pool in self._pools.values() for w in pool.waiting.values()), key=lambda w: w.order)
        now = asyncio.get_running_loop().time()
        for waiter in waiters:
            self._leave(waiter)
            if not waiter.future.done():
                self._limiter.readmit(waiter, now)

    def arrive(self) -> None:
        """The store admits from now on."""
        self._limiter.away = self
        for waiter in self._limiter.line.disband():
            if not waiter.future.done():
                self._take_on(waiter)

    def due_s(self) -> float | None:
        """Return when something must be asked or given back."""
        due = [pool.leases[-1].until for pool in self._active if pool.leases]
        due.extend(pool.blocked_until for pool in self._active if pool.waiting)
        return min(due, default=None)

    # Leases.

    def _lease(self, handle: Handle, result: tuple[int, int, int, int], terms: Terms) -> Lease:
        _, lease_s = handle
        minute = terms.minute + later(lease_s, self._book.minute.width)
        second = terms.second + later(lease_s, self._book.second.width)
        return Lease(result[0], result[1], terms.sent_s + lease_s, minute, second)

    def _serve(self, pool: Pool, now: float) -> None:
        """Give leases to those that wait, in the order they came."""
        while pool.waiting:
            waiter = next(iter(pool.waiting.values()))
            grant = self._use(pool, waiter.tokens, now)
            if grant is None:
                return
            self._leave(waiter)
            if not waiter.answer(grant):
                self._limiter.undo(grant)

    def _block(self, pool: Pool, part: Part, place: int, wait_s: float) -> None:
        now = self._book.clock()
        windows, slots = list(part.windows), list(part.slots)
        if place <= len(windows):
            window = windows[place - 1]
            pool.blocked = Blocked(window.kind, window.limit, window.model, wait_s, not window.model)
        else:
            full = slots[place - 1 - len(windows)]
            pool.blocked = Blocked("maxParallel", full.limit or 0, full.model, PARALLEL_RETRY_S, not full.model)
            wait_s = SLOTS_KNOWN_S
            if pool not in self._full:
                self._full.append(pool)
        pool.fits_at = now + wait_s
        pool.blocked_until = now + min(wait_s, KNOWN_S)
        pool.blocked_tokens = next((w.tokens for w in pool.waiting.values()), 0)

    def _deny(self, pool: Pool) -> None:
        """Answer those that cannot wait, also those that came after the ask, unless a smaller one may still fit."""
        now = asyncio.get_running_loop().time()
        book_now = self._book.clock()
        for waiter in list(pool.waiting.values()):
            if waiter.deadline <= now and pool.is_denied(waiter.tokens, book_now):
                self._leave(waiter)
                waiter.answer(self._denied(pool))

    def _is_early(self, pool: Pool, now: float) -> bool:
        """Whether the store has said that there is no use in asking for those that wait."""
        first = next(iter(pool.waiting.values()), None)
        return first is not None and pool.is_denied(first.tokens, now)

    def _drop_old(self, pool: Pool, now: float) -> None:
        while pool.leases and (pool.leases[0].until <= now or not pool.leases[0].requests):
            self._give_back(pool, pool.leases.popleft())

    def _give_back(self, pool: Pool, lease: Lease) -> None:
        """Tell the store that the rest of a lease was not used."""
        for window in pool.plan.requests:
            if lease.requests:
                number = lease.minute if window.ticker is self._book.minute else lease.second
                self.session.change(window, number, -lease.requests)
        for window in pool.plan.tokens:
            if lease.tokens:
                self.session.change(window, lease.minute, -min(lease.tokens, window.limit))
        if lease.requests or lease.tokens:
            self._owe(pool)


def _turn(pool: Pool) -> float:
    return next(iter(pool.waiting), float("inf"))
