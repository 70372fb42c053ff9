"""Work queue of keys: each key once, one reconcile per key at a time; a failing key backs off without delaying others.

It knows nothing of Kubernetes or of what a reconcile does. A key that is added while its reconcile runs is reconciled
once more.
"""

import asyncio
import contextlib
import heapq
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple, NoReturn, Protocol

from llmproxy_operator.errors import OperatorError

log = logging.getLogger(__name__)


SLOW_PER_WORKER = 3
"""Slow reconciles that may run beside each worker."""


def backoff_s(failures: int, jitter: float, *, first_s: float, most_s: float) -> float:
    """Return the wait: *first_s*, doubled with each failure up to *most_s*, and spread by *jitter* from 0 to 1."""
    return min(most_s, first_s * float(1 << min(failures - 1, 30))) * (0.5 + 0.5 * jitter)


class Key(NamedTuple):
    """Namespace and name of an LLMProxy."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


ReconcileFunction = Callable[[Key], Awaitable[float | None]]
"""One reconcile. Returns the delay of the next one in seconds: infinity if only an event asks for that, None if the
key is gone."""


class ReconcileObserver(Protocol):
    """Counter of reconciles."""

    def reconciled(self, *, failed: bool, took_s: float) -> None:
        """Count one reconcile that ended."""


@dataclass(frozen=True)
class Timing:
    """Timeouts and delays, in seconds."""

    first_backoff_s: float = 0.5
    max_backoff_s: float = 60.0
    gap_s: float = 0.2
    """Minimum time between two reconciles of one key: a burst of events becomes one reconcile."""
    settle_s: float = 1.0
    """The same for events of children: the writes of a reconcile are followed by a handful of them. It is the longest
    that any of them is late, and the first one after it is not."""
    resync_s: float = 600.0
    """Interval of reconciles without any event, give or take a fifth."""
    timeout_s: float = 60.0
    """Timeout of one reconcile."""
    slow_s: float = 5.0
    """A reconcile that takes longer frees its worker for the next key: requests that hang for some proxies must not
    make all wait until they time out."""

    def backoff_s(self, failures: int, jitter: float) -> float:
        """Return the wait after so many failures in a row."""
        return backoff_s(failures, jitter, first_s=self.first_backoff_s, most_s=self.max_backoff_s)


class WorkQueue:
    """Keys that wait, and the workers that take them."""

    def __init__(
        self,
        reconcile: ReconcileFunction,
        observer: ReconcileObserver,
        *,
        clock: Callable[[], float],
        jitter: Callable[[], float],
        timing: Timing | None = None,
    ) -> None:
        """*clock* counts seconds and does not jump; *jitter* gives numbers from 0 to 1."""
        self._reconcile = reconcile
        self._observer = observer
        self._clock = clock
        self._jitter = jitter
        self._timing = timing or Timing()
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, Key]] = []
        self._running: set[Key] = set()
        self._dirty: dict[Key, tuple[float, float]] = {}
        """Keys that were added while their reconcile runs: due time, and gap."""
        self._failures: dict[Key, int] = {}
        self._ended: dict[Key, float] = {}
        self._changed = asyncio.Event()

    def add(self, key: Key, after_s: float = 0.0, *, settle: bool = False) -> None:
        """Reconcile *key*, at the earliest after so many seconds; an earlier due time stays.

        With *settle* the event is one of a handful, and the gap after the last reconcile is a little longer.
        """
        gap_s = self._timing.settle_s if settle else self._timing.gap_s
        due_s = self._clock() + after_s
        if key in self._running:  # the gap counts from the end of the running reconcile
            dirty_due_s, dirty_gap_s = self._dirty.get(key, (due_s, gap_s))
            self._dirty[key] = (min(dirty_due_s, due_s), min(dirty_gap_s, gap_s))
        else:
            self._schedule(key, due_s, gap_s)

    def _schedule(self, key: Key, due_s: float, gap_s: float) -> None:
        due_s = max(due_s, self._ended.get(key, -gap_s) + gap_s)
        if due_s < self._due.get(key, float("inf")):
            self._due[key] = due_s
            heapq.heappush(self._heap, (due_s, key))
            self._changed.set()

    def forget(self, key: Key) -> None:
        """Drop the state of a key that is gone."""
        for state in (self._due, self._failures, self._ended, self._dirty):
            state.pop(key, None)

    @property
    def depth(self) -> int:
        """Number of keys that are due and wait for a worker."""
        now_s = self._clock()
        return sum(1 for due_s in self._due.values() if due_s <= now_s)

    @property
    def oldest_s(self) -> float:
        """Wait of the key that is due longest, in seconds."""
        now_s = self._clock()
        waits = [now_s - due_s for due_s in self._due.values()]
        return max(0.0, *waits) if waits else 0.0

    async def run(self, workers: int) -> NoReturn:
        """Work for ever, with at most so many reconciles at one time, and three times as many slow ones."""
        places, all_places = asyncio.Semaphore(workers), asyncio.Semaphore((1 + SLOW_PER_WORKER) * workers)
        async with asyncio.TaskGroup() as group:
            while True:
                await all_places.acquire()
                await places.acquire()
                key = await self._take()
                task = group.create_task(self._process(key))
                task.add_done_callback(lambda _: all_places.release())
                group.create_task(self._free_worker(task, places))

    async def _free_worker(self, task: asyncio.Task[None], places: asyncio.Semaphore) -> None:
        """Free the worker of a reconcile when it has ended or is slow."""
        await asyncio.wait({task}, timeout=self._timing.slow_s)
        places.release()

    async def _process(self, key: Key) -> None:
        requeue_after_s = await self._run_once(key)
        self._running.discard(key)
        dirty = self._dirty.pop(key, None)
        if dirty is not None:
            self._schedule(key, *dirty)
        if requeue_after_s is not None:
            self.add(key, requeue_after_s)
        elif dirty is None:
            self.forget(key)
        self._changed.set()

    async def _take(self) -> Key:
        """Wait for the first key that is due and not running, and take it."""
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
        """Return the next valid entry of the heap; one that an earlier due time replaced is not."""
        while self._heap:
            due_s, key = self._heap[0]
            if self._due.get(key) == due_s:
                return self._heap[0]
            heapq.heappop(self._heap)
        return None

    async def _run_once(self, key: Key) -> float | None:
        """Reconcile once; return the delay of the next reconcile, None if the key is gone."""
        start_s = self._clock()
        failed, requeue_after_s, retry_after_s = True, None, 0.0
        try:
            async with asyncio.timeout(self._timing.timeout_s):
                requeue_after_s = await self._reconcile(key)
            failed = False
        except TimeoutError:
            timeout_s = self._timing.timeout_s
            log.error("reconcile_timeout", extra={"proxy": str(key), "seconds": timeout_s})  # noqa: TRY400 - no bug
        except OperatorError as exc:
            retry_after_s = exc.retry_after_s
            log.warning("reconcile_failed", extra={"proxy": str(key), "error": str(exc)})
        except Exception:  # a bug that one proxy triggers must not stop the others
            log.exception("reconcile_crashed", extra={"proxy": str(key)})
        end_s = self._clock()
        self._observer.reconciled(failed=failed, took_s=end_s - start_s)
        self._ended[key] = end_s
        if failed:
            self._failures[key] = self._failures.get(key, 0) + 1
            return max(retry_after_s, self._timing.backoff_s(self._failures[key], self._jitter()))
        self._failures.pop(key, None)
        if requeue_after_s is None:
            return None
        return min(requeue_after_s, self._timing.resync_s * (0.8 + 0.4 * self._jitter()))
