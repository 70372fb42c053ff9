"""Limits shared by four pods, on a virtual clock: real limiters and the real script, in a real Redis.

Every bound is a formula of the limit L and of the number of pods N; it is printed and asserted for every window.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from math import ceil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmproxy.gateway.limits import Grant, Rejection
from llmproxy.gateway.limits.local.window import BUCKETS
from llmproxy.gateway.limits.store.client import ANSWER_S
from llmproxy.gateway.limits.store.leases import USED_LATER
from llmproxy.gateway.limits.store.offline import offline_quota, unconnected_quota
from redisd import Server, redis_server
from storesim import Pods, Store, virtual_loop
from windows import SECONDS, Clock, document, rate, worst_window

N = 4
LEAVES = 260 / 256
"""After so many windows a place is free again."""
USABLE = 0.98
WAIT_S = 0.025
"""No request waits longer for the store."""
Simulation = Callable[[Callable[[Store, Clock], Awaitable[None]]], None]


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    with redis_server() as server:
        yield server


@pytest.fixture
def simulate(redis: Server) -> Simulation:
    def run(scene: Callable[[Store, Clock], Awaitable[None]]) -> None:
        clock = Clock()
        client = redis.client()
        try:
            with virtual_loop(clock) as runner:
                runner.run(scene(Store(client, clock), clock))  # type: ignore[arg-type]  # scenes are coroutines
        finally:
            client.close()

    return run


@asynccontextmanager
async def four(store: Store, clock: Clock, limits: dict[str, int], queue_s: float | None = None) -> AsyncIterator[Pods]:
    """Four pods that have joined."""
    pods = Pods(store, clock)
    for _ in range(N):
        await pods.add(document(limits, queue_s=queue_s))
    await pods.joined()
    try:
        yield pods
    finally:
        await pods.close()


async def press(pods: Pods, number: int, until: float, *, every_s: float, tokens: int = 0, batch: int = 10**9) -> None:
    """Ask without end, as much as is admitted at a time and at most *batch*; after a denial, again in *every_s*."""
    while pods.clock.now < until:
        for _ in range(batch):
            if isinstance(await pods.ask(number, tokens), Rejection):
                break
        await asyncio.sleep(every_s * random.uniform(0.5, 1.5))


async def press_all(pods: Pods, seconds: float, *, every_s: float, tokens: int = 0, batch: int = 10**9) -> None:
    until = pods.clock.now + seconds
    await asyncio.gather(*(press(pods, i, until, every_s=every_s, tokens=tokens, batch=batch) for i in range(N)))


def check(pods: Pods, kind: str, bound: int, formula: str, *, begin: float = 0.0) -> None:
    window_s = SECONDS[kind]
    worst = worst_window([entry for entry in pods.admitted if entry[0] >= begin], window_s)
    print(f"{kind}: worst window {worst} <= {bound}   [{formula}]")
    assert worst <= bound


def switch_s(kind: str) -> float:
    """How long after the store has gone the last pod goes by its share: it has used its lease, and asked in vain."""
    return USED_LATER * SECONDS[kind] / BUCKETS + ANSWER_S + 0.003


def usable(admitted: Sequence[tuple[float, int]], limit: int, window_s: float) -> float:
    """Return the part of the limit that was used after the first window: from the start of the second L to the last."""
    starts: list[float] = []
    total = 0
    for at, amount in sorted(admitted):
        if total >= len(starts) * limit:
            starts.append(at)
        total += amount
    return (len(starts) - 2) * window_s / (starts[-1] - starts[1])


LONG = pytest.mark.long
SIZES = [
    ("rps", 1, 0), ("rps", 2, 0), ("rps", 3, 0), ("rps", 10, 0), ("rps", 99, 0), ("rps", 100, 0), ("rps", 1000, 0),
    pytest.param("rps", 30_000, 0, marks=LONG), ("rpm", 1, 0), ("rpm", 7, 0), ("rpm", 100, 0),
    pytest.param("rpm", 10_000, 0, marks=LONG), ("tpm", 1, 1), ("tpm", 50, 10), ("tpm", 1000, 1),
    ("rp10s", 1, 0), ("rp10s", 300, 0), ("tp10s", 2000, 7),
    ("tpm", 100_000, 25), pytest.param("tpm", 1_000_000, 100, marks=LONG),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "limit", "tokens"), SIZES)
def test_four_pods_together_admit_the_limit_and_use_it(
    simulate: Simulation, kind: str, limit: int, tokens: int
) -> None:
    async def scene(store: Store, clock: Clock) -> None:
        window_s = SECONDS[kind]
        async with four(store, clock, {kind: limit}) as pods:
            await press_all(pods, 3.2 * window_s * LEAVES, every_s=window_s / 1000, tokens=tokens)
            check(pods, kind, limit, "L")
            used = usable(pods.admitted, limit, window_s)
            print(f"used {used:.4f} >= {USABLE}; {sum(s.stats.calls for s in pods.shared)} calls, "
                  f"{len(pods.waits)} asked, longest wait {max(pods.waits) * 1000:.1f} ms")  # fmt: skip
            assert used >= USABLE
            assert sum(s.stats.disconnects for s in pods.shared) == 0

    simulate(scene)


@pytest.mark.parametrize(
    ("kind", "limit"),
    [("rps", 1), ("rps", 6), ("rps", 400), ("rpm", 5), ("rp10s", 150), pytest.param("rpm", 1200, marks=LONG)],
)
@pytest.mark.parametrize("fault", ["killed", "hangs", "slow"])
def test_without_the_store_pods_go_on_with_their_shares_and_join_again(
    simulate: Simulation, kind: str, limit: int, fault: str
) -> None:
    async def scene(store: Store, clock: Clock) -> None:
        window_s = SECONDS[kind]
        async with four(store, clock, {kind: limit}) as pods:
            await press_all(pods, 1.5 * window_s, every_s=window_s / 300, batch=max(1, limit // 40))
            break_store(store, fault)
            cut = clock.now
            await press_all(pods, 3 * window_s, every_s=window_s / 300, batch=max(1, limit // 40))
            assert [limiter.mode for limiter in pods.limiters] == ["offline_quota"] * N
            check(pods, kind, 2 * limit - limit // N, "2 L - floor(L / N), over the switch")
            check(pods, kind, limit, "L, from the switch on", begin=cut + switch_s(kind))
            shares = [rate(mine, cut + window_s * LEAVES, cut + 3 * window_s) for mine in pods.by_pod]
            print("admitted by each:", [f"{share * window_s:.1f}" for share in shares], "of", limit)

            back = clock.now
            mend_store(store, fault, empty=False)
            await press_all(pods, 3 * window_s + 9, every_s=window_s / 300, batch=max(1, limit // 40))
            assert all(shared.online for shared in pods.shared)
            check(pods, kind, limit, "L, from the switch on, the join included", begin=cut + switch_s(kind))
            assert rate(pods.admitted, back + 8, clock.now) * window_s >= 0.9 * limit * min(1, 1 / window_s + 0.9)
            print(f"longest wait {max(pods.waits) * 1000:.1f} ms <= {WAIT_S * 1000:.0f} ms")
            assert max(pods.waits) <= WAIT_S

    simulate(scene)


@pytest.mark.parametrize(
    ("kind", "limit"), [("rps", 1), ("rps", 40), ("rpm", 7), ("rp10s", 40), pytest.param("rpm", 600, marks=LONG)]
)
def test_a_store_that_begins_anew_admits_nothing_before_it_can_know(
    simulate: Simulation, kind: str, limit: int
) -> None:
    async def scene(store: Store, clock: Clock) -> None:
        window_s = SECONDS[kind]
        async with four(store, clock, {kind: limit}) as pods:
            await press_all(pods, 1.5 * window_s, every_s=window_s / 300, batch=max(1, limit // 40))
            store.die()
            cut = clock.now
            await press_all(pods, 0.2, every_s=window_s / 300, batch=max(1, limit // 40))
            store.come_back_empty()
            begun = clock.now
            await press_all(pods, 0.9 * window_s, every_s=window_s / 300, batch=max(1, limit // 40))
            assert not any(shared.online for shared in pods.shared), "younger than a window"
            await press_all(pods, 3 * window_s + 1, every_s=window_s / 300, batch=max(1, limit // 40))
            assert all(shared.online for shared in pods.shared)
            check(pods, kind, 2 * limit - limit // N, "2 L - floor(L / N), over the switch")
            check(pods, kind, limit, "L, from the switch on, the join included", begin=cut + switch_s(kind))
            assert clock.now > begun + window_s

    simulate(scene)


def test_pods_that_never_met_the_store_admit_so_little_that_all_of_them_keep_the_limit(simulate: Simulation) -> None:
    async def scene(store: Store, clock: Clock) -> None:
        store.hangs = True
        pods = Pods(store, clock)
        for _ in range(N):
            await pods.add(document({"rps": 10}), max_pods=5)
        await press_all(pods, 3, every_s=0.003)
        check(pods, "rps", 10 // 5 * N, "L // (maxReplicas + surge) for each pod")
        assert max(pods.waits) == 0
        denied = await pods.ask(0)
        assert isinstance(denied, Rejection)
        assert "store of shared limits is away" in denied.message
        store.go_on()
        await pods.joined()
        await pods.close()

    simulate(scene)


def test_a_share_can_be_nothing_and_the_denial_says_why(simulate: Simulation) -> None:
    async def scene(store: Store, clock: Clock) -> None:
        async with four(store, clock, {"rpm": 2}) as pods:
            store.die()
            decisions = [await pods.ask(i) for i in range(N)]
            denials = [d for d in decisions if isinstance(d, Rejection)]
            assert len(denials) == N - 2
            assert all("this pod admits only its quota" in d.message for d in denials)

    simulate(scene)


def test_calls_at_one_time_are_counted_over_all_pods_and_a_dead_pods_are_free_later(simulate: Simulation) -> None:
    async def scene(store: Store, clock: Clock) -> None:
        async with four(store, clock, {"max_parallel": 5}) as pods:
            grants = [g for i in range(N) for _ in range(3) if isinstance(g := await pods.ask(i), Grant)]
            assert len(grants) == 5

            for grant in grants[3:]:
                grant.release()
            await asyncio.sleep(0.05)
            more = [g for i in reversed(range(N)) for _ in range(2) if isinstance(g := await pods.ask(i), Grant)]
            assert len(more) == 2

            grants[0]._limiter.shared.client._ending = True  # type: ignore[union-attr]  # pod 0 is gone: 3 calls
            store.channels[0].lose("gone")
            await asyncio.sleep(1.0)
            assert isinstance(await pods.ask(3), Rejection), "it may still be working"
            await asyncio.sleep(6.0)
            assert [isinstance(await pods.ask(i), Grant) for i in (1, 2, 3, 1)] == [True, True, True, False]

    simulate(scene)


def test_with_queue_requests_wait_for_their_turn_at_the_store_and_nobody_is_lost(simulate: Simulation) -> None:
    async def scene(store: Store, clock: Clock) -> None:
        async with four(store, clock, {"rps": 10, "max_parallel": 6}, queue_s=30) as pods:
            start = clock.now

            async def call(number: int) -> None:
                grant = await pods.ask(number)
                assert isinstance(grant, Grant)
                await asyncio.sleep(0.2)
                grant.release()

            await asyncio.gather(*(call(i % N) for i in range(100)))
            check(pods, "rps", 10, "L")
            took = clock.now - start
            print(f"100 requests at 10/s took {took:.2f} s")
            assert took <= 100 / 10 * LEAVES * 1.1 + 0.5

    simulate(scene)


def test_those_who_wait_for_the_store_are_decided_here_when_it_dies_and_there_when_it_is_back(
    simulate: Simulation,
) -> None:
    async def scene(store: Store, clock: Clock) -> None:
        async with four(store, clock, {"rps": 8}, queue_s=30) as pods:
            waiting = [asyncio.ensure_future(pods.ask(i % N)) for i in range(80)]
            await asyncio.sleep(0.5)
            store.die()
            await asyncio.sleep(2)
            assert all(limiter.mode == "offline_quota" for limiter in pods.limiters)
            assert sum(limiter.waiting for limiter in pods.limiters) > 0
            for channel in store.channels:
                channel.connect()
            await pods.joined()
            assert sum(limiter.waiting for limiter in pods.limiters) > 0
            assert all(isinstance(d, Grant) for d in await asyncio.gather(*waiting))
            assert all(limiter.waiting == 0 for limiter in pods.limiters)

    simulate(scene)


def test_a_caller_that_leaves_gives_its_place_back(simulate: Simulation) -> None:
    async def scene(store: Store, clock: Clock) -> None:
        async with four(store, clock, {"rpm": 50, "max_parallel": 50}, queue_s=30) as pods:
            tasks = [asyncio.ensure_future(pods.ask(i % N)) for i in range(40)]
            for number, task in enumerate(tasks):
                asyncio.get_running_loop().call_later(number * 0.00005, task.cancel)
            done, _ = await asyncio.wait(tasks)
            kept = [task.result() for task in done if not task.cancelled()]
            await asyncio.sleep(2.0)
            left = 0
            while isinstance(await asyncio.wait_for(pods.ask(left % N), 0.5) if left + len(kept) < 50 else None, Grant):
                left += 1
            assert left + len(kept) == 50
            assert all(limiter.waiting == 0 for limiter in pods.limiters)

    simulate(scene)


def test_tokens_that_were_not_used_are_free_for_every_pod(simulate: Simulation) -> None:
    async def scene(store: Store, clock: Clock) -> None:
        async with four(store, clock, {"tpm": 1000}) as pods:
            grant = await pods.ask(0, 900)
            assert isinstance(grant, Grant)
            assert isinstance(await pods.ask(1, 200), Rejection)

            grant.settle(100)
            await asyncio.sleep(0.1)

            assert isinstance(await pods.ask(1, 900), Grant)
            assert isinstance(await pods.ask(2, 1), Rejection)
            over = await pods.ask(3, 0)
            assert isinstance(over, Grant)
            over.settle(50)
            await asyncio.sleep(60 * LEAVES)
            assert isinstance(await pods.ask(2, 1000), Grant)

    simulate(scene)


def test_a_request_fits_all_limits_or_is_charged_to_none(simulate: Simulation) -> None:
    async def scene(store: Store, clock: Clock) -> None:
        pods = Pods(store, clock)
        for _ in range(2):
            await pods.add(document({"rpm": 3, "tpm": 100}, {"a": {"rpm": 1}, "b": {"max_parallel": 1}}))
        await pods.joined()
        assert isinstance(await pods.ask(0, 10, "a"), Grant)
        denied = await pods.ask(1, 10, "a")
        assert isinstance(denied, Rejection)
        assert (denied.kind, denied.scope) == ("rpm", "model")
        assert 55 < denied.retry_after_s < 62
        assert isinstance(await pods.ask(1, 10, "b"), Grant)
        denied = await pods.ask(0, 10, "b")
        assert isinstance(denied, Rejection)
        assert denied.kind == "maxParallel"
        denied = await pods.ask(0, 90, "c")
        assert isinstance(denied, Rejection)
        assert (denied.kind, denied.scope) == ("tpm", "proxy")
        assert isinstance(await pods.ask(0, 10, "c"), Grant)
        denied = await pods.ask(1, 10, "c")
        assert isinstance(denied, Rejection)
        assert (denied.kind, denied.scope) == ("rpm", "proxy")
        await pods.close()

    simulate(scene)


def test_a_call_that_falls_back_counts_once_for_the_proxy_in_the_store_too(simulate: Simulation) -> None:
    async def scene(store: Store, clock: Clock) -> None:
        pods = Pods(store, clock)
        for _ in range(2):
            await pods.add(document({"rpm": 1, "tpm": 100}, {"a": {}, "b": {"rpm": 1}}, queue_s=5))
        await pods.joined()
        assert isinstance(await pods.ask(0, 10, "a"), Grant)
        waiting = asyncio.ensure_future(pods.ask(0, 10, "a"))
        await asyncio.sleep(0.02)

        for number, expected in ((0, Grant), (1, Rejection)):
            decision = pods.limiters[number].admit("b", 10, queue=False, is_fallback=True)
            decision = decision if isinstance(decision, Grant | Rejection) else await decision
            assert isinstance(decision, expected), "the model's own limit holds"
        assert isinstance(await waiting, Rejection)
        await pods.close()

    simulate(scene)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    limit=st.integers(1, 400),
    stalls=st.lists(st.tuples(st.floats(0.0, 0.08), st.floats(0.003, 0.12)), min_size=5, max_size=40),
    delay=st.sampled_from([0.0005, 0.002, 0.004]),
)
def test_a_late_event_loop_is_no_absent_store(
    simulate: Simulation, limit: int, stalls: list[tuple[float, float]], delay: float
) -> None:
    """Pods that stand still at any moment, for up to six times as long as a request waits for the store."""

    async def scene(store: Store, clock: Clock) -> None:
        async def stand_still() -> None:
            for gap, stall in stalls:
                await asyncio.sleep(gap)
                clock.now += stall

        async with four(store, clock, {"rps": limit}) as pods:
            store.delay_s = lambda: delay
            standing = asyncio.ensure_future(stand_still())
            while not standing.done():
                await press_all(pods, 0.1, every_s=0.004, batch=max(1, limit // 20))
            await standing
            check(pods, "rps", limit, "L")
            assert sum(shared.stats.failures["timeout"] for shared in pods.shared) == 0
            assert all(shared.online for shared in pods.shared)

    simulate(scene)


def test_a_call_that_its_pod_sent_too_late_is_asked_again(simulate: Simulation) -> None:
    async def scene(store: Store, clock: Clock) -> None:
        async with four(store, clock, {"rps": 10, "tpm": 1000}) as pods:
            grant = await pods.ask(0, 900)
            assert isinstance(grant, Grant)
            take, sent = store.take, 0

            def late(keys: list[str], payload: bytes) -> bytes:
                nonlocal sent
                sent += 1
                if sent == 1:  # the process stands still between the call and its way out
                    clock.now += 0.15
                return take(keys, payload)

            store.take = late  # type: ignore[method-assign]
            grant.settle(100)
            assert isinstance(await pods.ask(0, 100), Grant)
            await asyncio.sleep(0.1)

            assert sent > 1
            assert sum(shared.stats.disconnects for shared in pods.shared) == 0
            assert isinstance(await pods.ask(1, 800), Grant), "the refund was reported after all"

    simulate(scene)


def test_a_pod_says_how_much_of_a_limit_is_left_for_all(simulate: Simulation) -> None:
    async def scene(store: Store, clock: Clock) -> None:
        async with four(store, clock, {"rpm": 20}) as pods:
            for number in (0, 0, 1, 2):
                await pods.ask(number)
            assert dict(pods.limiters[2].headers("m"))[b"x-ratelimit-remaining-requests"] == b"16"
            assert next(use.used for use in pods.limiters[2].usage()) == 4

    simulate(scene)


def test_a_host_clock_that_goes_back_frees_nothing_and_stops_nothing(simulate: Simulation) -> None:
    async def scene(store: Store, clock: Clock) -> None:
        async with four(store, clock, {"rps": 10}) as pods:
            await press_all(pods, 1.3, every_s=0.003)
            store.offset_s -= 3600
            start = clock.now
            await press_all(pods, 3, every_s=0.003)
            check(pods, "rps", 10, "L")
            assert rate(pods.admitted, start + 1, start + 3) >= 9

    simulate(scene)


delays = st.sampled_from([0.0002, 0.001, 0.003, 0.006, 0.015])
scenes = st.lists(
    st.tuples(
        st.floats(0.0, 0.6), st.integers(0, N - 1), st.integers(1, 12), st.integers(0, 60), delays, st.booleans()
    ),
    max_size=60,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(limit=st.integers(1, 40), kind=st.sampled_from(["rps", "tpm", "tp10s"]), steps=scenes)
def test_no_window_over_all_pods_holds_more_than_the_limit(
    simulate: Simulation, limit: int, kind: str, steps: list[tuple[float, int, int, int, float, bool]]
) -> None:
    """Bursts at any moment, tokens of any size, answers of any speed that is no outage, calls given back or not."""

    async def scene(store: Store, clock: Clock) -> None:
        charged: list[tuple[float, int]] = []
        async with four(store, clock, {kind: limit}) as pods:
            for gap, number, burst, tokens, delay, refund in steps:
                await asyncio.sleep(gap * SECONDS[kind])
                store.delay_s = lambda delay=delay: delay  # type: ignore[misc]
                for decision in await asyncio.gather(*(pods.ask(number, tokens) for _ in range(burst))):
                    if isinstance(decision, Grant):
                        if refund:
                            decision.refund()
                        else:
                            charged.append((clock.now, 1 if kind == "rps" else min(tokens, limit)))
                        decision.release()
            apart = sum(shared.stats.disconnects for shared in pods.shared)
            bound = limit if not apart else 2 * limit - limit // N
            assert worst_window(charged, SECONDS[kind]) <= bound
            assert max(pods.waits, default=0) <= ANSWER_S + 0.001

    simulate(scene)


spells = st.lists(
    st.tuples(
        st.floats(0.05, 1.2),
        st.lists(st.floats(0.0, 1.2), min_size=N, max_size=N),
        st.sampled_from([0.0002, 0.001, 0.004]),
    ),
    min_size=2,
    max_size=6,
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(limit=st.integers(100, 400), steps=spells)
def test_what_is_leased_ahead_of_need_is_within_the_limit_too(
    simulate: Simulation, limit: int, steps: list[tuple[float, list[float], float]]
) -> None:
    """Every pod at its own pace, from nothing to more than there is: leases are long in calm, short near the limit."""

    async def come(pods: Pods, number: int, pace: float, until: float) -> None:
        if pace * limit < 1:
            return
        while pods.clock.now < until:
            await pods.ask(number)
            await asyncio.sleep(random.uniform(0.5, 1.5) / (pace * limit))

    async def scene(store: Store, clock: Clock) -> None:
        async with four(store, clock, {"rps": limit}) as pods:
            await asyncio.sleep(2.5)
            for seconds, paces, delay in steps:
                store.delay_s = lambda delay=delay: delay  # type: ignore[misc]
                until = clock.now + seconds
                await asyncio.gather(*(come(pods, i, pace, until) for i, pace in enumerate(paces)))
            if any(shared.stats.disconnects for shared in pods.shared):  # two answers took longer than a request waits
                check(pods, "rps", 2 * limit - limit // N, "2 L - floor(L / N), over a switch")
            else:
                check(pods, "rps", limit, "L")

    simulate(scene)


class Calls:
    """Calls that take their time, and how many there were at once."""

    def __init__(self, pods: Pods, limit: int) -> None:
        self.running = 0
        self.worst = {"L": 0, "2 L - floor(L / N), over a switch": 0}
        self._pods = pods
        self._limit = limit
        self._cuts = 0
        self._clean = True
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, number: int, calls: int, lasts_s: float) -> None:
        for _ in range(calls):
            task = asyncio.ensure_future(self._call(number, lasts_s))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        await asyncio.gather(*self._tasks)

    async def _call(self, number: int, lasts_s: float) -> None:
        decision = await self._pods.ask(number)
        if not isinstance(decision, Grant):
            return
        self.running += 1
        self._see()
        await asyncio.sleep(lasts_s * random.uniform(0.1, 1.0))
        self.running -= 1
        decision.release()
        self._see()

    def _see(self) -> None:
        cuts = sum(shared.stats.disconnects for shared in self._pods.shared)
        if cuts != self._cuts:
            self._cuts, self._clean = cuts, False
        elif self.running <= self._limit and all(shared.online for shared in self._pods.shared):
            self._clean = True
        bounds = (self._limit, 2 * self._limit - self._limit // N)
        formula, bound = next(zip(self.worst, bounds, strict=True)) if self._clean else (list(self.worst)[1], bounds[1])
        self.worst[formula] = max(self.worst[formula], self.running)
        assert self.running <= bound, f"{self.running} <= {bound}   [{formula}]"


faults = st.lists(
    st.tuples(
        st.floats(0.0, 2.0),
        st.lists(st.tuples(st.integers(0, N - 1), st.integers(1, 15)), max_size=4),
        st.floats(0.01, 9.0),
        st.sampled_from(["", "", "", "killed", "hangs", "slow", "well", "well"]),
    ),
    min_size=4,
    max_size=40,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(limit=st.one_of(st.integers(1, 20), st.integers(100, 120)), steps=faults, seed=st.randoms(use_true_random=False))
def test_calls_at_one_time_are_within_their_bound_over_every_failure_of_the_store(
    simulate: Simulation, limit: int, steps: list[tuple[float, list[tuple[int, int]], float, str]], seed: random.Random
) -> None:
    """Calls of any length at any pod, while the store dies, hangs, gets slow and comes back, with its data or empty."""

    async def scene(store: Store, clock: Clock) -> None:
        fault = ""
        async with four(store, clock, {"max_parallel": limit}) as pods:
            calls = Calls(pods, limit)
            for gap, bursts, lasts_s, what in steps:
                for number, many in bursts:
                    calls.begin(number, many if limit < 100 else 8 * many, lasts_s)
                await asyncio.sleep(gap)
                if what and not fault and what != "well":
                    fault = what
                    break_store(store, what)
                elif what == "well" and fault:
                    mend_store(store, fault, empty=seed.random() < 0.5)
                    fault = ""
            await calls.end()
            print(limit, calls.worst)

    simulate(scene)


def break_store(store: Store, how: str) -> None:
    if how == "killed":
        store.die()
    elif how == "hangs":
        store.hangs = True
    else:
        store.delay_s = lambda: 0.04


def mend_store(store: Store, how: str, *, empty: bool) -> None:
    store.delay_s = lambda: 0.0005
    if how == "hangs":
        store.go_on()
    elif how == "killed" and empty:
        store.come_back_empty()
    elif how == "killed":
        for channel in store.channels:
            channel.connect()


def test_the_sum_of_all_shares_is_the_limit() -> None:
    for limit in (0, 1, 2, 3, 10, 101, 10**6):
        for pods in range(1, 9):
            members = [f"pod{i}" for i in range(pods)]
            shares = [offline_quota(limit, pod, members, f"m/{limit}") for pod in members]
            assert sum(shares) == limit
            assert max(shares) - min(shares) <= 1
            assert max(shares) == ceil(limit / pods)
            assert unconnected_quota(limit, pods) * pods <= limit
