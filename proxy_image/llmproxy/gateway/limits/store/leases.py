"""Leases of one model: admissions that the store has charged and this pod has not used, and the requests that wait.

A lease is a number of requests (and tokens for them) that are charged already. It is good for 2/256 of the shortest
window of its limits, counted from the moment of asking; while nobody comes near the limits for five times as long,
because then it does not matter that it leaves its window later. How much is asked for ahead of need follows the rate
at which requests come, and is at most 2 % of the smallest limit; for limits below 100 nothing is, because what one pod
holds another cannot use.
"""

from collections import deque
from math import ceil
from typing import Final

from llmproxy.gateway.limits.limiter import Grant
from llmproxy.gateway.limits.local.counters import ModelLimits
from llmproxy.gateway.limits.local.kinds import Rejection
from llmproxy.gateway.limits.local.queue import Waiter
from llmproxy.gateway.limits.local.window import AHEAD, BUCKETS
from llmproxy.gateway.limits.store.protocol import Ask, CounterIndex

USED_LATER: Final = 2
"""Buckets in which a lease may still be used after its own: take.lua's guard counts on it."""
MAX_AT_ONCE: Final = 500
"""Waiting requests in one ask."""
MIN_LIMIT: Final = 100
AT_MOST: Final = 0.02
USE: Final = 0.8
"""Of a lease's time: so much of what comes is asked for ahead."""
REFILL: Final = 0.25
"""Ask again when no more than this part of that is left, or
what comes while REFILL_ANSWERS are awaited, if that is less."""
REFILL_ANSWERS: Final = 4
SLOW_LEASE_S: Final = 0.02
"""The longest lease that is asked for when answers are slow: it leaves its window later by what it is longer."""
ROOMY: Final = 0.95
"""Up to this part of a limit, over all pods and with what they have leased, nobody is near it."""
ROOMY_LEASE_S: Final = (AHEAD + USED_LATER) / BUCKETS
"""The longest lease while nobody is near a limit, unless the window is so long that the usual lease is longer."""
MAX_WIDTH_S: Final = 60 / BUCKETS
"""Width of a bucket that a lease goes by at most: what lies leased for minutes other pods cannot use."""
TIGHT: Final = 0.5
"""Above this part of a limit a request may be over it by what is not known yet."""
CALM_S: Final = 2.0
"""So long nobody must have been, for long leases: under backlog that comes in bursts a window is empty now and then."""
OBSERVE_S: Final = 0.03
"""The rate is taken over so long at least, or over a lease's time if that is shorter."""


def later(lease_s: float, width: float) -> int:
    """Return how many buckets ahead take.lua books a lease that is good for so long."""
    return min(max(0, ceil(round(lease_s * 1e6) / (width * 1e6)) - USED_LATER), AHEAD)


class Lease:
    """Requests that are charged in the store and not used yet."""

    __slots__ = ("buckets", "requests", "tokens", "until")

    def __init__(self, requests: int, tokens: int, until: float, buckets: tuple[int, ...]) -> None:
        self.requests = requests
        self.tokens = tokens
        self.until = until
        """By the pod's clock."""
        self.buckets = buckets
        """Where it is charged, in the order of `Counters.tickers`."""


