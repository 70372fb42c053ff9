"""The limiter of a pod that shares limits: leases from a store, and a quota of each limit while it does not answer.

    shared = LeaseLimiter(limiter, channel, uid=..., pod=..., max_pods=...)
    await shared.start()        before this pod reports ready
    ...
    await shared.close()        when the last call has ended

Online, the store admits, and this pod uses leases and counts in its own counters what it used. Offline, because the
store is away, slow or new, the pod admits by its own counters, up to its quota of each limit, at once. It goes online
again by reporting what it admitted meanwhile. One call is open at a time; a request waits at most 20 ms for its answer.

This module has the requests and the leases. `client` has the calls of the store, `leases` the arithmetic of leases,
`offline` that of quotas, `take.lua` the store's side. docs/limits.md has the bounds.
"""

import asyncio
from typing import Final

import msgspec

from llmproxy.gateway.limits.limiter import Grant, Limiter, StoreStats
from llmproxy.gateway.limits.local.counters import ConcurrencyLimit, ModelLimits, Reservation
from llmproxy.gateway.limits.local.kinds import MAX_PARALLEL, MAX_WAITING, PARALLEL_RETRY_S, Rejection
from llmproxy.gateway.limits.local.queue import Waiter
from llmproxy.gateway.limits.store.client import STORE_EPOCH, StoreClient, Terms
from llmproxy.gateway.limits.store.leases import Lease, LeasePool, later
from llmproxy.gateway.limits.store.protocol import Ask, Channel, CounterIndex, buckets_at

REJECTION_TTL_S: Final = 0.05
"""Longest reuse of the store's rejection without a new call: others may give back."""
PARALLEL_REJECTION_TTL_S: Final = 0.01
OVERDUE_RETRY_S: Final = 0.1
"""Wait of a request that is rejected because the store's answer is overdue: by then it came, or the pod is offline."""
REFUND_FLUSH_S: Final = 0.01
"""Maximum delay before a refund is reported."""
REFUND_FLUSH_ROOMY_S: Final = 0.1
"""The same while nobody is near a limit."""
Handle = tuple[LeasePool, float]
"""Waiter of the request, and the length of its lease."""


