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


SLOW = 3
"""For each worker there may be so many passes that are slow, besides."""


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
    settle_s: float = 1.0
    """The same before a pass that only its children ask for: what a pass made is followed by a handful of events
    about it. It is the longest that any of them is late, and the first one after it is not."""
    resync_s: float = 600.0
    """Every proxy is looked at so often even if nothing happens, give or take a fifth."""
    pass_s: float = 60.0
    """A pass that takes longer is broken off."""
    slow_s: float = 5.0
    """A pass that takes longer gives its worker's place to the next: requests that hang for some proxies must not
    make all wait until they time out."""

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
        self._meanwhile: dict[Key, tuple[float, float]] = {}
        """What was asked for while a pass of the key runs: when, and after which gap."""
        self._failures: dict[Key, int] = {}
        self._ended: dict[Key, float] = {}
        self._changed = asyncio.Event()

    def add(self, key: Key, after_s: float = 0.0, *, settle: bool = False) -> None:
        """Have a pass for *key*, at the earliest after so many seconds; an earlier turn stays.

        With *settle* the pass is about events that come in handfuls, and waits a little longer after the one before.
        """
        gap_s = self._timing.settle_s if settle else self._timing.gap_s
        due_s = self._clock() + after_s
        if key in self._running:  # the gap counts from the end of the pass that runs
            asked_s, asked_gap_s = self._meanwhile.get(key, (due_s, gap_s))
            self._meanwhile[key] = (min(asked_s, due_s), min(asked_gap_s, gap_s))
        else:
            self._plan(key, due_s, gap_s)

    def _plan(self, key: Key, due_s: float, gap_s: float) -> None:
        due_s = max(due_s, self._ended.get(key, -gap_s) + gap_s)
        if due_s < self._due.get(key, float("inf")):
            self._due[key] = due_s
            heapq.heappush(self._heap, (due_s, key))
            self._changed.set()

    def forget(self, key: Key) -> None:
        """Drop what is remembered of a key that is gone."""
        for memory in (self._due, self._failures, self._ended, self._meanwhile):
            memory.pop(key, None)

    @property
    def depth(self) -> int:
        """How many keys are due and wait for a worker."""
        now_s = self._clock()
        return sum(1 for due_s in self._due.values() if due_s <= now_s)

    @property
    def oldest_s(self) -> float:
        """How long the key that is due longest has been waiting for a worker, in seconds."""
        now_s = self._clock()
        waits = [now_s - due_s for due_s in self._due.values()]
        return max(0.0, *waits) if waits else 0.0

    async def run(self, workers: int) -> NoReturn:
        """Work for ever, at most so many passes at one time, and three times as many that are slow."""
        places, all_places = asyncio.Semaphore(workers), asyncio.Semaphore((1 + SLOW) * workers)
        async with asyncio.TaskGroup() as group:
            while True:
                await all_places.acquire()
                await places.acquire()
                key = await self._take()
                turn = group.create_task(self._turn(key))
                turn.add_done_callback(lambda _: all_places.release())
                group.create_task(self._leave(turn, places))

    async def _leave(self, turn: asyncio.Task[None], places: asyncio.Semaphore) -> None:
        """Give the place of a pass free when it has ended or is slow."""
        await asyncio.wait({turn}, timeout=self._timing.slow_s)
        places.release()

    async def _turn(self, key: Key) -> None:
        again_s = await self._pass(key)
        self._running.discard(key)
        asked = self._meanwhile.pop(key, None)
        if asked is not None:
            self._plan(key, *asked)
        if again_s is not None:
            self.add(key, again_s)
        elif asked is None:
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
        """Return the next entry of the heap that counts: one that an earlier turn replaced does not."""
        while self._heap:
            due_s, key = self._heap[0]
            if self._due.get(key) == due_s:
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
