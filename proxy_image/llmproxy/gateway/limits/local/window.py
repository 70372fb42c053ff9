"""The sliding window of one limit: pure arithmetic over numbered buckets, without a clock of its own.

A window of W seconds is cut into `BUCKETS` parts. A request is admitted while the whole current bucket, the `BUCKETS`
before it and `GUARD` more sum to at most L with it. The edge of any window of W lies in a bucket that counts in full,
so no window can hold more than L; the guard keeps this true at the upstream, where a request arrives 3/256 of W later
than another that was admitted with it. Under continuous backlog a place is used again every `BUCKETS + 1 + GUARD`
buckets, so BUCKETS / (BUCKETS + 1 + GUARD) = 256/260 = 98.46 % of L is usable, for every L from 1.

An admission for another pod may be used a little later than it was granted. It is booked in a bucket up to `AHEAD` in
the future, counts from now on, and leaves as late as if it were used at the last permitted moment.
"""

from typing import Final

from llmproxy.gateway.limits.local.kinds import LimitKind

BUCKETS: Final = 256
GUARD: Final = 3
AHEAD: Final = 8
SPAN: Final = BUCKETS + GUARD
"""Buckets before the current one that count."""
RING: Final = SPAN + 1 + AHEAD
NEVER: Final = -(1 << 60)
"""A bucket number that is never reached."""
EPSILON_S: Final = 1e-6
"""Added to waiting times: a clock that stands just before an edge must not send a request round again."""


class Ticker:
    """Numbers the buckets of all windows of one length. Goes back only by `restart`."""

    __slots__ = ("edge", "index", "number", "width", "window_s", "zero")

    def __init__(self, index: int, window_s: int, zero: float) -> None:
        """Start at bucket 0; *zero* is the clock's reading at its beginning."""
        self.index = index
        """Place in `Counters.tickers`, and in every tuple of bucket numbers."""
        self.window_s = window_s
        self.width = window_s / BUCKETS
        self.zero = zero
        self.number = 0
        self.edge = zero + self.width
        """The clock's reading at which the next bucket begins."""

    def tick(self, now: float) -> None:
        """Go to the bucket of the clock's reading *now*."""
        number = max(self.number, int((now - self.zero) / self.width))
        edge = self.zero + (number + 1) * self.width
        while edge <= now:
            number += 1
            edge = self.zero + (number + 1) * self.width
        self.number = number
        self.edge = edge

    def begins(self, number: int) -> float:
        """Return the clock's reading at which bucket *number* begins."""
        return self.zero + number * self.width

    def restart(self, zero: float, now: float) -> None:
        """Number the buckets anew, from another *zero*."""
        self.zero = zero
        self.number = max(0, int((now - zero) / self.width))
        self.edge = zero + (self.number + 1) * self.width

    def reach(self, number: int) -> None:
        """Be at least at bucket *number*, which then lasts until its end by this zero."""
        if number > self.number:
            self.number = number
            self.edge = self.zero + (number + 1) * self.width