class LeasePool:
    """Leases and waiting requests of one model."""

    def __init__(self, limits: ModelLimits) -> None:
        self.limits = limits
        self.leases: deque[Lease] = deque()
        self.waiting: dict[int, Waiter[Grant | Rejection]] = {}
        self.rejection: Rejection | None = None
        """The answer to the last request that was not admitted."""
        self.rejected_tokens = 0
        self.rejected_until = 0.0
        """Until then the answer is known, by the pod's clock."""
        self.fits_at = 0.0
        """When what was in the way will have left, as far as the store knew."""
        self.low = 0
        """Ask for more when no more than this is left; -1: never ahead of need."""
        self.limited = [s for s in limits.concurrency if s.limit is not None]
        self.limit_count = len(limits.windows) + len(self.limited)
        self.largest = min((w.limit for w in limits.tokens), default=1 << 60)
        """Tokens of one request that are charged alike to every limit; one above is asked for alone."""
        sizes = [w.limit for w in limits.requests] + [s.limit for s in self.limited if s.limit is not None]
        smallest = min([*sizes, self.largest])
        self._most = int(min([*sizes, 1 << 30]) * AT_MOST) if smallest >= MIN_LIMIT else 0
        self._most_tokens = int(self.largest * AT_MOST)
        width = min([MAX_WIDTH_S, *(w.ticker.width for w in limits.windows)])
        self.lease_s = USED_LATER * width
        self._roomy_s = max(self.lease_s, ROOMY_LEASE_S)
        self._longest_s = max(self.lease_s, min(SLOW_LEASE_S, self._roomy_s))
        self._tight_at = float("-inf")
        self.roomy = False
        """Nobody is near these limits, as far as is known."""
        self.active = False
        """Has been asked for lately, or waits, or has leases."""
        self._rate = 0.0
        self._tokens = 0.0
        self._arrivals = 0
        self._arrived_tokens = 0
        self._since = 0.0

    def count_arrival(self, tokens: int) -> None:
        """Count a request that came."""
        self._arrivals += 1
        self._arrived_tokens += tokens

    def observe(self, now: float) -> None:
        """Take what came lately for what will come, and see how near the limits are."""
        self._see_room(now)
        passed = now - self._since
        if passed < min(self.lease_s, OBSERVE_S):
            return
        rate = self._arrivals / min(passed, 1.0)  # it may have been idle before
        self._rate = max(rate, (self._rate + rate) / 2)
        if self._arrivals:
            self._tokens = self._arrived_tokens / self._arrivals
        elif not self.leases and not self.waiting:
            self.active = False
        self._arrivals = self._arrived_tokens = 0
        self._since = now

    def _see_room(self, now: float) -> None:
        used = [(w.used + w.elsewhere, w.limit) for w in self.limits.windows]
        used += [(s.held + s.elsewhere, s.limit) for s in self.limited if s.limit is not None]
        self.roomy = self.rejection is None and all(amount <= limit * ROOMY for amount, limit in used)
        if not self.roomy:
            self._tight_at = now

    def ahead(self, lease_s: float, answer_s: float) -> int:
        """Return how many requests to ask for beyond those that wait, and set when to ask again."""
        requests = min(int(self._rate * lease_s * USE), self._most)
        if self.limits.tokens and self._tokens * requests > self._most_tokens:
            requests = int(self._most_tokens / self._tokens)
        if requests <= 1:
            self.low = -1
            return 0
        self.low = min(int(requests * REFILL), int(self._rate * answer_s * REFILL_ANSWERS) + 1)
        return requests

    def lease_for(self, answer_s: float, now: float) -> float:
        """Return how long a lease must be good for when an answer takes so long."""
        if now - self._tight_at > CALM_S:
            return self._roomy_s
        return min(self._longest_s, max(self.lease_s, 3 * answer_s))

    @property
    def remaining(self) -> int:
        """Requests that may be used without asking."""
        return sum(lease.requests for lease in self.leases)

    def is_tight(self) -> bool:
        """Return whether more than TIGHT of one of the limits is used, as far as is known."""
        if any(w.limit - w.remaining() > w.limit * TIGHT for w in self.limits.windows):
            return True
        return any(c.held + c.elsewhere > c.limit * TIGHT for c in self.limited if c.limit is not None)

    def is_rejected(self, tokens: int, now: float) -> bool:
        """Return whether the store's last answer holds for a request of *tokens* too."""
        rejection = self.rejection
        return (
            rejection is not None
            and now < self.rejected_until
            and (rejection.limit_kind.unit != "tokens" or tokens >= self.rejected_tokens)
        )

    def ask(self, index: CounterIndex, lease_s: float, answer_s: float, *, with_waiting: bool) -> Ask | None:
        """Return what to ask the store for, or None."""
        requests = tokens = first = 0
        for waiter in self.waiting.values() if with_waiting else ():
            if requests and (waiter.tokens > self.largest or first > self.largest or requests == MAX_AT_ONCE):
                break
            requests += 1
            tokens += waiter.tokens
            first = first or waiter.tokens
        more = 0
        if first <= self.largest and self.remaining <= max(0, self.low):
            more = self.ahead(lease_s, answer_s)
        if not requests + more:
            return None
        if more:
            each = min(self.largest, int(self._tokens) + 1) if self.limits.tokens else 0
            tokens += more * each
            first = first if requests else each
        windows = [index.window(w) for w in self.limits.windows]
        concurrency = [index.slot(s) for s in self.limited]
        return windows, concurrency, requests + more, tokens, first, round(lease_s * 1e6)