class LeaseLimiter:
    """This pod's limits while they are shared: the limiter's `SharedLimiter`."""

    def __init__(self, limiter: Limiter, channel: Channel, *, uid: str, pod: str, max_pods: int) -> None:
        """*uid* names the proxy in the store; *max_pods* of it may be there at once, those being replaced included."""
        counters = limiter.counters
        self._limiter = limiter
        self._counters = counters
        every = (*counters.models.values(), *counters.fallbacks.values(), counters.other)
        self._pools = {limits: LeasePool(limits) for limits in every}
        self._active: list[LeasePool] = []
        self._full: list[LeasePool] = []
        """Those that the store rejected for maxParallel."""
        self._order = 0
        self.waiting = 0
        """Requests that wait for the store."""
        self.client: StoreClient[Handle] = StoreClient(limiter, channel, self, uid=uid, pod=pod, max_pods=max_pods)
        limiter.shared = self

    @property
    def online(self) -> bool:
        """The store admits; else this pod does, up to its quotas."""
        return self.client.online

    @property
    def stats(self) -> StoreStats:
        """Statistics of the calls of the store."""
        return self.client.stats

    def state(self) -> dict[str, object]:
        """Return its state for `/readyz`."""
        client = self.client
        state: dict[str, object] = {"online": client.online, "pods": len(client.offline.members)}
        if not client.online:
            offline_s = max(0.0, self._counters.clock() - client.offline_since_s)
            state |= {"offline_s": round(offline_s, 1), "reason": client.reason}
        return state

    @property
    def reason(self) -> str:
        """Why this pod is offline; empty when it is not."""
        return self.client.reason

    async def start(self) -> None:
        """Connect; return when the store has answered, or after a second without it."""
        await self.client.start()

    async def close(self) -> None:
        """Tell the store that this pod ends."""
        await self.client.close()

    # Calls of the limiter.

    def ask(self, limits: ModelLimits, tokens: int, wait_s: float) -> "Grant | Rejection | Waiter[Grant | Rejection]":
        """Admit from a lease, reject by a rejection that still holds, or ask the store."""
        pool = self._pools[limits]
        if not pool.limit_count:  # nothing to ask about
            return self._limiter.take(limits, tokens) or self._limiter.reject(limits, tokens)
        pool.count_arrival(tokens)
        if not pool.active:
            self._activate(pool)
        if not pool.waiting:
            now = self._counters.clock()
            grant = self._use(pool, tokens, now)
            if grant is not None:
                return grant
            if wait_s <= 0 and pool.is_rejected(tokens, now):
                return self._rejection(pool)
        if self.waiting >= MAX_WAITING:
            return self._limiter.reject(limits, tokens, "too many requests wait already")
        waiter: Waiter[Grant | Rejection] = Waiter(limits, tokens, wait_s, self._limiter)
        if wait_s > 0:
            self._limiter.decisions.queued += 1
        self._take_on(waiter)
        return waiter

    def settle(self, limits: ModelLimits, reservation: Reservation, tokens: int, requests: int) -> None:
        """Replace a reservation by what was used, here and in the store."""
        self.note_settle(limits, reservation, tokens, requests)
        self._limiter.settle_here(limits, reservation, tokens, requests)

    def note_settle(self, limits: ModelLimits, reservation: Reservation, tokens: int, requests: int) -> None:
        """Remember a change for the store; what was never reported to it needs no correction."""
        here = self._counters.translate(reservation)
        if not self.client.has_reported(here):
            return
        changed = False
        for window in limits.tokens:
            number = here.buckets[window.ticker.index]
            cost = window.charged(number, here.tokens)
            if tokens < cost:
                self.client.change(window, number, tokens - cost)
                changed = True
            elif tokens > cost and self.online:  # offline it is reported with what was admitted
                self.client.change(window, 0, tokens - cost)
                changed = True
        for window in limits.requests if requests else ():
            number = here.buckets[window.ticker.index]
            self.client.change(window, number, -window.charged(number, 0))
            changed = True
        if changed:
            self._owe(self._pools[limits])

    def release(self, limits: ModelLimits) -> None:
        """End a call: its slot is free for this pod at once, and soon for others."""
        pool = self._pools[limits]
        if not pool.limited or not self.online:
            return
        self._owe(pool)
        if self._full:
            for pool in self._full:
                if pool.rejection is not None and not pool.rejection.limit_kind.window_s:
                    pool.rejected_until = 0.0
                    if pool.waiting:
                        self.client.soon()
            self._full.clear()

    def _activate(self, pool: LeasePool) -> None:
        pool.active = True
        self._active.append(pool)

    def _owe(self, pool: LeasePool) -> None:
        """Report within a delay: soon, where others may wait for it."""
        self.client.owe(REFUND_FLUSH_ROOMY_S if pool.roomy else REFUND_FLUSH_S)

    # Requests.

    def _use(self, pool: LeasePool, tokens: int, now: float) -> Grant | None:
        """Admit from a lease that is still good."""
        leases = pool.leases
        while leases:
            lease = leases[0]
            if now < lease.until and lease.requests:
                if pool.limits.tokens and tokens > lease.tokens:
                    if len(leases) == 1:
                        return None
                else:
                    return self._grant(pool, lease, tokens)
            self._give_back(pool, leases.popleft())
        return None

    def _grant(self, pool: LeasePool, lease: Lease, tokens: int) -> Grant:
        limits, limiter = pool.limits, self._limiter
        lease.requests -= 1
        lease.tokens -= tokens
        for window in limits.requests:
            window.charge(lease.buckets[window.ticker.index], 1)
        for window in limits.tokens:
            window.charge(lease.buckets[window.ticker.index], tokens if tokens < window.limit else window.limit)
        for concurrency in limits.concurrency:
            concurrency.held += 1
        limits.in_flight += 1
        limiter.decisions.granted += 1
        if lease.requests <= pool.low and not self.client.is_busy and pool.remaining <= pool.low:
            self.client.soon()
        return Grant(limiter, limits, STORE_EPOCH, lease.buckets, tokens)

    def _take_on(self, waiter: "Waiter[Grant | Rejection]") -> None:
        self._order += 1
        self.waiting += 1
        waiter.order = self._order
        waiter.on_leave = self._leave
        pool = self._pools[waiter.limits]
        loop = asyncio.get_running_loop()
        now = loop.time()
        queues = waiter.deadline > now
        if queues:
            waiter.timer = loop.call_at(waiter.deadline, self._expire, waiter)
        pool.waiting[waiter.order] = waiter
        if not pool.active:
            self._activate(pool)
        if queues and pool.is_rejected(waiter.tokens, self._counters.clock()):
            self.client.wake(pool.rejected_until - self._counters.clock())
        elif not queues or len(pool.waiting) == 1:
            self.client.soon(since_s=now)

    def _leave(self, waiter: "Waiter[Grant | Rejection]") -> None:
        if self._pools[waiter.limits].waiting.pop(waiter.order, None) is not None:
            self.waiting -= 1
        waiter.on_leave = None
        if waiter.timer is not None:
            waiter.timer.cancel()
            waiter.timer = None

    def _expire(self, waiter: "Waiter[Grant | Rejection]") -> None:
        self._leave(waiter)
        waiter.answer(self._rejection(self._pools[waiter.limits], "its turn did not come in time"))

    def _rejection(self, pool: LeasePool, reason: str = "") -> Rejection:
        last = pool.rejection
        if last is None:
            return self._limiter.reject(pool.limits, 0, reason)
        self._limiter.decisions.rejected += 1
        wait_s = PARALLEL_RETRY_S
        if last.limit_kind.window_s:
            wait_s = max(0.001, pool.fits_at - self._counters.clock())
        return Rejection(last.limit_kind, last.limit, last.model, wait_s, last.by_proxy, reason)

    # Calls of the store client.

    def asks(self, index: CounterIndex, answer_s: float) -> list[tuple[Ask, Handle]]:
        """Return what to ask for: those that wait in the order they came, then what is asked ahead of need."""
        now = self._counters.clock()
        for pool in self._active:
            if pool.leases:
                self._drop_old(pool, now)
            pool.observe(now)
        self._active = sorted((pool for pool in self._active if pool.active), key=_turn)
        asks = []
        for pool in self._active:
            lease_s = pool.lease_for(answer_s, now)
            with_waiting = bool(pool.waiting) and not self._is_early(pool, now)
            ask = pool.ask(index, lease_s, answer_s, with_waiting=with_waiting)
            if ask is not None:
                asks.append((ask, (pool, lease_s)))
        return asks

    def answer(self, handle: Handle, result: tuple[int, int, int, int], index: CounterIndex, terms: Terms) -> None:
        """Serve the waiting requests, or reject them."""
        pool, _ = handle
        now = self._counters.clock()
        requests, _, wait_us, place = result
        if requests:
            lease = self._lease(handle, result, terms)
            pool.rejection = None
            if now >= lease.until:  # too late to be used: asked for again
                self._give_back(pool, lease)
            else:
                pool.leases.append(lease)
                self._serve(pool, now)
            if pool.low < 0 and not pool.waiting:
                self._drop_old(pool, float("inf"))
        else:
            self._block(pool, index, place, wait_us / 1e6)
            self._reject_waiting(pool)
        if pool.waiting and not self._is_early(pool, now):
            first = next(iter(pool.waiting.values()))
            self.client.soon(since_s=min(first.deadline, asyncio.get_running_loop().time()))

    def is_tight(self) -> bool:
        """Return whether every waiting request is near a limit."""
        return all(pool.is_tight() for pool in self._active if pool.waiting)

    def reject_waiting(self) -> None:
        """Reject the requests that cannot wait, because the store's answer is overdue."""
        now = asyncio.get_running_loop().time()
        for pool in self._active:
            for waiter in [waiter for waiter in pool.waiting.values() if waiter.deadline <= now]:
                self._leave(waiter)
                rejection = self._limiter.reject(pool.limits, waiter.tokens, "the store of shared limits is slow")
                wait_s = max(rejection.retry_after_s, OVERDUE_RETRY_S)
                waiter.answer(msgspec.structs.replace(rejection, retry_after_s=wait_s))

    def drop(self, handle: Handle, result: tuple[int, int, int, int], terms: Terms) -> None:
        """Give back what came too late."""
        if result[0]:
            self._give_back(handle[0], self._lease(handle, result, terms))

    def reserved(self, concurrency: ConcurrencyLimit) -> int:
        """Return how many requests may still be started with leases under this limit."""
        return sum(pool.remaining for pool in self._active if pool.leases and concurrency in pool.limited)

    def go_offline(self) -> None:
        """Let the limiter decide here about all waiting requests, in the order they came."""
        self._limiter.remote = None
        for pool in self._pools.values():
            pool.rejection = None
            self._drop_old(pool, float("inf"))
        waiters = sorted((w for pool in self._pools.values() for w in pool.waiting.values()), key=lambda w: w.order)
        now = asyncio.get_running_loop().time()
        for waiter in waiters:
            self._leave(waiter)
            if not waiter.future.done():
                self._limiter.readmit(waiter, now)

    def go_online(self) -> None:
        """Let the store admit from now on."""
        self._limiter.remote = self
        for waiter in self._limiter.queue.drain():
            if not waiter.future.done():
                self._take_on(waiter)

    def due_s(self) -> float | None:
        """Return when something must be asked or given back."""
        due = [pool.leases[-1].until for pool in self._active if pool.leases]
        due.extend(pool.rejected_until for pool in self._active if pool.waiting)
        return min(due, default=None)

    # Leases.

    def _lease(self, handle: Handle, result: tuple[int, int, int, int], terms: Terms) -> Lease:
        _, lease_s = handle
        tickers = self._counters.tickers
        current = buckets_at(terms.now_us, self._counters)
        buckets = tuple([n + later(lease_s, ticker.width) for n, ticker in zip(current, tickers, strict=True)])
        return Lease(result[0], result[1], terms.sent_s + lease_s, buckets)

    def _serve(self, pool: LeasePool, now: float) -> None:
        """Give leases to the waiting requests, in the order they came."""
        while pool.waiting:
            waiter = next(iter(pool.waiting.values()))
            grant = self._use(pool, waiter.tokens, now)
            if grant is None:
                return
            self._leave(waiter)
            if not waiter.answer(grant):
                self._limiter.undo(grant)

    def _block(self, pool: LeasePool, index: CounterIndex, place: int, wait_s: float) -> None:
        now = self._counters.clock()
        windows, concurrency = list(index.windows), list(index.concurrency)
        if place <= len(windows):
            window = windows[place - 1]
            pool.rejection = Rejection(window.kind, window.limit, window.model, wait_s, not window.model)
        else:
            full = concurrency[place - 1 - len(windows)]
            pool.rejection = Rejection(MAX_PARALLEL, full.limit or 0, full.model, PARALLEL_RETRY_S, not full.model)
            wait_s = PARALLEL_REJECTION_TTL_S
            if pool not in self._full:
                self._full.append(pool)
        pool.fits_at = now + wait_s
        pool.rejected_until = now + min(wait_s, REJECTION_TTL_S)
        pool.rejected_tokens = next((w.tokens for w in pool.waiting.values()), 0)

    def _reject_waiting(self, pool: LeasePool) -> None:
        """Reject those that cannot wait, also those that came after the ask, unless a smaller one may still fit."""
        now = asyncio.get_running_loop().time()
        book_now = self._counters.clock()
        for waiter in list(pool.waiting.values()):
            if waiter.deadline <= now and pool.is_rejected(waiter.tokens, book_now):
                self._leave(waiter)
                waiter.answer(self._rejection(pool))

    def _is_early(self, pool: LeasePool, now: float) -> bool:
        """Return whether the store's last answer makes asking for the waiting requests useless."""
        first = next(iter(pool.waiting.values()), None)
        return first is not None and pool.is_rejected(first.tokens, now)

    def _drop_old(self, pool: LeasePool, now: float) -> None:
        while pool.leases and (pool.leases[0].until <= now or not pool.leases[0].requests):
            self._give_back(pool, pool.leases.popleft())

    def _give_back(self, pool: LeasePool, lease: Lease) -> None:
        """Report that the rest of a lease was not used."""
        for window in pool.limits.requests:
            if lease.requests:
                self.client.change(window, lease.buckets[window.ticker.index], -lease.requests)
        for window in pool.limits.tokens:
            if lease.tokens:
                self.client.change(window, lease.buckets[window.ticker.index], -min(lease.tokens, window.limit))
        if lease.requests or lease.tokens:
            self._owe(pool)


def _turn(pool: LeasePool) -> float:
    return next(iter(pool.waiting), float("inf"))
