"""One pod's conversation with the store: when it asks, goes apart and joins again. `shared` has the overview.

Nothing here knows requests; `Desk` does. What a pod may do while it is apart is `parting`. A call that got no answer
is never repeated: what it may have given back is dropped (counted longer than needed), what it may have added is told
again.
"""

import asyncio
import logging
import secrets
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from llmproxy.gateway.limits.limiter import Limiter
from llmproxy.gateway.limits.local.counters import Charge, Slots
from llmproxy.gateway.limits.local.transfer import renumber
from llmproxy.gateway.limits.local.window import Window
from llmproxy.gateway.limits.store import protocol
from llmproxy.gateway.limits.store.offline import Amounts, Parting, hold_us, window_seconds
from llmproxy.gateway.limits.store.protocol import OK, WARMING, Ask, Cause, Change, Channel, Flag, Keys, Part, Reply

ANSWER_S = 0.02
"""A request waits so long for the store, and then no longer."""
LOOK_S = 0.001
DEAD_S = 1.0
"""A connection without an answer for so long is broken."""
BEAT_S = 1.0
"""How often the store hears from a pod that asks nothing; it counts a pod out after LIVES_S of silence."""
LIVES_S = 5.0
POLL_S = 0.1
"""How often a pod that is apart tries the store."""
QUICK_S = 0.01
"""Only a store that answered within this is joined."""
APART_S = 0.25
"""The shortest stay apart; twice as long, up to MAX_APART_S, when the next follows within CALM_S."""
MAX_APART_S = 4.0
CALM_S = 10.0
START_S = 1.0
LINEAGE = "store"
"""Bucket numbers are those of the store's clock, also after it began anew."""
log = logging.getLogger(__name__)
H = TypeVar("H")


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for all leases of one call."""

    sent_s: float
    """The pod's clock when it asked: leases last from then."""
    minute: int
    second: int


class Desk(Protocol[H]):
    """Has the requests and the leases."""

    def asks(self, part: Part, answer_s: float) -> list[tuple[Ask, H]]:
        """Return what to ask for now; *answer_s* is how long answers take."""

    def answer(self, handle: H, result: tuple[int, int, int, int], part: Part, terms: Terms) -> None:
        """Take the result of one ask."""

    def drop(self, handle: H, result: tuple[int, int, int, int], terms: Terms) -> None:
        """Give back what came too late."""

    def reserved(self, slots: Slots) -> int:
        """Return how many requests may still be started with leases in these slots."""

    def leave(self) -> None:
        """The pod goes apart: give back leases, let the limiter decide about those that wait."""

    def arrive(self) -> None:
        """The pod has joined: those that wait in the limiter's line wait for the store."""

    def due_s(self) -> float | None:
        """Return the pod's clock at which something must be asked or given back."""


@dataclass(slots=True)
class _Call(Generic[H]):
    flag: Flag
    sent_s: float
    part: Part
    changes: Amounts
    asks: list[H]
    reported: Amounts = field(default_factory=dict)
    oldest_s: float = 0.0
    looked: bool = False
    late: bool = False


