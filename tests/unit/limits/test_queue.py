"""Waiting for a turn, on a loop whose time the tests own."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmproxy.gateway.limits import Grant, Limiter, Rejection
from llmproxy.gateway.limits.local import kinds
from windows import Clock, VirtualLoop, document, rate, worst_window


def play(story: Callable[[Clock], Coroutine[Any, Any, None]]) -> None:
    """Run *story* on a virtual clock that the loop and its limiters share."""
    clock = Clock()
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        runner.run(story(clock))


async def decided(decision: Grant | Rejection | Awaitable[Grant | Rejection]) -> Grant | Rejection:
    return decision if isinstance(decision, Grant | Rejection) else await decision


def ask(limiter: Limiter, model: str = "m", tokens: int = 0) -> "asyncio.Task[Grant | Rejection]":
    """Ask now, wait in a task."""
    return asyncio.ensure_future(decided(limiter.admit(model, tokens)))


def test_those_who_came_first_are_served_first() -> None:
    async def story(clock: Clock) -> None:
        limiter = Limiter(document({"rps": 2}, queue_s=30), clock=clock)
        served: list[int] = []

        async def one(number: int) -> None:
            assert isinstance(await decided(limiter.admit("m", 0)), Grant)
            served.append(number)

        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(one(number))

        assert served == list(range(20))

    play(story)


def test_a_small_request_waits_behind_a_big_one() -> None:
    async def story(clock: Clock) -> None:
        limiter = Limiter(document({"tpm": 100}, queue_s=200), clock=clock)
        assert isinstance(limiter.admit("m", 60), Grant)

        big, small = ask(limiter, tokens=90), ask(limiter, tokens=5)
        await asyncio.sleep(50)

        assert not small.done()
        assert isinstance(await big, Grant)
        assert isinstance(await small, Grant)

    play(story)


def test_one_model_at_its_limit_does_not_hold_up_another() -> None:
    async def story(clock: Clock) -> None:
        limiter = Limiter(document({"rpm": 100}, {"a": {"rpm": 1}, "b": {}}, queue_s=200), clock=clock)
        limiter.admit("a", 0)
        waiting = ask(limiter, "a")
        await asyncio.sleep(1)

        other = limiter.admit("b", 0)

        assert isinstance(other, Grant)
        assert not waiting.done()
        assert isinstance(await waiting, Grant)

    play(story)


def test_nobody_passes_one_who_waits_for_the_proxys_limit() -> None:
    async def story(clock: Clock) -> None:
        limiter = Limiter(document({"tpm": 100}, {"a": {}, "b": {}}, queue_s=200), clock=clock)
        limiter.admit("a", 50)
        first = ask(limiter, "a", 80)
        await asyncio.sleep(1)

        second = ask(limiter, "b", 10)
        await asyncio.sleep(1)

        assert not second.done()
        assert isinstance(await first, Grant)
        assert isinstance(await second, Grant)

    play(story)


def test_a_call_that_falls_back_came_before_those_who_wait_for_the_proxys_requests() -> None:
    async def scene(clock: Clock) -> None:
        limiter = Limiter(document({"rpm": 1}, {"a": {}, "b": {}}, queue_s=30), clock=clock)
        assert isinstance(limiter.admit("a", 0), Grant)
        waiting = [ask(limiter, model) for model in ("a", "b")]
        await asyncio.sleep(0.01)
        assert limiter.waiting == 2

        assert isinstance(limiter.admit("b", 0, queue=False, is_fallback=True), Grant)

        for task in waiting:
            task.cancel()

    play(scene)


def test_one_whose_turn_does_not_come_is_refused_when_the_time_is_up() -> None:
    async def story(clock: Clock) -> None:
        limiter = Limiter(document({"rpm": 1}, queue_s=5), clock=clock)
        limiter.admit("m", 0)
        asked_at = clock.now

        denied = await decided(limiter.admit("m", 0))

        assert isinstance(denied, Rejection)
        assert clock.now - asked_at == pytest.approx(5)
        assert "its turn did not come in time" in denied.message
        assert 55 < denied.retry_after_s < 57
        assert limiter.waiting == 0

    play(story)


def test_one_who_leaves_frees_the_place() -> None:
    async def story(clock: Clock) -> None:
        limiter = Limiter(document({"rps": 1}, queue_s=30), clock=clock)
        limiter.admit("m", 0)
        leaving, staying = ask(limiter), ask(limiter)
        await asyncio.sleep(0.5)
        began = clock.now

        leaving.cancel()

        assert isinstance(await staying, Grant)
        assert clock.now - began < 0.6, "it took the place of the one that left"
        assert limiter.waiting == 0

    play(story)


def test_one_who_leaves_in_the_moment_of_being_admitted_gives_everything_back() -> None:
    async def story(clock: Clock) -> None:
        limiter = Limiter(document({"rpm": 5, "max_parallel": 1}, queue_s=30), clock=clock)
        first = limiter.admit("m", 0)
        assert isinstance(first, Grant)
        task = ask(limiter)
        await asyncio.sleep(0)
        first.release()
        asyncio.get_running_loop().call_soon(task.cancel)  # runs after the line has looked, before the task has

        with pytest.raises(asyncio.CancelledError):
            await task

        assert {use.kind: use.used for use in limiter.usage()} == {"rpm": 1, "maxParallel": 0}
        assert limiter.decisions.refunded == 1

    play(story)


def test_a_release_wakes_the_next_at_once() -> None:
    async def story(clock: Clock) -> None:
        limiter = Limiter(document({"max_parallel": 1}, queue_s=30), clock=clock)
        first = limiter.admit("m", 0)
        assert isinstance(first, Grant)
        waiting = ask(limiter)
        await asyncio.sleep(0.25)
        now = clock.now

        first.release()

        assert isinstance(await waiting, Grant)
        assert clock.now == now

    play(story)


def test_a_settlement_wakes_who_waits_for_tokens() -> None:
    async def story(clock: Clock) -> None:
        limiter = Limiter(document({"tpm": 100}, queue_s=30), clock=clock)
        first = limiter.admit("m", 100)
        assert isinstance(first, Grant)
        waiting = ask(limiter, tokens=50)
        await asyncio.sleep(1)
        now = clock.now

        first.settle(50)

        assert isinstance(await waiting, Grant)
        assert clock.now == now

    play(story)


def test_the_line_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(clock: Clock) -> None:
        monkeypatch.setattr("llmproxy.gateway.limits.local.queue.MAX_WAITING", 3)
        limiter = Limiter(document({"rpm": 1}, queue_s=30), clock=clock)
        limiter.admit("m", 0)
        waiting = [ask(limiter) for _ in range(3)]
        await asyncio.sleep(0)

        denied = limiter.admit("m", 0)

        assert isinstance(denied, Rejection)
        assert "too many requests wait already" in denied.message
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert limiter.waiting == 0

    play(story)


def test_a_long_line_is_looked_at_once_however_often_it_is_poked() -> None:
    async def story(clock: Clock) -> None:
        reads = 0

        def counted() -> float:
            nonlocal reads
            reads += 1
            return clock()

        limiter = Limiter(document({"max_parallel": 50}, queue_s=300), clock=counted)
        grants = [limiter.admit("m", 0) for _ in range(50)]
        waiting = [ask(limiter) for _ in range(500)]
        await asyncio.sleep(0.1)
        reads = 0
        for grant in grants:
            assert isinstance(grant, Grant)
            grant.release()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

        assert reads == 52  # a read for each that is admitted, and two for the one that is not
        assert sum(task.done() for task in waiting) == 50
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)

    play(story)


@settings(max_examples=60, deadline=None)
@given(
    proxy=st.fixed_dictionaries(
        {"rps": st.integers(1, 5)}, optional={"tpm": st.integers(20, 400), "max_parallel": st.integers(1, 4)}
    ),
    a=st.fixed_dictionaries({}, optional={"rpm": st.integers(1, 30), "tpm": st.integers(10, 100)}),
    calls=st.lists(
        st.tuples(
            st.floats(0, 3), st.sampled_from("ab"), st.integers(0, 120), st.floats(0, 2), st.floats(0, 1), st.booleans()
        ),
        min_size=1,
        max_size=60,
    ),
)
@example(
    proxy={"rps": 4},
    a={"rpm": 1},
    calls=[
        (delay, model, 0, 0.0, 0.0, leaves)
        for delay, model, leaves in (
            *((0.0, "a", False), (0.0, "b", False), (3.0, "b", False), (0.0, "a", False), (1.0, "b", False)),
            *((0.0, "a", False), (1.0, "a", False), (1.0, "a", True), (2.0, "b", False), (3.0, "a", False)),
            *((0.0, "a", True), (0.0, "b", False)),
        )
    ],
)
def test_with_waiting_and_leaving_no_window_holds_more_and_each_model_keeps_its_order(
    proxy: dict[str, int], a: dict[str, int], calls: list[tuple[float, str, int, float, float, bool]]
) -> None:
    async def story(clock: Clock) -> None:
        limiter = Limiter(document(proxy, {"a": a, "b": {}}, queue_s=40), clock=clock)
        served: list[tuple[str, int]] = []
        admitted: list[tuple[float, int]] = []
        charged: list[tuple[float, int]] = []
        running = worst = 0

        async def one(number: int, call: tuple[float, str, int, float, float, bool]) -> None:
            nonlocal running, worst
            _, model, tokens, lasts, share, _ = call
            decision = await decided(limiter.admit(model, tokens))
            if isinstance(decision, Rejection):
                return
            at = clock.now
            served.append((model, number))
            running += 1
            worst = max(worst, running)
            used = int(share * tokens)
            try:
                await asyncio.sleep(lasts)
            finally:
                running -= 1
                decision.settle(used)
                decision.release()
                admitted.append((at, 1))
                charged.append((at, min(used, proxy.get("tpm", used))))  # no more was charged at admission

        tasks = []
        for number, call in enumerate(calls):
            await asyncio.sleep(call[0] * 0.1)
            for _ in range(4):  # whoever has been admitted by now writes that down before the next one comes
                await asyncio.sleep(0)
            tasks.append(asyncio.create_task(one(number, call)))
            await asyncio.sleep(0)
            if call[5] and number:
                tasks[number // 2].cancel()
        await asyncio.wait(tasks)

        assert worst_window(admitted, 1.0) <= proxy["rps"]
        assert worst <= proxy.get("max_parallel", worst)
        if "tpm" in proxy:
            assert worst_window(charged, 60.0) <= proxy["tpm"]
        for model in "ab":
            order = [number for name, number in served if name == model]
            assert order == sorted(order)
        assert limiter.waiting == 0
        assert all(use.used == 0 for use in limiter.usage() if use.kind == "maxParallel")

    play(story)


@pytest.mark.parametrize("limit", [1, 2, 3, 10, 47])
def test_a_line_that_never_empties_uses_nearly_the_whole_limit(limit: int) -> None:
    async def story(clock: Clock) -> None:
        limiter = Limiter(document({"rps": limit}, queue_s=3600), clock=clock)
        admitted: list[tuple[float, int]] = []

        async def client() -> None:
            while True:
                assert isinstance(await decided(limiter.admit("m", 0)), Grant)
                admitted.append((clock.now, 1))

        start = clock.now
        clients = [asyncio.create_task(client()) for _ in range(limit + 3)]
        await asyncio.sleep(45)
        for task in clients:
            task.cancel()
        await asyncio.wait(clients)

        assert worst_window(admitted, 1.0) <= limit
        assert rate(admitted, start + 1, start + 1 + 40 * 130 / 128) / limit >= 0.98

    play(story)


def test_the_bound_of_the_line_is_a_number_that_memory_can_hold() -> None:
    assert kinds.MAX_WAITING <= 100_000
