"""A pause of one pod, for an update of the model's weights: no call is begun until it ends, those in flight go on.

It always ends by itself, so that a trainer that dies in the middle leaves no proxy behind that serves nobody. It is of
one process and in no file: a pod that is started again is not paused until it is told so again.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

from llmproxy.gateway.errors import PausedError, retry_after
from llmproxy.gateway.limits.local.queue import Waiter

RETRY_AFTER_S = 5.0
MAX_RETRY_AFTER_S = 60.0
"""OpenAI's and Anthropic's SDKs believe no longer one and then wait by a rule of their own."""
TTL_S = 600.0
MAX_TTL_S = 86_400.0

Result = TypeVar("Result")


class Pause:
    """Whether this pod is paused, and for how long."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until_s = 0.0
        self.retry_after_s = RETRY_AFTER_S
        """What callers are told to wait."""
        self._line: set[asyncio.Future[Any]] = set()

    @property
    def ends_in_s(self) -> float:
        """Seconds until it ends by itself; 0 when there is none."""
        return max(0.0, self._until_s - self._clock()) if self._until_s else 0.0

    @property
    def holds(self) -> bool:
        """Whether there is one."""
        return self._until_s > 0.0 and self.ends_in_s > 0.0

    def begin(self, *, retry_after_s: float = RETRY_AFTER_S, ttl_s: float = TTL_S) -> None:
        """Pause for *ttl_s* from now at most; again is a new length."""
        self.retry_after_s = retry_after_s
        self._until_s = self._clock() + ttl_s
        for turn in self._line:
            turn.cancel()

    def end(self) -> None:
        """Take calls again."""
        self._until_s = 0.0

    def check(self) -> None:
        """Raise PausedError if there is one: for each call, before any limit is asked."""
        if self._until_s and self.holds:
            raise self.error()

    def error(self) -> PausedError:
        """Return what a caller is told."""
        wait_s = min(self.retry_after_s, self.ends_in_s)
        return PausedError(
            f"calls are paused, as for an update of the model's weights: send it again in {wait_s:.3g} s",
            headers=retry_after(wait_s),
        )

    async def turn(self, waiter: Waiter[Result]) -> Result:
        """Wait for a limit, unless a pause comes first: it is no call in flight that waits there. Raise PausedError."""
        future = waiter.future
        self._line.add(future)
        try:
            return await waiter
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():  # the caller has left, or this pod ends
                raise
            raise self.error() from None
        finally:
            self._line.discard(future)


async def until_quiet(in_flight: Callable[[], int], timeout_s: float, *, interval_s: float = 0.02) -> int:
    """Return how many calls are in flight, as soon as it is none and after *timeout_s* at the latest."""
    deadline_s = time.monotonic() + timeout_s
    while (count := in_flight()) and time.monotonic() < deadline_s:  # noqa: ASYNC110 - counts are plain numbers
        await asyncio.sleep(interval_s)
    return count
