"""The work queue: one reconcile at a time per key, none lost, and no key waits for the failures of another."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from llmproxy_operator.errors import UnavailableError
from llmproxy_operator.workqueue import Key, Timing, WorkQueue

QUICK = Timing(first_backoff_s=0.01, max_backoff_s=0.05, gap_s=0.0, resync_s=1000.0, timeout_s=5.0)
A, B = Key("n", "a"), Key("n", "b")


class Passes:
    """Counts what the queue reports."""

    def __init__(self) -> None:
        self.failed = 0
        self.done = 0

    def reconciled(self, *, failed: bool, took_s: float) -> None:
        self.failed += failed
        self.done += not failed


@asynccontextmanager
async def running(
    work: Callable[[Key], Awaitable[float | None]], timing: Timing = QUICK, workers: int = 4
) -> AsyncIterator[tuple[WorkQueue, Passes]]:
    passes = Passes()
    queue = WorkQueue(work, passes, clock=time.monotonic, jitter=lambda: 0.5, timing=timing)
    task = asyncio.create_task(queue.run(workers))
    yield queue, passes
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what is waited for belongs to the test, not to the queue
            await asyncio.sleep(0.001)


async def test_a_burst_of_events_becomes_one_reconcile() -> None:
    seen: list[Key] = []

    async def work(key: Key) -> float | None:
        seen.append(key)
        return math.inf

    async with running(work) as (queue, _):
        for _ in range(100):
            queue.add(A)
        queue.add(B)
        await until(lambda: B in seen)

    assert sorted(seen) == [A, B]


async def test_what_happens_during_a_reconcile_leads_to_one_more_and_never_to_two_at_once() -> None:
    at_once, most, count = 0, 0, 0

    async def work(_: Key) -> float | None:
        nonlocal at_once, most, count
        at_once, count = at_once + 1, count + 1
        most = max(most, at_once)
        await asyncio.sleep(0.02)
        at_once -= 1
        return math.inf

    async with running(work) as (queue, passes):
        queue.add(A)
        await until(lambda: count == 1)
        for _ in range(10):
            queue.add(A)
        await until(lambda: passes.done == 2)
        await asyncio.sleep(0.05)

    assert (most, count) == (1, 2)


async def test_what_only_children_ask_for_waits_till_they_settle() -> None:
    began_s: list[float] = []

    async def work(_: Key) -> float | None:
        began_s.append(time.monotonic())
        if len(began_s) == 1:
            queue.add(A, settle=True)  # its children's events come while it still writes
        return math.inf

    async with running(work, Timing(gap_s=0.0, settle_s=0.5)) as (queue, passes):
        queue.add(A)
        await until(lambda: passes.done == 1)
        for _ in range(10):
            queue.add(A, settle=True)
        await until(lambda: passes.done == 2)
    assert began_s[1] - began_s[0] >= 0.5


async def test_an_edit_and_the_first_event_after_a_quiet_time_wait_for_nothing() -> None:
    async def work(_: Key) -> float | None:
        return math.inf

    async with running(work, Timing(gap_s=0.0, settle_s=60.0)) as (queue, passes):
        queue.add(A, settle=True)
        await until(lambda: passes.done == 1)
        queue.add(A, settle=True)
        queue.add(A)
        await until(lambda: passes.done == 2)


async def test_a_failing_key_is_tried_again_and_does_not_delay_others() -> None:
    tries: dict[Key, int] = {A: 0, B: 0}

    async def work(key: Key) -> float | None:
        tries[key] += 1
        if key == A:
            raise UnavailableError("no")
        return math.inf

    async with running(work, workers=1) as (queue, passes):
        queue.add(A)
        await until(lambda: tries[A] >= 3)
        queue.add(B)
        await until(lambda: tries[B] == 1)

    assert passes.failed >= 3


async def test_a_bug_in_one_reconcile_stops_nothing() -> None:
    seen: list[Key] = []

    async def work(key: Key) -> float | None:
        seen.append(key)
        if key == A:
            raise KeyError("a bug")
        return math.inf

    async with running(work) as (queue, _):
        queue.add(A)
        await until(lambda: A in seen)
        queue.add(B)
        await until(lambda: B in seen and seen.count(A) > 1)


async def test_a_reconcile_that_hangs_is_broken_off_and_repeated() -> None:
    count = 0

    async def work(_: Key) -> float | None:
        nonlocal count
        count += 1
        if count == 1:
            await asyncio.Event().wait()
        return math.inf

    async with running(work, Timing(first_backoff_s=0.01, gap_s=0.0, timeout_s=0.05)) as (queue, passes):
        queue.add(A)
        await until(lambda: passes.done == 1)

    assert (count, passes.failed) == (2, 1)


async def test_as_many_reconciles_run_as_there_are_workers() -> None:
    at_once, most = 0, 0

    async def work(_: Key) -> float | None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.01)
        at_once -= 1
        return math.inf

    async with running(work, workers=3) as (queue, passes):
        for number in range(30):
            queue.add(Key("n", str(number)))
        await until(lambda: passes.done == 30)

    assert most == 3


async def test_reconciles_that_hang_make_no_other_wait_and_are_bounded() -> None:
    hanging, seen = [Key("n", f"hangs-{number}") for number in range(20)], list[Key]()

    async def work(key: Key) -> float | None:
        seen.append(key)
        if key in hanging:
            await asyncio.Event().wait()
        return math.inf

    async with running(work, Timing(slow_s=0.05), workers=2) as (queue, passes):
        for key in (*hanging[:4], A):
            queue.add(key)
        await until(lambda: A in seen)
        for key in (*hanging[4:], B):
            queue.add(key)
        await until(lambda: len(seen) == 1 + 8)
        await asyncio.sleep(0.2)
        assert (passes.done, len(seen), B in seen) == (1, 1 + 8, False)


async def test_a_reconcile_is_repeated_when_it_asks_for_it_and_at_the_latest_for_the_resync() -> None:
    asked: list[float] = []

    async def work(_: Key) -> float | None:
        asked.append(time.monotonic())
        return 0.01 if len(asked) == 1 else math.inf

    async with running(work, Timing(gap_s=0.0, resync_s=0.02)) as (queue, _):
        queue.add(A)
        await until(lambda: len(asked) >= 4)


async def test_a_key_that_is_gone_is_not_repeated() -> None:
    count = 0

    async def work(_: Key) -> float | None:
        nonlocal count
        count += 1
        return None

    async with running(work, Timing(gap_s=0.0, resync_s=0.01)) as (queue, passes):
        queue.add(A)
        await until(lambda: passes.done == 1)
        await asyncio.sleep(0.05)
        assert count == 1
        queue.add(A)
        await until(lambda: passes.done == 2)


async def test_an_earlier_turn_wins_over_a_later_one() -> None:
    seen: list[Key] = []

    async def work(key: Key) -> float | None:
        seen.append(key)
        return math.inf

    async with running(work) as (queue, passes):
        queue.add(A, after_s=1000)
        queue.add(A)
        await until(lambda: passes.done == 1)
        queue.add(B, after_s=1000)
        await asyncio.sleep(0.02)

        assert seen == [A]
        assert queue.depth == 0
        assert queue.oldest_s == 0


@pytest.mark.parametrize(
    ("failures", "jitter", "wait_s"), [(1, 0.0, 0.25), (1, 1.0, 0.5), (2, 1.0, 1.0), (5, 1.0, 8.0), (1000, 1.0, 60.0)]
)
def test_waits_double_up_to_a_bound(failures: int, jitter: float, wait_s: float) -> None:
    assert Timing().backoff_s(failures, jitter) == wait_s


async def test_a_reconcile_that_may_be_repeated_only_later_is_repeated_only_then() -> None:
    at_s: list[float] = []

    async def work(_: Key) -> float | None:
        at_s.append(time.monotonic())
        if len(at_s) == 1:
            raise UnavailableError("too many requests", status=429, retry_after_s=0.3)
        return math.inf

    async with running(work) as (queue, _):
        queue.add(A)
        await until(lambda: len(at_s) == 2)

    assert at_s[1] - at_s[0] >= 0.29
