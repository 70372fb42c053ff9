"""Circuit breaker of a destination: all requests at once while it works, one probe at a time while it does not."""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator

log = logging.getLogger("llmproxy.shipper")

FIRST_DELAY_S = 0.05
MAX_DELAY_S = 2.0
"""Delay within which a store that recovers is noticed."""


def backoff_s(
    failures: int, rand: random.Random, *, first_s: float = FIRST_DELAY_S, max_s: float = MAX_DELAY_S
) -> float:
    """Return the delay after the *failures*-th failure in a row: doubled each time, with up to half taken off."""
    full_s = min(max_s, first_s * 2 ** min(failures - 1, 32))
    return float(full_s * rand.uniform(0.5, 1.0))


class CircuitBreaker:
    """State of one destination. Each permit ends in `record_success` or `record_failure`."""

    def __init__(self, rand: random.Random | None = None, *, name: str = "store") -> None:
        self._recovery_event, self._failure_event = f"{name}_recovered", f"{name}_unavailable"
        self._rand = rand or random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._failures = 0
        self._not_before_s = 0.0
        self._probe = asyncio.Lock()
        self._since_s = 0.0
        self.failure: tuple[str, str] | None = None
        """Reason and advice of the last failure; None while requests succeed."""
        self._reasons_logged: set[str] = set()

    @property
    def healthy(self) -> bool:
        """True if the last request succeeded."""
        return self._failures == 0

    @contextlib.asynccontextmanager
    async def permit(self) -> AsyncIterator[None]:
        """Wait for permission to send one request."""
        if self.healthy:
            yield
            return
        async with self._probe:
            if not self.healthy:
                await asyncio.sleep(max(0.0, self._not_before_s - asyncio.get_running_loop().time()))
            yield

    def record_success(self) -> None:
        """Close the circuit: a request succeeded."""
        if self._failures:
            down_s = asyncio.get_running_loop().time() - self._since_s
            log.info(self._recovery_event, extra={"down_s": round(down_s, 1)})
        self._failures = 0
        self.failure = None
        self._reasons_logged.clear()

    def record_failure(self, reason: str, advice: str = "") -> None:
        """Count a failed request, and log each reason once an outage.

        Requests in flight at the first failure are not counted.
        """
        self.failure = reason, advice
        if reason not in self._reasons_logged:
            self._reasons_logged.add(reason)
            log.warning(self._failure_event, extra={"reason": reason, **({"advice": advice} if advice else {})})
        now_s = asyncio.get_running_loop().time()
        if self._failures and now_s < self._not_before_s:
            return
        if not self._failures:
            self._since_s = now_s
        self._failures += 1
        self._not_before_s = now_s + backoff_s(self._failures, self._rand)
