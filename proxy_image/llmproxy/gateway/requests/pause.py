"""Pause of one pod, for an update of the model's weights: no call starts until it ends, those in flight go on.

A pause has a time to live, so that a trainer that dies in the middle leaves no proxy paused. It is state of the
process: a restarted pod is not paused.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

from llmproxy.gateway.errors import PausedError, retry_after
from llmproxy.gateway.limits.local.queue import Waiter

RETRY_AFTER_S = 5.0
TTL_S = 600.0
MAX_TTL_S = 86_400.0

Result = TypeVar("Result")


class Pause:
    """The pause of this pod."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until_s = 0.0
        self.retry_after_s = RETRY_AFTER_S
        """Retry-After of paused calls."""
        self._waiters: set[asyncio.Future[Any]] = set()

    @property
    def ends_in_s(self) -> float:
        """Return the seconds until it ends by itself; 0 without one."""
        return max(0.0, self._until_s - self._clock()) if self._until_s else 0.0

    @property
    def active(self) -> bool:
        """Return True during a pause."""
        return self._until_s > 0.0 and self.ends_in_s > 0.0

    def begin(self, *, retry_after_s: float = RETRY_AFTER_S, ttl_s: float = TTL_S) -> None:
        """Pause for at most *ttl_s* from now; during a pause this sets a new length."""
        self.retry_after_s = retry_after_s
        self._until_s = self._clock() + ttl_s
        for turn in self._waiters:
            turn.cancel()

    def end(self) -> None:
        """End the pause."""
        self._until_s = 0.0

    def check(self) -> None:
        """Raise PausedError during a pause: for each call, before any limit is charged."""
        if self._until_s and self.active:
            raise self.error()

    def error(self) -> PausedError:
        """Return the error of a paused call."""
        wait_s = min(self.retry_after_s, self.ends_in_s)
        return PausedError(
            f"calls are paused, as for an update of the model's weights: send it again in {wait_s:.3g} s",
            headers=retry_after(wait_s),
        )

    async def turn(self, waiter: Waiter[Result]) -> Result:
        """Wait for a limit; raise PausedError when a pause starts first: a queued call is not in flight."""
        future = waiter.future
        self._waiters.add(future)
        try:
            return await waiter
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():  # the client has disconnected, or this pod ends
                raise
            raise self.error() from None
        finally:
            self._waiters.discard(future)


async def until_quiet(in_flight: Callable[[], int], timeout_s: float, *, interval_s: float = 0.02) -> int:
    """Return the number of calls in flight: as soon as it is 0, after *timeout_s* at the latest."""
    deadline_s = time.monotonic() + timeout_s
    while (count := in_flight()) and time.monotonic() < deadline_s:  # noqa: ASYNC110 - counts are plain numbers
        await asyncio.sleep(interval_s)
    return count
