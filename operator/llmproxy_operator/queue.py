"""Which proxy's turn it is: each key once, one pass at a time per key, and a failing one waits without delaying others.

Knows nothing of Kubernetes or of what a pass does. Whatever happens to a key while its pass runs leads to one more.
"""

import asyncio
import contextlib
import heapq
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple, NoReturn, Protocol

from llmproxy_operator.backoff import backoff_s
from llmproxy_operator.errors import OperatorError

log = logging.getLogger(__name__)


class Key(NamedTuple):
    """Which LLMProxy."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


Work = Callable[[Key], Awaitable[float | None]]
"""One pass. Returns after how many seconds it wants to be repeated: infinity if only something new can ask for that,
None if the key is no more."""


class Observer(Protocol):
    """Who counts passes."""

    def passed(self, *, failed: bool, took_s: float) -> None:
        """One pass ended."""


@dataclass(frozen=True)
class Timing:
    """How long things may take and how long they wait, in seconds."""

    first_backoff_s: float = 0.5
    max_backoff_s: float = 60.0
    gap_s: float = 0.2
    """Between two passes of one key: a burst of events becomes one pass."""
    resync_s: float = 600.0
    """Every proxy is looked at so often even if nothing happens, give or take a fifth."""
    pass_s: float = 60.0
    """A pass that takes longer is broken off."""

    def backoff_s(self, failures: int, jitter: float) -> float:
        """Return the wait after so many failures in a row: doubled each time, spread by *jitter* from 0 to 1."""
        return backoff_s(failures, jitter, first_s=self.first_backoff_s, most_s=self.max_backoff_s)


class KeyedQueue:
    """The keys that wait, and the workers that take them."""

    def __init__(
        self,
        work: Work,
        observer: Observer,
        *,
        clock: Callable[[], float],
        jitter: Callable[[], float],
        timing: Timing | None = None,
    ) -> None:
        """*clock* counts seconds and does not jump; *jitter* gives numbers from 0 to 1."""
        self._work = work
        self._observer = observer
        self._clock = clock
        self._jitter = jitter
        self._timing = timing or Timing()
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, Key]] = []
        self._running: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._ended: dict[Key, float] = {}
        self._changed = asyncio.Event()

    def add(self, key: Key, after_s: float = 0.0) -> None:
        """Have a pass for *key*, at the earliest after so many seconds; an earlier turn stays."""
        now_s = self._clock()
        due_s = max(now_s + after_s, self._ended.get(key, -self._timing.gap_s) + self._timing.gap_s)
        if due_s < self._due.get(key, float("inf")):
            self._due[key] = due_s
            heapq.heappush(self._heap, (due_s, key))
            self._changed.set()

    def forget(self, key: Key) -> None:
        """Drop what is remembered of a key that is gone."""
        for memory in (self._due, self._failures, self._ended):
            memory.pop(key, None)

    @property
    def depth(self) -> int:
        """How many keys are due and wait for a worker."""
        now_s = self._clock()
        return sum(1 for key, due_s in self._due.items() if due_s <= now_s and key not in self._running)

    @property
    def oldest_s(self) -> float:
        """How long the key that is due longest has been waiting for a worker, in seconds."""
        now_s = self._clock()
        waits = [now_s - due_s for key, due_s in self._due.items() if key not in self._running]
        return max(0.0, *waits) if waits else 0.0

    async def run(self, workers: int) -> NoReturn:
        """Work for ever, at most so many passes at one time."""
        slots = asyncio.Semaphore(workers)
        async with asyncio.TaskGroup() as group:
            while True:
                await slots.acquire()
                key = await self._take()
                group.create_task(self._turn(key)).add_done_callback(lambda _: slots.release())

    async def _turn(self, key: Key) -> None:
        again_s = await self._pass(key)
        self._running.discard(key)
        if key in self._due:
            heapq.heappush(self._heap, (self._due[key], key))  # its entry was dropped while the pass ran
        if again_s is not None:
            self.add(key, again_s)
        elif key not in self._due:
            self.forget(key)
        self._changed.set()

    async def _take(self) -> Key:
        """Wait for the first key that is due and not being worked on, and take it."""
        while True:
            self._changed.clear()
            wait_s = None
            if (entry := self._first()) is not None:
                due_s, key = entry
                wait_s = due_s - self._clock()
                if wait_s <= 0:
                    heapq.heappop(self._heap)
                    del self._due[key]
                    self._running.add(key)
                    return key
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()

    def _first(self) -> tuple[float, Key] | None:
        """Return the next entry of the heap that counts; those of running keys are put back when their pass ends."""
        while self._heap:
            due_s, key = self._heap[0]
            if self._due.get(key) == due_s and key not in self._running:
                return self._heap[0]
            heapq.heappop(self._heap)
        return None

    async def _pass(self, key: Key) -> float | None:
        """Do one pass; return when to repeat it, None if the key is gone."""
        began_s = self._clock()
        failed, wanted_s, not_before_s = True, None, 0.0
        try:
            async with asyncio.timeout(self._timing.pass_s):
                wanted_s = await self._work(key)
            failed = False
        except TimeoutError:
            log.error("pass_too_long", extra={"proxy": str(key), "seconds": self._timing.pass_s})  # noqa: TRY400 - no bug
        except OperatorError as exc:
            not_before_s = exc.again_s
            log.warning("pass_failed", extra={"proxy": str(key), "error": str(exc)})
        except Exception:  # a bug in one proxy's pass must not stop the others'
            log.exception("pass_broken", extra={"proxy": str(key)})
        ended_s = self._clock()
        self._observer.passed(failed=failed, took_s=ended_s - began_s)
        self._ended[key] = ended_s
        if failed:
            self._failures[key] = self._failures.get(key, 0) + 1
            return max(not_before_s, self._timing.backoff_s(self._failures[key], self._jitter()))
        self._failures.pop(key, None)
        if wanted_s is None:
            return None
        return min(wanted_s, self._timing.resync_s * (0.8 + 0.4 * self._jitter()))
