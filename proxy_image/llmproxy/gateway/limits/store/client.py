"""The client of the store: when a pod calls it, goes offline and online again. `lease_limiter` has the overview.

Nothing here knows requests; `LeaseOwner` does. `offline` has what a pod may do without the store. A call without an
answer is never repeated: its refunds are dropped (counted longer than needed), its charges are reported again.
"""

import asyncio
import logging
import secrets
from dataclasses import dataclass, field
from math import ceil
from typing import Generic, Protocol, TypeVar

from llmproxy.gateway.limits.limiter import FailureCause, Limiter, StoreStats
from llmproxy.gateway.limits.local.counters import ConcurrencyLimit, Reservation
from llmproxy.gateway.limits.local.transfer import renumber
from llmproxy.gateway.limits.local.window import Window
from llmproxy.gateway.limits.store import protocol
from llmproxy.gateway.limits.store.offline import Amounts, OfflineMode, hold_us
from llmproxy.gateway.limits.store.protocol import (
    OK,
    STALE,
    WARMING,
    Ask,
    Change,
    Channel,
    CounterIndex,
    Flag,
    StoreKeys,
    TakeReply,
    buckets_at,
)

ANSWER_S = 0.02
"""Maximum wait of a request for the store, in steps of STEP_S in which this process ran."""
STEP_S = 0.002
LAG_S = 0.002
"""Lateness of a step's timer above which the event loop was late: that step says nothing about the store."""
MAX_STEPS = 30
"""The most steps of a wait, late ones included."""
GRACE_S = 0.08
"""Longest wait for overdue answers while every waiting request is near a limit: it is rejected meanwhile, so no
window holds more than the limit on a machine where the store, too, waits for a core."""
DEAD_S = 1.0
"""Age of an unanswered call at which its connection is closed."""
BEAT_S = 1.0
"""Interval of calls of an idle pod. The store removes a pod after LIVES_S of silence."""
LIVES_S = 5.0
POLL_S = 0.1
"""Interval of calls of a pod that is offline."""
QUICK_S = 0.01
"""Slowest answer at which a pod goes online."""
OFFLINE_S = 0.25
"""The shortest time offline; twice as long, up to MAX_OFFLINE_S, when the next follows within CALM_S."""
MAX_OFFLINE_S = 4.0
CALM_S = 10.0
START_S = 1.0
STORE_EPOCH = "store"
"""Bucket numbers are those of the store's clock, also after it began anew."""
log = logging.getLogger(__name__)
H = TypeVar("H")


@dataclass(frozen=True, slots=True)
class Terms:
    """Times of all leases of one call."""

    sent_s: float
    """The pod's clock when it asked: leases last from then."""
    now_us: int
    """The store's clock when it answered."""


class LeaseOwner(Protocol[H]):
    """Owner of the requests and the leases."""

    def asks(self, index: CounterIndex, answer_s: float) -> list[tuple[Ask, H]]:
        """Return what to ask for now; *answer_s* is how long answers take."""

    def answer(self, handle: H, result: tuple[int, int, int, int], index: CounterIndex, terms: Terms) -> None:
        """Take the result of one ask."""

    def is_tight(self) -> bool:
        """Return whether every waiting request is near a limit."""

    def reject_waiting(self) -> None:
        """Reject the requests that cannot wait."""

    def drop(self, handle: H, result: tuple[int, int, int, int], terms: Terms) -> None:
        """Give back what came too late."""

    def reserved(self, concurrency: ConcurrencyLimit) -> int:
        """Return how many requests may still be started with leases under this limit."""

    def go_offline(self) -> None:
        """Give back leases; let the limiter decide about the waiting requests."""

    def go_online(self) -> None:
        """Move the requests in the limiter's queue to the store."""

    def due_s(self) -> float | None:
        """Return the pod's clock at which something must be asked or given back."""


@dataclass(slots=True)
class _StoreCall(Generic[H]):
    flag: Flag
    sent_s: float
    index: CounterIndex
    changes: Amounts
    asks: list[H]
    reported: Amounts = field(default_factory=dict)
    steps: int = 0
    """Steps on time without an answer, and those that the oldest request waited before."""
    timers: int = 0
    lagged: bool = False
    """The event loop was late during the call: what a request waits longer by that is its pod's own delay."""
    overdue: bool = False
    """No request waits for it any more."""
    late: bool = False
    """The pod went offline because of it."""


