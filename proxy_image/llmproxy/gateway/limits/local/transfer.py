"""Counters on their way from one pod to the next, or to a file and back.

Buckets keep their numbers on the way: the pod that takes over takes the numbering (its epoch) with them, so the third
pod can settle a reservation of the first. The receiver's bucket 0 lies later by the time of transit, which makes
everything look younger: counted longer than needed, never shorter. Counters of another epoch are added at the bucket in
which they would look youngest.
"""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Final

from llmproxy.gateway.limits.local.counters import Counters
from llmproxy.gateway.limits.local.history import History, WindowCounts
from llmproxy.gateway.limits.local.window import AHEAD, SPAN, Window

MAX_FOREIGN: Final = 16
"""Epochs that are remembered after a merge; reservations of older ones cannot be settled any more."""


def export(counters: Counters, since: Mapping[Window, int] | None = None) -> History:
    """Return all counters; with *since*, only from that bucket of each window on."""
    windows = []
    for window in counters.windows():
        first, amounts = window.since(since.get(window, 0) if since is not None else window.at - SPAN)
        windows.append(WindowCounts(window.model, window.kind.name, window.limit, first, amounts))
    return History(counters.epoch, counters.seconds(), windows, dict(counters.foreign))


def difference(new: History, old: History) -> History:
    """Return *new* without what was in *old* already; both of one epoch."""
    before = _by_limit(old)
    windows = []
    for counts in new.windows:
        previous = before.get((counts.model, counts.kind))
        amounts = counts.amounts
        if previous is not None:
            there = dict(enumerate(previous.amounts, previous.first))
            amounts = [max(0, a - there.get(n, 0)) for n, a in enumerate(amounts, counts.first)]
        windows.append(WindowCounts(counts.model, counts.kind, counts.limit, counts.first, amounts))
    return History(new.epoch, new.now_s, windows, new.foreign)


def replicate(counters: Counters, history: History, *, whole: bool) -> None:
    """Make *counters* a replica of another's; *whole* forgets what they held, else only these buckets are replaced."""
    if whole:
        counters.restart(counters.clock() - history.now_s)
        counters.epoch = history.epoch
        counters.foreign = dict(history.foreign)
    by_limit = _by_limit(history)
    for window in counters.windows():
        counts = by_limit.get((window.model, window.kind.name))
        if whole:
            window.clear(window.ticker.number if counts is None else counts.first + SPAN)
        if counts is not None:
            window.replace(counts.first, counts.amounts)
            window.reported_limit = counts.limit
    counters.catch_up()


def take_over(counters: Counters, history: History) -> None:
    """Begin where another pod stopped. What it charged under other limits is given back at most as it was charged."""
    replicate(counters, history, whole=True)
    by_limit = _by_limit(history)
    for window in counters.windows():
        counts = by_limit.get((window.model, window.kind.name))
        window.cap = 0 if counts is None else counts.limit
        window.cap_until = window.at + AHEAD


def begin(counters: Counters, histories: Sequence[History], replicas: Sequence[History]) -> None:
    """Begin with what others counted as authorities; without any, with the fullest of their *replicas* of one original.

    With neither, *counters* stay as they are.
    """
    if histories:
        take_over(counters, histories[0])
        for history in histories[1:]:
            merge(counters, history)
    elif replicas:
        take_over(counters, max(replicas, key=lambda replica: sum(sum(counts.amounts) for counts in replica.windows)))


def merge(counters: Counters, history: History) -> None:
    """Add what another pod admitted by itself while this one did too."""
    apart_s = counters.seconds() - history.now_s
    same = history.epoch == counters.epoch
    shift = {ticker.window_s: 0 if same else ceil(apart_s / ticker.width) for ticker in counters.tickers}
    if not same:
        counters.foreign[history.epoch] = shift
        while len(counters.foreign) > MAX_FOREIGN:
            del counters.foreign[next(iter(counters.foreign))]
    by_limit = _by_limit(history)
    for window in counters.windows():
        counts = by_limit.get((window.model, window.kind.name))
        limit = 0 if counts is None else counts.limit
        window.cap = min(window.cap, limit) if window.cap_until >= window.at - SPAN else limit
        window.cap_until = window.at + AHEAD
        if counts is not None:
            for number, amount in enumerate(counts.amounts, counts.first + shift[window.ticker.window_s]):
                if amount:
                    window.charge(number, amount)


def renumber(counters: Counters, epoch: str, zero: float) -> None:
    """Count on in the buckets of another numbering, whose bucket 0 began at *zero* of the counters' clock."""
    history = export(counters)
    counters.restart(zero)
    counters.epoch = epoch
    for window in counters.windows():
        window.clear(window.ticker.number)
    merge(counters, history)


def _by_limit(history: History) -> dict[tuple[str, str], WindowCounts]:
    return {(counts.model, counts.kind): counts for counts in history.windows}
