"""All counters of a pod, and admission by them. Knows no other pod, no queue and no loop.

A request names a model; `ModelLimits` has the limits it must fit, of the model and of the proxy. It is admitted by all
of them or charged to none. The counters are plain numbers changed between two awaits, so no lock is needed.
"""

from collections.abc import Callable, Iterator, Sequence
from math import ceil
from secrets import token_hex
from typing import Final

import msgspec

from llmproxy.contract import Document, Limits
from llmproxy.gateway.limits.local.history import Buckets
from llmproxy.gateway.limits.local.kinds import KINDS, MAX_PARALLEL, PARALLEL_RETRY_S, LimitKind, Rejection
from llmproxy.gateway.limits.local.window import AHEAD, EPSILON_S, NEVER, RING, Ticker, Window

LEASE_S: Final = 1.0
"""The longest that an admission for another pod may lie before it is used."""


class ConcurrencyLimit:
    """Calls at one time, of one model or (empty name) of the proxy. Counted also where nothing limits them."""

    __slots__ = ("elsewhere", "held", "limit", "model", "quota")

    def __init__(self, model: str, limit: int | None) -> None:
        self.model = model
        self.limit = limit
        self.quota = limit
        """See `Window.quota`."""
        self.held = 0
        self.elsewhere = 0
        """Calls of other pods, as far as this one knows."""


class ModelLimits:
    """The limits that a request of one model must fit."""

    __slots__ = ("concurrency", "in_flight", "is_fallback", "model", "requests", "tokens", "windows")

    def __init__(
        self,
        model: str,
        windows: list[Window],
        concurrency: tuple[ConcurrencyLimit, ...],
        *,
        is_fallback: bool = False,
    ) -> None:
        self.model = model
        self.is_fallback = is_fallback
        """For a call that another model was asked for before: the proxy has counted its request already."""
        self.windows = tuple(windows)
        # The last to be empty first: a longer window holds what a shorter one does, the proxy's what a model's does.
        late = sorted(windows, key=lambda w: (-w.ticker.width, bool(w.model)))
        self.requests = tuple(w for w in late if not w.by_token)
        self.tokens = tuple(w for w in late if w.by_token)
        self.concurrency = concurrency
        self.in_flight = 0
        """Calls of this pod; `ConcurrencyLimit.held` also counts those of pods that ask this one."""


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """Buckets and tokens of an admission: enough to change it later, also at another pod (see `transfer`)."""

    epoch: str
    buckets: tuple[int, ...]
    """Bucket numbers in the order of `Counters.tickers`."""
    tokens: int
    """Upper bound of the request; each limit was charged at most its own size."""


