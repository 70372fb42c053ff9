"""The authority in process: all counters of a pod, and admission by them. Knows no other pod, no queue and no loop.

A request names a model; its plan holds the limits it must fit, of the model and of the proxy. It is admitted by all of
them or charged to none. The counters are plain numbers changed between two awaits, so no lock is needed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from secrets import token_hex
from typing import Final

import msgspec

from llmproxy.contract import Document, Limits
from llmproxy.gateway.limits.local.kinds import MINUTE_S, PARALLEL_RETRY_S, SECOND_S, Denial, KindName, denial
from llmproxy.gateway.limits.local.window import AHEAD, EPSILON_S, NEVER, RING, Ticker, Window

LEASE_S: Final = 1.0
"""The longest that an admission for another pod may lie before it is used."""


class Slots:
    """Calls at one time, of one model or (empty name) of the proxy. Counted also where nothing limits them."""

    __slots__ = ("elsewhere", "held", "limit", "model", "share")

    def __init__(self, model: str, limit: int | None) -> None:
        self.model = model
        self.limit = limit
        self.share = limit
        """See `Window.share`."""
        self.held = 0
        self.elsewhere = 0
        """Calls of other pods, as far as this one was told."""


class Plan:
    """What a request of one model must fit."""

    __slots__ = ("again", "in_flight", "model", "requests", "slots", "tokens", "windows")

    def __init__(self, model: str, windows: list[Window], slots: tuple[Slots, ...], *, again: bool = False) -> None:
        self.model = model
        self.again = again
        """For a call that another model was asked for before: the proxy has counted its request already."""
        self.windows = tuple(windows)
        # The last to be empty first: a longer window holds what a shorter one does, the proxy's what a model's does.
        late = sorted(windows, key=lambda w: (-w.ticker.width, bool(w.model)))
        self.requests = tuple(w for w in late if not w.by_token)
        self.tokens = tuple(w for w in late if w.by_token)
        self.slots = slots
        self.in_flight = 0
        """Calls of this pod; `Slots.held` also counts those of pods that ask this one."""


class Charge(msgspec.Struct, frozen=True, gc=False):
    """Where an admission was booked: enough to change it later, also at another pod (see `history`)."""

    minute: int
    second: int
    tokens: int
    """What was asked for; each limit was charged at most its own size."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """The limit that a request must wait for longest."""

    kind: KindName
    limit: int
    model: str
    """Empty for the proxy."""
    retry_after_s: float
    by_proxy: bool
    """One of the limits in the way is the proxy's: nobody behind may pass."""

    def denial(self, reason: str = "") -> Denial:
        """Return it in words for the caller."""
        return denial(self.kind, self.limit, self.model, self.retry_after_s, reason)


