"""Whether a destination is worth a request now: all at once while it works, one probe at a time while it does not."""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator

log = logging.getLogger("llmproxy.shipper")

FIRST_DELAY_S = 0.05
MAX_DELAY_S = 2.0
"""A store that comes back is noticed within that."""


def backoff_s(
    failures: int, rand: random.Random, *, first_s: float = FIRST_DELAY_S, max_s: float = MAX_DELAY_S
) -> float:
    """Return how long to wait after the *failures*-th failure in a row: doubled each time, less up to a half."""
    whole = min(max_s, first_s * 2 ** min(failures - 1, 32))
    return float(whole * rand.uniform(0.5, 1.0))


class Gate:
    """The state of one destination. Whoever passes says afterwards how it was."""

    def __init__(self, rand: random.Random | None = None, *, name: str = "store") -> None:
        self._is_back, self._is_away = f"{name}_is_back", f"{name}_unavailable"
        self._rand = rand or random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._failures = 0
        self._not_before_s = 0.0
        self._probe = asyncio.Lock()
        self._since_s = 0.0

    @property
    def healthy(self) -> bool:
        """Whether the last request worked."""
        return self._failures == 0

    @contextlib.asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        """Wait for the turn to send something."""
        if self.healthy:
            yield
            return
        async with self._probe:
            if not self.healthy:
                await asyncio.sleep(max(0.0, self._not_before_s - asyncio.get_running_loop().time()))
            yield

    def works(self) -> None:
        """Note a request that worked."""
        if self._failures:
            down_s = asyncio.get_running_loop().time() - self._since_s
            log.info(self._is_back, extra={"down_s": round(down_s, 1)})
        self._failures = 0

    def failed(self, why: str) -> None:
        """Note a request that did not. Those that were under way with the first that failed tell nothing new."""
        now_s = asyncio.get_running_loop().time()
        if self._failures and now_s < self._not_before_s:
            return
        if not self._failures:
            self._since_s = now_s
            log.warning(self._is_away, extra={"reason": why})
        self._failures += 1
        self._not_before_s = now_s + backoff_s(self._failures, self._rand)
