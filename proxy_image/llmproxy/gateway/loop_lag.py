"""Lag of the event loop: how late a timer fires because this process was busy or had no core.

Whatever a call waits for its pod and not for an upstream or a store shows here.
"""

import asyncio
import time
from bisect import bisect_left

INTERVAL_S = 0.05
LAG_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class LoopLag:
    """Histogram of the lag, sampled every INTERVAL_S."""

    def __init__(self) -> None:
        self.counts = [0] * (len(LAG_S) + 1)
        """Samples up to each of LAG_S, and longer."""
        self.seconds = 0.0
        self._due_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Sample from now on; call it in the loop."""
        self._due_s = time.monotonic() + INTERVAL_S
        self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._sample)

    def stop(self) -> None:
        """Sample no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _sample(self) -> None:
        lag_s = max(0.0, time.monotonic() - self._due_s)
        self.counts[bisect_left(LAG_S, lag_s)] += 1
        self.seconds += lag_s
        self.start()