class Session(Generic[H]):
    """Of one pod; a `protocol.Owner`."""

    def __init__(self, limiter: Limiter, channel: Channel, desk: Desk[H], *, uid: str, pod: str, max_pods: int) -> None:
        self.id = f"{pod}/{secrets.token_hex(4)}"
        self.joined = False
        """The store admits; else this pod does, up to its shares."""
        self.reason = "not connected yet"
        """Why it is apart."""
        self.away_since_s = limiter.book.clock()
        """When it went apart, by the pod's clock."""
        self.told = protocol.Told()
        self.parting = Parting(limiter, self.id, max_pods)
        self._limiter = limiter
        self._book = limiter.book
        self._channel = channel
        self._desk = desk
        self._keys = Keys(uid)
        self._hold_us = hold_us(limiter, LIVES_S)
        self._changes: Amounts = {}
        self._call: _Call[H] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0
        self._owed_s = float("inf")
        self._soon: asyncio.Handle | None = None
        self._oldest_s: float | None = None
        self._can_call = False
        self._wanted = False
        self._answer_s = 0.001
        self._said_s = self._cut_s = self._join_s = float("-inf")
        self._apart_s = APART_S
        self._answered = asyncio.Event()
        self._ending = False

    async def start(self) -> None:
        """Connect; return when the store has answered, or after START_S without it."""
        self.parting.share_out()
        self._channel.start(self)
        try:
            async with asyncio.timeout(START_S):
                await self._answered.wait()
        except TimeoutError:
            log.warning("limits_store_away", extra={"reason": self.reason, "share_of": self.parting.max_pods})

    async def close(self) -> None:
        """Tell the store that this pod ends."""
        self._ending = True
        if self._can_call and self._call is None:
            self._send("bye")
            for _ in range(int(10 * ANSWER_S / 0.01)):
                if self._call is None:
                    break
                await asyncio.sleep(0.01)
        for handle in (self._timer, self._deadline, self._soon):
            if handle is not None:
                handle.cancel()
        await self._channel.close()

    # What the desk says.

    def soon(self, *, since_s: float | None = None) -> None:
        """Ask at the end of this turn of the loop; *since_s*: by the loop's clock, a request waits since then."""
        if since_s is not None and self._oldest_s is None:
            self._oldest_s = since_s
        if self._call is not None:
            self._wanted = True
        elif self._soon is None and self.joined:
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
        """Something is to be told within so long."""
        if seconds < self._owed_s:
            self._owed_s = seconds
            self.wake(seconds)

    @property
    def is_busy(self) -> bool:
        """Whether an answer is awaited."""
        return self._call is not None

    def change(self, window: Window, number: int, amount: int) -> None:
        """Tell the store with the next call; bucket 0 is the current one."""
        key = (window, number)
        self._changes[key] = self._changes.get(key, 0) + amount

    def counts(self, charge: Charge) -> bool:
        """Whether the store knows of *charge*, given in this book's numbers."""
        return self.joined or self.parting.is_told(charge)

    # What the channel says.

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
        self._cut("lost", reason)

    def answered(self, data: bytes) -> None:
        """Take the answer to the open call."""
        call, self._call = self._call, None
        if call is None:
            return
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        reply = protocol.decode(data)
        now = self._book.clock()
        took_s = now - call.sent_s
        self.told.answered(took_s)
        self._answer_s = took_s if call.late else 0.8 * self._answer_s + 0.2 * took_s
        self._follow(reply, call)
        for window in call.part.windows:
            window.advance(window.ticker.number)
        terms = Terms(call.sent_s, reply.minute, reply.second)
        if call.late or (call.asks and not self.joined):
            for handle, result in zip(call.asks, reply.results, strict=False):
                self._desk.drop(handle, result, terms)
        elif self.joined:
            self._admitted(call, reply, terms)
        else:
            self._tried(call, reply, took_s)
        self._show(reply, call.part)
        if self._call is None:  # else it joins right now
            self._answered.set()
        if self._wanted:
            self._wanted = False
            self.soon()
        self._plan()

    def _admitted(self, call: _Call[H], reply: Reply, terms: Terms) -> None:
        if reply.status != OK:
            if reply.status == WARMING:
                self._cut("anew", "the store began anew")
            else:
                self._cut("out", "the store had counted this pod out")
            return
        self.parting.members = reply.pods
        self.parting.note(reply.minute, reply.second)
        for handle, result in zip(call.asks, reply.results, strict=True):
            self._desk.answer(handle, result, call.part, terms)

    def _tried(self, call: _Call[H], reply: Reply, took_s: float) -> None:
        """Join once the store is quick and knows enough."""
        if call.flag == "join" and reply.status == OK and took_s <= ANSWER_S:
            self._join(call, reply)
        elif reply.status == WARMING:
            self.reason = "the store is new and cannot know what was admitted before"
        elif took_s > QUICK_S:
            self.reason = f"the store took {took_s * 1000:.0f} ms"
        elif call.flag == "poll" and self._book.clock() >= self._cut_s + self._apart_s:
            self._send("join")

    def _join(self, call: _Call[H], reply: Reply) -> None:
        now = self.parting.own()
        for key in now.keys() | call.reported.keys():  # what came between the report and its answer
            amount = now.get(key, 0) - call.reported.get(key, 0)
            if amount:
                self.change(*key, amount)
        self.joined = True
        self.reason = ""
        self._join_s = self._book.clock()
        self.parting.members = reply.pods
        log.info("limits_shared", extra={"pods": len(reply.pods)})
        self._desk.arrive()
        self.soon()

    def _cut(self, cause: Cause, reason: str) -> None:
        """Go apart, at once."""
        self.reason = reason
        self.told.failures[cause] += 1
        self._oldest_s = None
        if self.joined:
            now = self._book.clock()
            self._apart_s = min(2 * self._apart_s, MAX_APART_S) if now - self._join_s < CALM_S else APART_S
            self._cut_s = self.away_since_s = now
            self.joined = False
            self.told.cuts += 1
            self.parting.cut()
            fields = {"pods": len(self.parting.members), "share_is_0": self.parting.nothing()}
            log.warning("limits_apart", extra={"reason": reason, **fields})
            self._desk.leave()
        self._plan()

    # One call.

    def _ask(self) -> None:
        self._soon = None
        if self.joined and self._call is None:
            self._send("take")

    def _send(self, flag: Flag) -> None:
        if not self._can_call:
            return
        loop = asyncio.get_running_loop()
        part = Part()
        asks = self._desk.asks(part, self._answer_s) if flag == "take" else []
        reported = self.parting.own() if flag == "join" else {}
        changes, self._changes = self._changes, {}
        told = [(part.window(w), number, amount) for (w, number), amount in (*changes.items(), *reported.items())]
        for slots in self._book.slots():
            if slots.limit is not None:
                part.slot(slots)
        payload = protocol.encode(self._payload(flag, part, told, [ask for ask, _ in asks]))
        now = loop.time()
        call = self._call = _Call(flag, self._book.clock(), part, changes, [handle for _, handle in asks], reported)
        call.oldest_s = now if self._oldest_s is None else self._oldest_s
        self._oldest_s = None
        self._owed_s = float("inf")
        self._said_s = call.sent_s
        self.told.calls += 1
        self._deadline = loop.call_at(call.oldest_s + ANSWER_S, self._late)
        self._channel.call(self._keys.of(part), payload)

    def _payload(self, flag: Flag, part: Part, told: list[Change], asks: list[Ask]) -> tuple[object, ...]:
        windows = [(w.limit, window_seconds(self._limiter, w), w.by_token, not w.model) for w in part.windows]
        slots = [(s.limit, s.held + self._desk.reserved(s)) for s in part.slots]
        queues = self._limiter.queues
        expected = self.parting.members if flag == "join" else []
        known = self._book.lineage == LINEAGE
        sent_us = round((self._book.clock() - self._book.minute.zero) * 1e6) if known else 0
        return (self.id, self._channel.run, self._hold_us, flag, windows, slots, told, asks, queues, expected, sent_us)

    def _late(self) -> None:
        """Nobody waits longer."""
        call = self._call
        if call is None:
            return
        loop = asyncio.get_running_loop()
        if call.late:
            self._channel.abort()
            return
        if not call.looked:  # this process may have stood still: read first what has come meanwhile
            call.looked = True
            self._deadline = loop.call_later(LOOK_S, self._late)
            return
        call.late = True
        self._deadline = loop.call_later(DEAD_S, self._late)
        self._forget(call)
        self._cut("late", f"the store did not answer within {ANSWER_S * 1000:.0f} ms")

    def _forget(self, call: _Call[H]) -> None:
        """Nobody knows whether the store took it: what was used is told again, what was given back is not."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        for key, amount in call.changes.items():
            if amount > 0:
                self.change(*key, amount)
        call.changes = {}

    def _follow(self, reply: Reply, call: _Call[H]) -> None:
        """Count in the store's buckets, by its clock, as far as the time of the answer lets that be known.

        It is corrected as little as that allows: a jump would let this pod's own admissions leave too early.
        """
        book = self._book
        now = book.clock()
        earliest, latest = call.sent_s - reply.now_us / 1e6, now - reply.now_us / 1e6
        if book.lineage != LINEAGE:
            renumber(book, LINEAGE, earliest)
        for ticker in (book.minute, book.second):
            ticker.zero = min(max(ticker.zero, earliest), latest)
            ticker.tick(now)

    def _show(self, reply: Reply, part: Part) -> None:
        """Note for headers and metrics what others use."""
        for window, used in zip(part.windows, reply.used, strict=True):
            window.elsewhere = max(0, used - window.used)
        for slots, others in zip(part.slots, reply.others, strict=True):
            slots.elsewhere = others

    # When.

    def _plan(self) -> None:
        """Set the time of the next look."""
        if self._ending:
            return
        if not self.joined:
            self.wake(POLL_S)
            return
        now, desk_s = self._book.clock(), self._desk.due_s()
        self.wake(min(self._said_s + BEAT_S - now, self._owed_s, float("inf") if desk_s is None else desk_s - now))

    def _look(self) -> None:
        self._timer = None
        if self._call is None and self._can_call and not self._ending:
            self._send("take" if self.joined else "poll")
        elif not self.joined:
            self._plan()