class Book:
    """The counters of one pod."""

    def __init__(self, document: Document, clock: Callable[[], float]) -> None:
        """*clock* returns seconds and never goes back."""
        self.clock = clock
        now = clock()
        self.minute = Ticker(MINUTE_S, now)
        self.second = Ticker(SECOND_S, now)
        self.lineage = token_hex(8)
        """Names the numbering of buckets; a pod that takes counters over takes it over too."""
        self.foreign: dict[str, tuple[int, int]] = {}
        """What to add to bucket numbers (minute, second) of another lineage that was merged into this one."""
        proxy = self._windows("", document.rate_limits)
        self.everything = Slots("", document.rate_limits.max_parallel)
        self.other = Plan("", proxy, (self.everything,))
        """For a model that is not in the document: another pod's may be."""
        self.plans: dict[str, Plan] = {}
        self.again: dict[str, Plan] = {}
        by_token = [window for window in proxy if window.by_token]
        for model in document.models:
            windows = self._windows(model.name, model.rate_limits)
            slots = (self.everything, Slots(model.name, model.rate_limits.max_parallel))
            self.plans[model.name] = Plan(model.name, proxy + windows, slots)
            self.again[model.name] = Plan(model.name, by_token + windows, slots, again=True)

    def plan(self, model: str, *, again: bool = False) -> Plan:
        """Return the limits of *model*, see `Plan.again`; those of the proxy alone for an unknown one."""
        return (self.again if again else self.plans).get(model, self.other)

    def windows(self) -> Iterator[Window]:
        """Return every window once, brought to the current bucket."""
        self.now()
        own = (w for plan in self.plans.values() for w in plan.windows if w.model)
        for window in (*self.other.windows, *own):
            window.advance(window.ticker.number)
            yield window

    def slots(self) -> Iterator[Slots]:
        """Return every count of calls at one time."""
        yield self.everything
        for plan in self.plans.values():
            yield plan.slots[1]

    def in_flight(self) -> dict[str, int]:
        """Return this pod's calls that are not finished, by model; under `""` those of models that are not here."""
        found = {name: plan.in_flight + self.again[name].in_flight for name, plan in self.plans.items()}
        found[""] = self.other.in_flight
        return {name: calls for name, calls in found.items() if calls}

    def catch_up(self) -> None:
        """Bring the numbering up to the windows: those of another pod may be ahead by what its clock differs."""
        for window in (*self.other.windows, *(w for plan in self.plans.values() for w in plan.windows)):
            window.ticker.reach(window.at)

    def now(self) -> float:
        """Return the clock's reading, with the numbers of the buckets brought up to it."""
        now = self.clock()
        if now >= self.minute.edge:
            self.minute.tick(now)
        if now >= self.second.edge:
            self.second.tick(now)
        return now

    def take(self, plan: Plan, tokens: int) -> bool:
        """Charge all limits of *plan*, or none. The buckets are `minute.number` and `second.number`."""
        now = self.clock()
        minute = self.minute
        if now >= minute.edge:
            minute.tick(now)
        if now >= self.second.edge:
            self.second.tick(now)
        if not _fits(plan, tokens, minute.number):
            return False
        for window in plan.requests:
            window.used += 1
            window.ring[window.ticker.number % RING] += 1
        for window in plan.tokens:
            cost = tokens if tokens < window.limit else window.limit
            window.used += cost
            window.ring[minute.number % RING] += cost
        for slots in plan.slots:
            slots.held += 1
        return True

    def take_ahead(self, plan: Plan, tokens: int) -> tuple[Charge, float] | None:
        """Charge as `take` does, for another pod: with the seconds in which it must be used, or not at all."""
        lease_s = min((w.ticker.width * AHEAD for w in plan.windows), default=LEASE_S)
        lease_s = min(lease_s, LEASE_S)
        if not self.take(plan, tokens):
            return None
        now = Charge(self.minute.number, self.second.number, tokens)
        later = Charge(
            now.minute + ceil(lease_s / self.minute.width), now.second + ceil(lease_s / self.second.width), tokens
        )
        for window in plan.windows:
            cost = window.price(tokens)
            window.give_back(self._bucket(window, now), cost)
            window.charge(self._bucket(window, later), cost)
        return later, lease_s

    def blocked(self, plan: Plan, tokens: int) -> Blocked | None:
        """Return what keeps a request from being admitted now, or None."""
        now = self.now()
        worst: Blocked | None = None
        by_proxy = False
        for window in plan.windows:
            window.advance(window.ticker.number)
            number = window.fits_from(window.price(tokens))
            if number > window.at:
                wait_s = max(0.0, window.ticker.begins(number) - now) + EPSILON_S
                by_proxy = by_proxy or not window.model
                if worst is None or wait_s > worst.retry_after_s:
                    worst = Blocked(window.kind, window.limit, window.model, wait_s, by_proxy)
        for slots in plan.slots:
            if slots.share is not None and slots.limit is not None and slots.held >= slots.share:
                by_proxy = by_proxy or not slots.model
                if worst is None or worst.retry_after_s < PARALLEL_RETRY_S:
                    worst = Blocked("maxParallel", slots.limit, slots.model, PARALLEL_RETRY_S, by_proxy)
        if worst is None or worst.by_proxy == by_proxy:
            return worst
        return Blocked(worst.kind, worst.limit, worst.model, worst.retry_after_s, by_proxy)

    def tightest(self, plan: Plan) -> Blocked:
        """Return the limit of *plan* with the fewest left, for a request that only others keep from being admitted."""
        left = [(w.share - w.used, w.kind, w.limit, w.model) for w in plan.windows]
        left.extend((s.share - s.held, "maxParallel", s.limit or 0, s.model) for s in plan.slots if s.share is not None)
        _, kind, limit, model = min(left, key=lambda found: found[0])
        return Blocked(kind, limit, model, EPSILON_S, by_proxy=not model)

    def settle(self, plan: Plan, charge: Charge, tokens: int) -> None:
        """Replace the tokens of *charge* by those that were used; what is above is booked in the current bucket."""
        for window in plan.tokens:
            cost = window.charged(charge.minute, charge.tokens)
            if tokens < cost:
                window.give_back(charge.minute, cost - tokens)
            elif tokens > cost:
                self.now()
                window.advance(window.ticker.number)
                window.charge(window.ticker.number, tokens - cost)

    def refund(self, plan: Plan, charge: Charge) -> None:
        """Take one request out of the buckets of *charge*; its tokens are settled with 0 by `settle`."""
        self.now()
        for window in plan.requests:
            window.advance(window.ticker.number)
            number = self._bucket(window, charge)
            window.give_back(number, window.charged(number, 0))

    def note(self, plan: Plan, charge: Charge) -> None:
        """Book what another pod granted, and hold a slot for it."""
        for window in plan.windows:
            window.charge(self._bucket(window, charge), window.price(charge.tokens))
        self.hold(plan, 1)

    def hold(self, plan: Plan, calls: int) -> None:
        """So many calls more, or fewer when negative, whatever the limit."""
        for slots in plan.slots:
            slots.held += calls

    def release(self, plan: Plan) -> None:
        """One call less."""
        for slots in plan.slots:
            slots.held -= 1

    def translated(self, lineage: str, charge: Charge) -> Charge:
        """Return *charge* in this book's bucket numbers; far in the past when its own mean nothing here."""
        if lineage == self.lineage:
            return charge
        minutes, seconds = self.foreign.get(lineage, (NEVER, NEVER))
        return Charge(charge.minute + minutes, charge.second + seconds, charge.tokens)

    def _bucket(self, window: Window, charge: Charge) -> int:
        return charge.minute if window.ticker is self.minute else charge.second

    def _windows(self, model: str, limits: Limits) -> list[Window]:
        found: list[Window] = []
        if limits.rps is not None:
            found.append(Window("rps", model, limits.rps, self.second))
        if limits.rpm is not None:
            found.append(Window("rpm", model, limits.rpm, self.minute))
        if limits.tpm is not None:
            found.append(Window("tpm", model, limits.tpm, self.minute))
        return found


def _fits(plan: Plan, tokens: int, minute: int) -> bool:
    for window in plan.requests:
        number = window.ticker.number
        if window.at < number:
            window.advance(number)
        if window.used >= window.share:
            return False
    for window in plan.tokens:
        if window.at < minute:
            window.advance(minute)
        limit = window.limit
        if window.used + (tokens if tokens < limit else limit) > window.share:
            return False
    for slots in plan.slots:  # noqa: SIM110 - all() with a generator costs as much as the rest
        if slots.share is not None and slots.held >= slots.share:
            return False
    return True
