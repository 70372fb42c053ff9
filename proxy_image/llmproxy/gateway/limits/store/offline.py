"""Offline mode of shared limits: a pod's quota of each limit, and its admissions that the store does not know.

While the store admits, it counts every admission first. When it disconnects, the pod remembers a watermark. Buckets up
to the watermark were already reported; later buckets are local admissions, which the pod reports when it goes online
again. No connection here and no time but the counters'; `client` says when.
"""

from collections.abc import Sequence
from zlib import crc32

from llmproxy.gateway.limits.limiter import Limiter
from llmproxy.gateway.limits.local.counters import Reservation
from llmproxy.gateway.limits.local.kinds import MAX_PARALLEL
from llmproxy.gateway.limits.local.window import NEVER, RING, Window
from llmproxy.gateway.limits.store.leases import ROOMY_LEASE_S, later

Amounts = dict[tuple[Window, int], int]
"""By window and number of the bucket."""


class OfflineMode:
    """Watermark and quotas of one pod."""

    def __init__(self, limiter: Limiter, pod: str, max_pods: int) -> None:
        """*pod* names it among the members; *max_pods* may be there at one time."""
        self.members: list[str] = []
        """The pods that were there when the store last admitted; empty when it never did."""
        self.max_pods = max_pods
        self._counters = limiter.counters
        self._pod = pod
        self._watermark = tuple([NEVER for _ in limiter.counters.tickers])
        """Buckets up to which everything is counted in the store, in the order of `Counters.tickers`."""
        self._reported = self._watermark

    def note(self, buckets: tuple[int, ...]) -> None:
        """Take the store's buckets, and those that a long lease may be charged ahead in, as reported."""
        tickers = self._counters.tickers
        ahead = [later(ROOMY_LEASE_S, ticker.width) for ticker in tickers]
        self._reported = tuple([number + more for number, more in zip(buckets, ahead, strict=True)])

    def disconnect(self) -> None:
        """Set the watermark: later admissions are in buckets that the store has nothing of."""
        counters = self._counters
        counters.now()
        self._watermark = tuple([max(pair) for pair in zip(counters.buckets, self._reported, strict=True)])
        counters.reach([number + 1 for number in self._watermark])
        self.set_quotas()

    def is_reported(self, reservation: Reservation) -> bool:
        """Return whether *reservation*, in the counters' numbers, was made before the watermark."""
        return all(number <= mark for number, mark in zip(reservation.buckets, self._watermark, strict=True))

    def local_admissions(self) -> Amounts:
        """Return what this pod admitted without the store."""
        amounts = {}
        for window in self._counters.windows():
            first, ring = window.since(self._watermark[window.ticker.index] + 1)
            amounts.update({(window, number): amount for number, amount in enumerate(ring, first) if amount})
        return amounts

    def set_quotas(self) -> None:
        """Set how much of each limit this pod may admit by itself."""
        for window in self._counters.windows():
            window.quota = self._quota(window.limit, f"{window.model}/{window.kind.name}")
        for concurrency in self._counters.concurrency():
            if concurrency.limit is not None:
                name = f"{concurrency.model}/{MAX_PARALLEL.name}"
                concurrency.quota = self._quota(concurrency.limit, name)

    def without_quota(self) -> list[str]:
        """Return the limits of which this pod may admit nothing."""
        return [f"{w.kind.name} of {w.model or 'the proxy'}" for w in self._counters.windows() if not w.quota]

    def _quota(self, limit: int, name: str) -> int:
        if self._pod in self.members:
            return offline_quota(limit, self._pod, self.members, name)
        return unconnected_quota(limit, self.max_pods)


def offline_quota(limit: int, pod: str, members: Sequence[str], name: str) -> int:
    """Return what *pod* may admit of the limit called *name*; *members* are all pods, *pod* among them.

    The quotas of all pods are whole numbers that sum to the limit, and pods that know the same members come to the same
    without a word. The remainder goes to other pods for other limits, so that one pod is not the poorest everywhere. A
    quota of 0 is possible: fewer requests than pods.
    """
    ordered = sorted(members)
    whole, rest = divmod(limit, len(ordered))
    turn = (ordered.index(pod) + crc32(name.encode())) % len(ordered)
    return whole + (turn < rest)


def unconnected_quota(limit: int, max_pods: int) -> int:
    """Return what a pod may admit that has never met the others: so little that *max_pods* of them keep the limit."""
    return limit // max_pods


def hold_us(limiter: Limiter, slots_live_s: float) -> int:
    """Return how long a new store must wait until nothing counts that was admitted before it."""
    widths = [w.ticker.width * RING for w in limiter.counters.windows()]
    slots = [slots_live_s for c in limiter.counters.concurrency() if c.limit is not None]
    return round(max([0.0, *widths, *slots]) * 1e6)