class Window:
    """The admissions of one limit. `used` is true after `advance` to the current bucket."""

    __slots__ = (
        "ahead",
        "at",
        "by_token",
        "cap",
        "cap_until",
        "elsewhere",
        "frees",
        "kind",
        "limit",
        "model",
        "quota",
        "reported_limit",
        "ring",
        "ticker",
        "used",
    )

    def __init__(self, kind: LimitKind, model: str, limit: int, ticker: Ticker) -> None:
        """Begin empty; *model* is empty for a limit of the whole proxy."""
        self.kind = kind
        self.model = model
        self.limit = limit
        self.quota = limit
        """The most that this pod admits by its own counters: less than the limit in offline mode."""
        self.elsewhere = 0
        """Admissions of other pods, as far as this one knows: reported to clients, not counted here."""
        self.reported_limit = limit
        """The limit in headers: that of the pod that decides."""
        self.cap = 0
        """The most that a charge in a bucket up to `cap_until` can be: it was made under another limit, or none."""
        self.cap_until = NEVER
        self.by_token = kind.unit == "tokens"
        self.ticker = ticker
        self.at = ticker.number
        self.ahead = NEVER
        """The last bucket that was charged ahead of its time."""
        self.used = 0
        self.ring = [0] * RING
        self.frees = 0
        """Bucket at whose beginning the oldest admission leaves; 0 when not known."""

    def advance(self, number: int) -> None:
        """Let go what is too old in bucket *number*; a number before the current one changes nothing."""
        steps = number - self.at
        if steps <= 0:
            return
        if self.used:
            ring = self.ring
            first = self.at - SPAN
            for old in range(first, first + min(steps, RING)):
                slot = old % RING
                if ring[slot]:
                    self.used -= ring[slot]
                    ring[slot] = 0
                    self.frees = 0
        self.at = number

    def price(self, tokens: int) -> int:
        """Return what a request of *tokens* is charged: one above the limit is charged the whole of it."""
        return min(tokens, self.limit) if self.by_token else 1

    def charged(self, number: int, tokens: int) -> int:
        """Return what a request of *tokens* was charged in bucket *number*, or less where that is not known."""
        price = self.price(tokens)
        return min(price, self.cap) if number <= self.cap_until else price

    def charge(self, number: int, amount: int) -> None:
        """Book *amount* in bucket *number*, or in the nearest one that is kept; what is too old is dropped."""
        if number < self.at - SPAN:
            return
        number = min(number, self.at + AHEAD)
        if number > self.at:
            self.ahead = max(self.ahead, number)
        self.ring[number % RING] += amount
        self.used += amount
        self.frees = 0

    def give_back(self, number: int, amount: int) -> None:
        """Take *amount* out of bucket *number*, at most what is there; a bucket that has left has nothing to give."""
        if not self.at - SPAN <= number <= self.at + AHEAD:
            return
        slot = number % RING
        rest = min(amount, self.ring[slot])
        self.ring[slot] -= rest
        self.used -= rest
        self.frees = 0

    def fits_from(self, cost: int) -> int:
        """Return the bucket number from whose beginning *cost* fits, if nothing else came; the current one if now."""
        need = self.used + cost - self.quota
        if need <= 0:
            return self.at
        if cost > self.quota:  # never by this quota; by then there may be another
            return self.at + SPAN + 1
        if self.frees and need == 1:
            return self.frees
        freed = 0
        for number in range(self.at - SPAN, self.at + AHEAD + 1):
            freed += self.ring[number % RING]
            if freed >= need:
                if need == 1:
                    self.frees = number + SPAN + 1
                return number + SPAN + 1
        raise ValueError(f"{self.used} is more than the buckets of {self.kind.name} hold")

    def remaining(self) -> int:
        """Return the rest of the limit for headers; below zero if more was admitted than is allowed by now."""
        number = self.ticker.number
        if self.at < number:
            self.advance(number)
        return self.reported_limit - self.used - self.elsewhere

    def empty_from(self) -> int:
        """Return the bucket number from whose beginning nothing counts any more; the current one if so now."""
        at = self.at
        if self.used:
            if self.ahead <= at and self.ring[at % RING]:
                return at + SPAN + 1
            for number in range(max(at, self.ahead), at - SPAN - 1, -1):
                if self.ring[number % RING]:
                    return number + SPAN + 1
        return at

    def clear(self, number: int) -> None:
        """Hold nothing, at bucket *number*, which may be an earlier one."""
        self.ring = [0] * RING
        self.used = 0
        self.frees = 0
        self.at = number
        self.ahead = NEVER

    def since(self, number: int) -> tuple[int, list[int]]:
        """Return the amounts of all buckets from *number* on, oldest first, and the number of the first."""
        first = max(number, self.at - SPAN)
        ring = self.ring
        return first, [ring[n % RING] for n in range(first, self.at + AHEAD + 1)]

    def replace(self, first: int, amounts: list[int]) -> None:
        """Replace the buckets from *first* on, and go to the one that the last of them lies ahead of."""
        self.advance(first + len(amounts) - 1 - AHEAD)
        self.ahead = self.at + AHEAD
        for number, amount in enumerate(amounts, first):
            if number >= self.at - SPAN:
                slot = number % RING
                self.used += amount - self.ring[slot]
                self.ring[slot] = amount
        self.frees = 0
