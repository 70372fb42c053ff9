"""What a pod got from the store and has not used, and who waits for more: the state of one model, and its sizes.

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
from llmproxy.gateway.limits.local.counters import Blocked, Plan
from llmproxy.gateway.limits.local.kinds import MINUTE_S, SECOND_S, Denial
from llmproxy.gateway.limits.local.queue import Waiter
from llmproxy.gateway.limits.local.window import AHEAD, BUCKETS
from llmproxy.gateway.limits.store.protocol import Ask, Part

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
CALM_S: Final = 2.0
"""So long nobody must have been, for long leases: under backlog that comes in bursts a window is empty now and then."""
OBSERVE_S: Final = 0.03
"""The rate is taken over so long at least, or over a lease's time if that is shorter."""


def later(lease_s: float, width: float) -> int:
    """Return how many buckets ahead take.lua books a lease that is good for so long."""
    return min(max(0, ceil(round(lease_s * 1e6) / (width * 1e6)) - USED_LATER), AHEAD)


class Lease:
    """Requests that are charged in the store and not used yet."""

    __slots__ = ("minute", "requests", "second", "tokens", "until")

    def __init__(self, requests: int, tokens: int, until: float, minute: int, second: int) -> None:
        self.requests = requests
        self.tokens = tokens
        self.until = until
        """By the pod's clock."""
        self.minute = minute
        self.second = second


class Pool:
    """One model's."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.leases: deque[Lease] = deque()
        self.waiting: dict[int, Waiter[Grant | Denial]] = {}
        self.blocked: Blocked | None = None
        """What was in the way of the last that was not admitted."""
        self.blocked_tokens = 0
        self.blocked_until = 0.0
        """Until then the answer is known, by the pod's clock."""
        self.fits_at = 0.0
        """When what was in the way will have left, as far as the store knew."""
        self.low = 0
        """Ask for more when no more than this is left; -1: never ahead of need."""
        self.limited = [s for s in plan.slots if s.limit is not None]
        self.limits = len(plan.windows) + len(self.limited)
        self.largest = min((w.limit for w in plan.tokens), default=1 << 60)
        """Tokens of one request that are charged alike to every limit; one above is asked for alone."""
        limits = [w.limit for w in plan.requests] + [s.limit for s in self.limited if s.limit is not None]
        smallest = min([*limits, self.largest])
        self._most = int(min([*limits, 1 << 30]) * AT_MOST) if smallest >= MIN_LIMIT else 0
        self._most_tokens = int(self.largest * AT_MOST)
        width = min((w.ticker.width for w in plan.windows), default=MINUTE_S / BUCKETS)
        self.lease_s = USED_LATER * width
        self._roomy_s = max(self.lease_s, (AHEAD + USED_LATER) * SECOND_S / BUCKETS)
        self._longest_s = max(self.lease_s, min(SLOW_LEASE_S, self._roomy_s))
        self._tight_at = float("-inf")
        self.roomy = False
        """Nobody is near these limits, as far as is known."""
        self.active = False
        """Has been asked for lately, or waits, or has leases."""
        self._rate = 0.0
        self._tokens = 0.0
        self._came = 0
        self._came_tokens = 0
        self._since = 0.0

    def came(self, tokens: int) -> None:
        """Count a request that came."""
        self._came += 1
        self._came_tokens += tokens

    def observe(self, now: float) -> None:
        """Take what came lately for what will come, and see how near the limits are."""
        self._see_room(now)
        passed = now - self._since
        if passed < min(self.lease_s, OBSERVE_S):
            return
        rate = self._came / min(passed, 1.0)  # it may have been idle before
        self._rate = max(rate, (self._rate + rate) / 2)
        if self._came:
            self._tokens = self._came_tokens / self._came
        elif not self.leases and not self.waiting:
            self.active = False
        self._came = self._came_tokens = 0
        self._since = now

    def _see_room(self, now: float) -> None:
        used = [(w.used + w.elsewhere, w.limit) for w in self.plan.windows]
        used += [(s.held + s.elsewhere, s.limit) for s in self.limited if s.limit is not None]
        self.roomy = self.blocked is None and all(amount <= limit * ROOMY for amount, limit in used)
        if not self.roomy:
            self._tight_at = now

    def ahead(self, lease_s: float, answer_s: float) -> int:
        """Return how many requests to ask for beyond those that wait, and set when to ask again."""
        wanted = min(int(self._rate * lease_s * USE), self._most)
        if self.plan.tokens and self._tokens * wanted > self._most_tokens:
            wanted = int(self._most_tokens / self._tokens)
        if wanted <= 1:
            self.low = -1
            return 0
        self.low = min(int(wanted * REFILL), int(self._rate * answer_s * REFILL_ANSWERS) + 1)
        return wanted

    def lease_for(self, answer_s: float, now: float) -> float:
        """Return how long a lease must be good for when an answer takes so long."""
        if now - self._tight_at > CALM_S:
            return self._roomy_s
        return min(self._longest_s, max(self.lease_s, 3 * answer_s))

    @property
    def left(self) -> int:
        """Requests that may be used without asking."""
        return sum(lease.requests for lease in self.leases)

    def is_denied(self, tokens: int, now: float) -> bool:
        """Whether the store's last word holds for a request of *tokens* too."""
        blocked = self.blocked
        return (
            blocked is not None
            and now < self.blocked_until
            and (blocked.kind != "tpm" or tokens >= self.blocked_tokens)
        )

    def ask(self, part: Part, lease_s: float, answer_s: float, *, with_waiting: bool) -> Ask | None:
        """Return what to ask the store for, or None."""
        requests = tokens = first = 0
        for waiter in self.waiting.values() if with_waiting else ():
            if requests and (waiter.tokens > self.largest or first > self.largest or requests == MAX_AT_ONCE):
                break
            requests += 1
            tokens += waiter.tokens
            first = first or waiter.tokens
        more = 0
        if first <= self.largest and self.left <= max(0, self.low):
            more = self.ahead(lease_s, answer_s)
        if not requests + more:
            return None
        if more:
            each = min(self.largest, int(self._tokens) + 1) if self.plan.tokens else 0
            tokens += more * each
            first = first if requests else each
        windows = [part.window(w) for w in self.plan.windows]
        slots = [part.slot(s) for s in self.limited]
        return windows, slots, requests + more, tokens, first, round(lease_s * 1e6)