class Counters:
    """The counters of one pod."""

    def __init__(self, document: Document, clock: Callable[[], float], kinds: Sequence[LimitKind] = KINDS) -> None:
        """*clock* returns seconds and never goes back."""
        self.clock = clock
        now = clock()
        lengths = sorted({kind.window_s for kind in kinds if kind.window_s})
        self.tickers = tuple(Ticker(index, seconds, now) for index, seconds in enumerate(lengths))
        """One for each length of a window, the shortest first."""
        self.buckets: tuple[int, ...] = ()
        """Numbers of the current buckets, in the order of `tickers`."""
        self.edge = 0.0
        """The clock's reading at which the first of them ends."""
        self._renumbered()
        self.epoch = token_hex(8)
        """Names the numbering of buckets; a pod that takes counters over takes it over too."""
        self.foreign: dict[str, Buckets] = {}
        """Offset of bucket numbers of another epoch that was merged into this one."""
        self._kinds = [kind for kind in kinds if kind.window_s]
        proxy = self._windows("", document.rate_limits)
        self.all_calls = ConcurrencyLimit("", document.rate_limits.max_parallel)
        self.other = ModelLimits("", proxy, (self.all_calls,))
        """For a model that is not in the document: another pod's may be."""
        self.models: dict[str, ModelLimits] = {}
        self.fallbacks: dict[str, ModelLimits] = {}
        by_token = [window for window in proxy if window.by_token]
        for model in document.models:
            windows = self._windows(model.name, model.rate_limits)
            concurrency = (self.all_calls, ConcurrencyLimit(model.name, model.rate_limits.max_parallel))
            self.models[model.name] = ModelLimits(model.name, proxy + windows, concurrency)
            self.fallbacks[model.name] = ModelLimits(model.name, by_token + windows, concurrency, is_fallback=True)

    def limits_of(self, model: str, *, is_fallback: bool = False) -> ModelLimits:
        """Return the limits of *model*, see `ModelLimits.is_fallback`; those of the proxy alone for an unknown one."""
        return (self.fallbacks if is_fallback else self.models).get(model, self.other)

    def windows(self) -> Iterator[Window]:
        """Return every window once, brought to the current bucket."""
        self.now()
        own = (w for limits in self.models.values() for w in limits.windows if w.model)
        for window in (*self.other.windows, *own):
            window.advance(window.ticker.number)
            yield window

    def concurrency(self) -> Iterator[ConcurrencyLimit]:
        """Return every count of calls at one time."""
        yield self.all_calls
        for limits in self.models.values():
            yield limits.concurrency[1]

    def in_flight(self) -> dict[str, int]:
        """Return this pod's calls that are not finished, by model; under `""` those of models that are not here."""
        calls = {name: limits.in_flight + self.fallbacks[name].in_flight for name, limits in self.models.items()}
        calls[""] = self.other.in_flight
        return {name: number for name, number in calls.items() if number}

    # The numbering of buckets.

    def now(self) -> float:
        """Return the clock's reading, with the numbers of the buckets brought up to it."""
        now = self.clock()
        if now >= self.edge:
            self._tick(now)
        return now

    def seconds(self) -> float:
        """Return the time since bucket 0 began."""
        return self.clock() - self.tickers[0].zero

    def restart(self, zero: float) -> None:
        """Number the buckets anew: bucket 0 began at *zero*."""
        now = self.clock()
        for ticker in self.tickers:
            ticker.restart(zero, now)
        self._renumbered()

    def adjust(self, earliest: float, latest: float) -> None:
        """Move the beginning of bucket 0 as little as puts it between these two."""
        now = self.clock()
        for ticker in self.tickers:
            ticker.zero = min(max(ticker.zero, earliest), latest)
            ticker.tick(now)
        self._renumbered()

    def reach(self, buckets: Sequence[int]) -> None:
        """Be at least at these buckets."""
        now = self.clock()
        for ticker, number in zip(self.tickers, buckets, strict=True):
            ticker.tick(now)
            ticker.reach(number)
        self._renumbered()

    def catch_up(self) -> None:
        """Bring the numbering up to the windows: those of another pod may be ahead by what its clock differs."""
        for window in (*self.other.windows, *(w for limits in self.models.values() for w in limits.windows)):
            window.ticker.reach(window.at)
        self._renumbered()

    def by_window(self, buckets: tuple[int, ...]) -> Buckets:
        """Return bucket numbers in the form that other pods understand, whatever windows they have."""
        return {ticker.window_s: number for ticker, number in zip(self.tickers, buckets, strict=True)}

    def in_order(self, buckets: Buckets) -> tuple[int, ...]:
        """Return bucket numbers of another pod in the order of `tickers`; far in the past where it has none."""
        return tuple([buckets.get(ticker.window_s, NEVER) for ticker in self.tickers])

    def translate(self, reservation: Reservation) -> Reservation:
        """Return *reservation* in these bucket numbers; far in the past when its own mean nothing here."""
        if reservation.epoch == self.epoch:
            return reservation
        shift = self.in_order(self.foreign.get(reservation.epoch, {}))
        buckets = tuple([number + more for number, more in zip(reservation.buckets, shift, strict=True)])
        return Reservation(self.epoch, buckets, reservation.tokens)

    def _tick(self, now: float) -> None:
        for ticker in self.tickers:
            if now >= ticker.edge:
                ticker.tick(now)
        self._renumbered()

    def _renumbered(self) -> None:
        self.buckets = tuple([ticker.number for ticker in self.tickers])
        self.edge = min([ticker.edge for ticker in self.tickers])

    # Admission.

    def take(self, limits: ModelLimits, tokens: int) -> bool:
        """Charge all of *limits*, or none. The buckets are `buckets`."""
        now = self.clock()
        if now >= self.edge:
            self._tick(now)
        if not _fits(limits, tokens):
            return False
        for window in limits.requests:
            window.used += 1
            window.ring[window.ticker.number % RING] += 1
        for window in limits.tokens:
            cost = tokens if tokens < window.limit else window.limit
            window.used += cost
            window.ring[window.ticker.number % RING] += cost
        for concurrency in limits.concurrency:
            concurrency.held += 1
        return True

    def take_ahead(self, limits: ModelLimits, tokens: int) -> tuple[Reservation, float] | None:
        """Charge as `take` does, for another pod: with the seconds in which it must be used, or not at all."""
        lease_s = min((w.ticker.width * AHEAD for w in limits.windows), default=LEASE_S)
        lease_s = min(lease_s, LEASE_S)
        if not self.take(limits, tokens):
            return None
        buckets = tuple([ticker.number + ceil(lease_s / ticker.width) for ticker in self.tickers])
        for window in limits.windows:
            cost = window.price(tokens)
            window.give_back(window.ticker.number, cost)
            window.charge(buckets[window.ticker.index], cost)
        return Reservation(self.epoch, buckets, tokens), lease_s

    def rejection(self, limits: ModelLimits, tokens: int) -> Rejection | None:
        """Return what keeps a request from being admitted now, or None."""
        now = self.now()
        worst: Rejection | None = None
        by_proxy = False
        for window in limits.windows:
            window.advance(window.ticker.number)
            number = window.fits_from(window.price(tokens))
            if number > window.at:
                wait_s = max(0.0, window.ticker.begins(number) - now) + EPSILON_S
                by_proxy = by_proxy or not window.model
                if worst is None or wait_s > worst.retry_after_s:
                    worst = Rejection(window.kind, window.limit, window.model, wait_s, by_proxy)
        for c in limits.concurrency:
            if c.quota is not None and c.limit is not None and c.held >= c.quota:
                by_proxy = by_proxy or not c.model
                if worst is None or worst.retry_after_s < PARALLEL_RETRY_S:
                    worst = Rejection(MAX_PARALLEL, c.limit, c.model, PARALLEL_RETRY_S, by_proxy)
        if worst is None or worst.by_proxy == by_proxy:
            return worst
        return Rejection(worst.limit_kind, worst.limit, worst.model, worst.retry_after_s, by_proxy)

    def tightest(self, limits: ModelLimits) -> Rejection:
        """Return the one of *limits* with the fewest left, for a request that only others keep from being admitted."""
        remaining = [(w.quota - w.used, w.kind, w.limit, w.model) for w in limits.windows]
        remaining.extend(
            (c.quota - c.held, MAX_PARALLEL, c.limit or 0, c.model) for c in limits.concurrency if c.quota is not None
        )
        _, kind, limit, model = min(remaining, key=lambda entry: entry[0])
        return Rejection(kind, limit, model, EPSILON_S, not model)

    def settle(self, limits: ModelLimits, reservation: Reservation, tokens: int) -> None:
        """Replace the tokens of *reservation* by those that were used; the excess is charged in the current bucket."""
        for window in limits.tokens:
            number = reservation.buckets[window.ticker.index]
            cost = window.charged(number, reservation.tokens)
            if tokens < cost:
                window.give_back(number, cost - tokens)
            elif tokens > cost:
                self.now()
                window.advance(window.ticker.number)
                window.charge(window.ticker.number, tokens - cost)

    def refund(self, limits: ModelLimits, reservation: Reservation) -> None:
        """Take one request out of the buckets of *reservation*; its tokens are settled with 0 by `settle`."""
        self.now()
        for window in limits.requests:
            window.advance(window.ticker.number)
            number = reservation.buckets[window.ticker.index]
            window.give_back(number, window.charged(number, 0))

    def note(self, limits: ModelLimits, reservation: Reservation) -> None:
        """Charge what another pod granted, and count its call."""
        for window in limits.windows:
            window.charge(reservation.buckets[window.ticker.index], window.price(reservation.tokens))
        self.hold(limits, 1)

    def hold(self, limits: ModelLimits, calls: int) -> None:
        """Count so many calls more, or fewer when negative, whatever the limit."""
        for concurrency in limits.concurrency:
            concurrency.held += calls

    def release(self, limits: ModelLimits) -> None:
        """Count one call less."""
        for concurrency in limits.concurrency:
            concurrency.held -= 1

    def _windows(self, model: str, limits: Limits) -> list[Window]:
        sizes = [(kind, getattr(limits, kind.field)) for kind in self._kinds]
        by_length = {ticker.window_s: ticker for ticker in self.tickers}
        return [Window(kind, model, size, by_length[kind.window_s]) for kind, size in sizes if size is not None]


def _fits(limits: ModelLimits, tokens: int) -> bool:
    for window in limits.requests:
        number = window.ticker.number
        if window.at < number:
            window.advance(number)
        if window.used >= window.quota:
            return False
    for window in limits.tokens:
        number = window.ticker.number
        if window.at < number:
            window.advance(number)
        limit = window.limit
        if window.used + (tokens if tokens < limit else limit) > window.quota:
            return False
    for concurrency in limits.concurrency:
        if concurrency.quota is not None and concurrency.held >= concurrency.quota:
            return False
    return True
