"""Counters on their way from one pod to the next, or to a file and back.

Buckets keep their numbers on the way: the pod that takes over takes the numbering (its lineage) with them, so a charge
that the first pod made can be settled at the third. The receiver's bucket 0 lies later by the time of transit, which
makes everything look younger: counted longer than needed, never shorter. Counters of another lineage are added at the
bucket in which they would look youngest.
"""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Final

from llmproxy.gateway.limits.local.counters import Book
from llmproxy.gateway.limits.local.window import AHEAD, SPAN, Window
from llmproxy.gateway.limits.peers.messages import Counts, History

MAX_FOREIGN: Final = 16
"""Lineages that are remembered after they were merged; calls of older ones cannot be settled any more."""


def tell(book: Book, since: Mapping[Window, int] | None = None) -> History:
    """Return what *book* has counted; with *since*, only from that bucket of each window on."""
    told = []
    for window in book.windows():
        first, amounts = window.since(since.get(window, 0) if since is not None else window.at - SPAN)
        told.append(Counts(window.model, window.kind, window.limit, first, amounts))
    return History(book.lineage, book.clock() - book.minute.zero, told, dict(book.foreign))


def difference(new: History, old: History) -> History:
    """Return *new* without what was in *old* already; both of one lineage."""
    before = {(c.model, c.kind): c for c in old.windows}
    found = []
    for counts in new.windows:
        was = before.get((counts.model, counts.kind))
        amounts = counts.amounts
        if was is not None:
            there = dict(enumerate(was.amounts, was.first))
            amounts = [max(0, a - there.get(n, 0)) for n, a in enumerate(amounts, counts.first)]
        found.append(Counts(counts.model, counts.kind, counts.limit, counts.first, amounts))
    return History(new.lineage, new.now_s, found, new.foreign)


def follow(book: Book, history: History, *, whole: bool) -> None:
    """Make *book* a copy of another's; *whole* forgets what it held, else only the told buckets are replaced."""
    if whole:
        zero = book.clock() - history.now_s
        book.minute.restart(zero, book.clock())
        book.second.restart(zero, book.clock())
        book.lineage = history.lineage
        book.foreign = dict(history.foreign)
    told = {(c.model, c.kind): c for c in history.windows}
    for window in book.windows():
        counts = told.get((window.model, window.kind))
        if whole:
            window.clear(window.ticker.number if counts is None else counts.first + SPAN)
        if counts is not None:
            window.put(counts.first, counts.amounts)
            window.shown = counts.limit
    book.catch_up()


def adopt(book: Book, history: History) -> None:
    """Begin where another pod stopped. What it charged under other limits is given back at most as it was charged."""
    follow(book, history, whole=True)
    told = {(c.model, c.kind): c for c in history.windows}
    for window in book.windows():
        counts = told.get((window.model, window.kind))
        window.cap = 0 if counts is None else counts.limit
        window.cap_until = window.at + AHEAD


def begin(book: Book, counted: Sequence[History], copies: Sequence[History]) -> None:
    """Begin with what others *counted* by themselves; without any, with the fullest of their *copies* of one original.

    With neither, *book* stays as it is.
    """
    if counted:
        adopt(book, counted[0])
        for history in counted[1:]:
            merge(book, history)
    elif copies:
        adopt(book, max(copies, key=lambda copy: sum(sum(counts.amounts) for counts in copy.windows)))


def merge(book: Book, history: History) -> None:
    """Add what another pod admitted by itself while this one did too."""
    now_s = book.clock() - book.minute.zero
    same = history.lineage == book.lineage
    minutes = 0 if same else ceil((now_s - history.now_s) / book.minute.width)
    seconds = 0 if same else ceil((now_s - history.now_s) / book.second.width)
    if not same:
        book.foreign[history.lineage] = (minutes, seconds)
        while len(book.foreign) > MAX_FOREIGN:
            del book.foreign[next(iter(book.foreign))]
    told = {(c.model, c.kind): c for c in history.windows}
    for window in book.windows():
        counts = told.get((window.model, window.kind))
        limit = 0 if counts is None else counts.limit
        window.cap = min(window.cap, limit) if window.cap_until >= window.at - SPAN else limit
        window.cap_until = window.at + AHEAD
        if counts is not None:
            shift = minutes if window.ticker is book.minute else seconds
            for number, amount in enumerate(counts.amounts, counts.first + shift):
                if amount:
                    window.charge(number, amount)


def renumber(book: Book, lineage: str, zero: float) -> None:
    """Count on in the buckets of another numbering, whose bucket 0 began at *zero* of the book's clock."""
    history = tell(book)
    for ticker in (book.minute, book.second):
        ticker.restart(zero, book.clock())
    book.lineage = lineage
    for window in book.windows():
        window.clear(window.ticker.number)
    merge(book, history)