class StoreClient(Generic[H]):
    """Calls of the store by one pod; a `protocol.StoreListener`."""

    def __init__(
        self, limiter: Limiter, channel: Channel, owner: LeaseOwner[H], *, uid: str, pod: str, max_pods: int
    ) -> None:
        self.id = f"{pod}/{secrets.token_hex(4)}"
        self.online = False
        """The store admits; else this pod does, up to its quotas."""
        self.reason = "not connected yet"
        """Why it is offline."""
        self.offline_since_s = limiter.counters.clock()
        """When it went offline, by the pod's clock."""
        self.stats = StoreStats()
        self.offline = OfflineMode(limiter, self.id, max_pods)
        self._limiter = limiter
        self._counters = limiter.counters
        self._channel = channel
        self._owner = owner
        self._keys = StoreKeys(uid)
        self._hold_us = hold_us(limiter, LIVES_S)
        self._changes: Amounts = {}
        self._call: _StoreCall[H] | None = None
        self._step: asyncio.TimerHandle | None = None
        self._step_s = 0.0
        self._last_steps = 0
        """Steps of the call before, for requests that came before its answer; 0 where the event loop was late."""
        self._answer_at_s = float("-inf")
        self._overdue_steps = 0
        """Steps with an overdue call since the last answer in time."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0
        self._owed_s = float("inf")
        self._soon: asyncio.Handle | None = None
        self._oldest_s: float | None = None
        self._can_call = False
        self._has_more = False
        self._answer_s = 0.001
        self._sent_s = self._disconnect_s = self._online_s = float("-inf")
        self._offline_s = OFFLINE_S
        self._answered = asyncio.Event()
        self._ending = False

    async def start(self) -> None:
        """Connect; return when the store has answered, or after START_S without it."""
        self.offline.set_quotas()
        self._channel.start(self)
        try:
            async with asyncio.timeout(START_S):
                await self._answered.wait()
        except TimeoutError:
            log.warning(
                "limits_store_unreachable",
                extra={"reason": self.reason, "quota": f"1/{self.offline.max_pods} of each limit"},
            )

    async def close(self) -> None:
        """Tell the store that this pod ends."""
        self._ending = True
        if self._can_call and self._call is None:
            self._send("bye")
            for _ in range(int(10 * ANSWER_S / 0.01)):
                if self._call is None:
                    break
                await asyncio.sleep(0.01)
        for handle in (self._timer, self._step, self._soon):
            if handle is not None:
                handle.cancel()
        await self._channel.close()

    # Calls of the lease owner.

    def soon(self, *, since_s: float | None = None) -> None:
        """Ask at the end of this turn of the loop; *since_s*: by the loop's clock, a request waits since then."""
        if since_s is not None and self._oldest_s is None:
            self._oldest_s = since_s
        if self._call is not None:
            self._has_more = True
        elif self._soon is None and self.online:
            self._soon = asyncio.get_running_loop().call_soon(self._ask)

    def wake(self, seconds: float) -> None:
        """Look again after so long, or before."""
        loop = asyncio.get_running_loop()
        at_s = loop.time() + max(0.0, seconds)
        if self._timer is not None:
            if self._timer_s <= at_s:
                return
            self._timer.cancel()
        self._timer_s = at_s  # uvloop's handle of a timer that is due now cannot say it
        self._timer = loop.call_at(at_s, self._look)

    def owe(self, seconds: float) -> None:
        """Call within so long, because there is something to report."""
        if seconds < self._owed_s:
            self._owed_s = seconds
            self.wake(seconds)

    @property
    def is_busy(self) -> bool:
        """An answer is awaited."""
        return self._call is not None

    def change(self, window: Window, number: int, amount: int) -> None:
        """Report a change with the next call; bucket 0 is the current one."""
        key = (window, number)
        self._changes[key] = self._changes.get(key, 0) + amount

    def has_reported(self, reservation: Reservation) -> bool:
        """Return whether the store knows of *reservation*, given in the counters' numbers."""
        return self.online or self.offline.is_reported(reservation)

    # Events of the channel.

    def connected(self) -> None:
        """Try the store."""
        self._can_call = True
        self._send("poll")

    def lost(self, reason: str) -> None:
        """No answer will come."""
        self._can_call = False
        call, self._call = self._call, None
        if call is not None:
            self._forget(call)
        self._disconnect("connection", reason)

    def answered(self, data: bytes) -> None:
        """Take the answer to the open call."""
        call, self._call = self._call, None
        if call is None:
            return
        now = self._counters.clock()
        late = call.overdue or call.lagged or now > self._step_s + LAG_S
        self._last_steps = 0 if late else call.steps + (now < self._step_s)
        self._overdue_steps = self._overdue_steps if call.overdue else 0
        self._answer_at_s = asyncio.get_running_loop().time()
        self._cancel_step()
        reply = protocol.decode(data)
        took_s = now - call.sent_s
        self.stats.answered(took_s)
        self._answer_s = took_s if call.late else 0.8 * self._answer_s + 0.2 * took_s
        if reply.status == STALE:  # a process stood still, mostly this one before it sent: the store took nothing
            self._take_back(call, refunds=True)
        self._follow(reply, call)
        for window in call.index.windows:
            window.advance(window.ticker.number)
        terms = Terms(call.sent_s, reply.now_us)
        if call.late or (call.asks and not self.online):
            for handle, result in zip(call.asks, reply.results, strict=False):
                self._owner.drop(handle, result, terms)
        elif self.online:
            self._admitted(call, reply, terms)
        else:
            self._try_online(call, reply, took_s)
        self._show(reply, call.index)
        if self._call is None:  # else it joins right now
            self._answered.set()
        if self._has_more:
            self._has_more = False
            self.soon()
        self._schedule()

    def _admitted(self, call: _StoreCall[H], reply: TakeReply, terms: Terms) -> None:
        if reply.status == STALE:
            self.soon()
            return
        if reply.status != OK:
            if reply.status == WARMING:
                self._disconnect("store_restarted", "the store has restarted without its counters")
            else:
                self._disconnect("expired", "the store has removed this pod because it was silent")
            return
        self.offline.members = reply.pods
        self.offline.note(buckets_at(reply.now_us, self._counters))
        for handle, result in zip(call.asks, reply.results, strict=True):
            if call.overdue:
                self._owner.drop(handle, result, terms)
            else:
                self._owner.answer(handle, result, call.index, terms)
        if call.overdue:
            self.soon()

    def _try_online(self, call: _StoreCall[H], reply: TakeReply, took_s: float) -> None:
        """Go online once the store is quick and knows enough."""
        if call.flag == "join" and reply.status == OK and took_s <= ANSWER_S:
            self._go_online(call, reply)
        elif reply.status == WARMING:
            self.reason = "the store is new and cannot know what was admitted before"
        elif took_s > QUICK_S:
            self.reason = f"the store took {took_s * 1000:.0f} ms"
        elif call.flag == "poll" and self._counters.clock() >= self._disconnect_s + self._offline_s:
            self._send("join")

    def _go_online(self, call: _StoreCall[H], reply: TakeReply) -> None:
        now = self.offline.local_admissions()
        for key in now.keys() | call.reported.keys():  # what came between the report and its answer
            amount = now.get(key, 0) - call.reported.get(key, 0)
            if amount:
                self.change(*key, amount)
        self.online = True
        self.reason = ""
        self._online_s = self._counters.clock()
        self.offline.members = reply.pods
        log.info("limits_store_connected", extra={"pods": len(reply.pods)})
        self._owner.go_online()
        self.soon()

    def _disconnect(self, cause: FailureCause, reason: str) -> None:
        """Go offline, at once."""
        self.reason = reason
        self.stats.failures[cause] += 1
        self._oldest_s = None
        if self.online:
            now = self._counters.clock()
            self._offline_s = min(2 * self._offline_s, MAX_OFFLINE_S) if now - self._online_s < CALM_S else OFFLINE_S
            self._disconnect_s = self.offline_since_s = now
            self.online = False
            self.stats.disconnects += 1
            self.offline.disconnect()
            fields = {"pods": len(self.offline.members), "quota_is_0": self.offline.without_quota()}
            log.warning("limits_store_disconnected", extra={"reason": reason, **fields})
            self._owner.go_offline()
        self._schedule()

    # One call.

    def _ask(self) -> None:
        self._soon = None
        if self.online and self._call is None:
            self._send("take")

    def _send(self, flag: Flag) -> None:
        if not self._can_call:
            return
        loop = asyncio.get_running_loop()
        index = CounterIndex()
        asks = self._owner.asks(index, self._answer_s) if flag == "take" else []
        reported = self.offline.local_admissions() if flag == "join" else {}
        changes, self._changes = self._changes, {}
        report = [(index.window(w), number, amount) for (w, number), amount in (*changes.items(), *reported.items())]
        for concurrency in self._counters.concurrency():
            if concurrency.limit is not None:
                index.slot(concurrency)
        payload = protocol.encode(self._payload(flag, index, report, [ask for ask, _ in asks]))
        call = self._call = _StoreCall(
            flag, self._counters.clock(), index, changes, [handle for _, handle in asks], reported
        )
        if self._oldest_s is not None and self._oldest_s < self._answer_at_s:
            call.steps = min(ceil((loop.time() - self._oldest_s) / STEP_S), self._last_steps)
        self._oldest_s = None
        self._owed_s = float("inf")
        self._sent_s = call.sent_s
        self.stats.calls += 1
        self._start_step(self._counters.clock())
        self._channel.call(self._keys.of(index), payload)

    def _payload(self, flag: Flag, index: CounterIndex, changes: list[Change], asks: list[Ask]) -> tuple[object, ...]:
        windows = [(w.limit, w.ticker.window_s, w.by_token, not w.model) for w in index.windows]
        concurrency = [(s.limit, s.held + self._owner.reserved(s)) for s in index.concurrency]
        queues = self._limiter.queues
        expected = self.offline.members if flag == "join" else []
        synced = self._counters.epoch == STORE_EPOCH
        sent_us = round((self._counters.clock() - self._counters.tickers[0].zero) * 1e6) if synced else 0
        return (
            self.id,
            self._channel.run,
            self._hold_us,
            flag,
            windows,
            concurrency,
            changes,
            asks,
            queues,
            expected,
            sent_us,
        )

    def _start_step(self, since_s: float) -> None:
        self._step_s = since_s + STEP_S
        delay_s = max(0.0, self._step_s - self._counters.clock())
        self._step = asyncio.get_running_loop().call_later(delay_s, self._end_step)

    def _cancel_step(self) -> None:
        if self._step is not None:
            self._step.cancel()
            self._step = None

    def _end_step(self) -> None:
        """Count a step without an answer; after the last one nobody waits longer."""
        call = self._call
        if call is None:
            return
        now = self._counters.clock()
        on_time = now - self._step_s <= LAG_S
        call.timers += 1
        call.steps += on_time
        call.lagged |= not on_time
        if call.steps * STEP_S >= ANSWER_S or call.timers >= MAX_STEPS:
            call.overdue = True
            self._overdue_steps += 1
            if not self.online or not self._owner.is_tight() or self._overdue_steps * STEP_S > GRACE_S:
                self._give_up(call)
                return
            self._owner.reject_waiting()
        self._start_step(self._step_s if on_time else now)

    def _give_up(self, call: _StoreCall[H]) -> None:
        call.late = True
        self._forget(call)
        self._step = asyncio.get_running_loop().call_later(DEAD_S, self._channel.abort)
        self._disconnect("timeout", f"the store did not answer within {ANSWER_S * 1000:.0f} ms")

    def _forget(self, call: _StoreCall[H]) -> None:
        """Give up a call that the store may have taken: its charges are reported again, its refunds are not."""
        self._cancel_step()
        self._take_back(call, refunds=False)

    def _take_back(self, call: _StoreCall[H], *, refunds: bool) -> None:
        for key, amount in call.changes.items():
            if amount > 0 or refunds:
                self.change(*key, amount)
        call.changes = {}

    def _follow(self, reply: TakeReply, call: _StoreCall[H]) -> None:
        """Count in the store's buckets, by its clock, as far as the time of the answer lets that be known.

        It is corrected as little as that allows: a jump would let this pod's own admissions leave too early.
        """
        counters = self._counters
        now = counters.clock()
        earliest, latest = call.sent_s - reply.now_us / 1e6, now - reply.now_us / 1e6
        if counters.epoch != STORE_EPOCH:
            renumber(counters, STORE_EPOCH, earliest)
        counters.adjust(earliest, latest)

    def _show(self, reply: TakeReply, index: CounterIndex) -> None:
        """Note for headers and metrics what others use."""
        for window, used in zip(index.windows, reply.used, strict=True):
            window.elsewhere = max(0, used - window.used)
        for concurrency, others in zip(index.concurrency, reply.others, strict=True):
            concurrency.elsewhere = others

    # When.

    def _schedule(self) -> None:
        """Set the time of the next look."""
        if self._ending:
            return
        if not self.online:
            self.wake(POLL_S)
            return
        now, owner_s = self._counters.clock(), self._owner.due_s()
        self.wake(min(self._sent_s + BEAT_S - now, self._owed_s, float("inf") if owner_s is None else owner_s - now))

    def _look(self) -> None:
        self._timer = None
        if self._call is None and self._can_call and not self._ending:
            self._send("take" if self.online else "poll")
        elif not self.online:
            self._schedule()
