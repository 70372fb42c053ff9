"""What a pod may admit without the store, and what the store does not know of that: the state of being apart.

While a pod is joined, everything it admits is counted in the store first. At a cut it draws a line, the mark: buckets
up to it are counted there, later ones are this pod's own and are told when it joins again. No connection here and no
time but the book's; `session` says when.
"""

from llmproxy.gateway.limits.limiter import Limiter
from llmproxy.gateway.limits.local.counters import Charge
from llmproxy.gateway.limits.local.kinds import MINUTE_S, SECOND_S
from llmproxy.gateway.limits.local.window import AHEAD, NEVER, RING, Window
from llmproxy.gateway.limits.store.shares import share, stranger_share

Amounts = dict[tuple[Window, int], int]
"""By window and number of the bucket."""


class Parting:
    """Of one pod."""

    def __init__(self, limiter: Limiter, pod: str, max_pods: int) -> None:
        """*pod* names it among the members; *max_pods* may be there at one time."""
        self.members: list[str] = []
        """The pods that were there when the store last admitted; empty when it never did."""
        self.max_pods = max_pods
        self._book = limiter.book
        self._pod = pod
        self._mark = (NEVER, NEVER)
        """Buckets (minute, second) up to which everything is counted in the store."""
        self._noted = (NEVER, NEVER)

    def note(self, minute: int, second: int) -> None:
        """The store has answered in these buckets."""
        self._noted = (minute, second + AHEAD)  # slow leases are booked ahead, in seconds only

    def cut(self) -> None:
        """Draw the line: what is admitted from now on is in buckets that the store has nothing of."""
        now = self._book.clock()
        marks = []
        for ticker, noted in zip((self._book.minute, self._book.second), self._noted, strict=True):
            ticker.tick(now)
            mark = max(ticker.number, noted)
            ticker.reach(mark + 1)
            marks.append(mark)
        self._mark = (marks[0], marks[1])
        self.share_out()

    def is_told(self, charge: Charge) -> bool:
        """Whether *charge*, in this book's numbers, was made before the line."""
        return charge.minute <= self._mark[0] and charge.second <= self._mark[1]

    def own(self) -> Amounts:
        """Return what this pod admitted without the store."""
        found = {}
        for window in self._book.windows():
            mark = self._mark[0 if window.ticker is self._book.minute else 1]
            first, amounts = window.since(mark + 1)
            found.update({(window, number): amount for number, amount in enumerate(amounts, first) if amount})
        return found

    def share_out(self) -> None:
        """Set what this pod may admit of each limit by itself."""
        for window in self._book.windows():
            window.share = self._share(window.limit, f"{window.model}/{window.kind}")
        for slots in self._book.slots():
            if slots.limit is not None:
                slots.share = self._share(slots.limit, f"{slots.model}/maxParallel")

    def nothing(self) -> list[str]:
        """Return the limits of which this pod has no part."""
        return [f"{w.kind} of {w.model or 'the proxy'}" for w in self._book.windows() if not w.share]

    def _share(self, limit: int, name: str) -> int:
        if self._pod in self.members:
            return share(limit, self._pod, self.members, name)
        return stranger_share(limit, self.max_pods)


def hold_us(limiter: Limiter, slots_live_s: float) -> int:
    """Return how long a new store must wait until nothing counts that was admitted before it."""
    widths = [w.ticker.width * RING for w in limiter.book.windows()]
    slots = [slots_live_s for s in limiter.book.slots() if s.limit is not None]
    return round(max([0.0, *widths, *slots]) * 1e6)


def window_seconds(limiter: Limiter, window: Window) -> int:
    """Return the length of *window*."""
    return int(SECOND_S if window.ticker is limiter.book.second else MINUTE_S)
