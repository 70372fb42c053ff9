"""Pods that share limits in one process, on a clock that tests move: real limiters, the real script in a real Redis.

Only time and the way between are made: TIME is the test's clock, answers take as long as a test says, or never come.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llmproxy import contract
from llmproxy.gateway.limits import Grant, Limiter, Rejection
from llmproxy.gateway.limits.store.lease_limiter import LeaseLimiter
from llmproxy.gateway.limits.store.protocol import SCRIPT, StoreListener
from redisd import Client
from windows import KINDS, Clock, VirtualLoop

# The keys live by the host's clock, which a simulated minute does not wait for.
TIMELESS = SCRIPT.replace("redis.call('TIME')", "{ARGV[2], ARGV[3]}").replace("'PEXPIRE'", "'EXISTS'")


class Store:
    """What all pods of a simulation ask."""

    def __init__(self, redis: Client, clock: Clock) -> None:
        self.redis = redis
        self.clock = clock
        self.run = "run1"
        self.delay_s: Callable[[], float] = lambda: 0.0005
        """Of one way."""
        self.hangs = False
        self.offset_s = 1.7e9
        """Its clock is another one."""
        self.held: list[Callable[[], None]] = []
        self.channels: list[Sim] = []
        self.sha = redis("SCRIPT", "LOAD", TIMELESS)
        redis("FLUSHDB")

    def take(self, keys: list[str], payload: bytes) -> bytes:
        now_us = round((self.clock.now + self.offset_s) * 1e6)
        times = (str(now_us // 1_000_000), str(now_us % 1_000_000))
        answer = self.redis("EVALSHA", self.sha, str(len(keys)), *keys, payload, *times)
        assert isinstance(answer, bytes)
        return answer

    def die(self) -> None:
        """Every connection breaks."""
        for channel in self.channels:
            channel.lose("killed")

    def come_back_empty(self) -> None:
        self.redis("FLUSHDB")
        self.run += "x"
        for channel in self.channels:
            channel.connect()

    def go_on(self) -> None:
        """What was asked while it hung is answered now."""
        self.hangs = False
        held, self.held = self.held, []
        for ask in held:
            ask()


class Sim:
    """A `store.Channel`."""

    def __init__(self, store: Store) -> None:
        self.run = ""
        self._store = store
        self._listener: StoreListener
        self._generation = 0
        store.channels.append(self)

    def start(self, listener: StoreListener) -> None:
        self._listener = listener
        self.connect()

    def connect(self) -> None:
        self.run = self._store.run
        asyncio.get_running_loop().call_soon(self._listener.connected)

    def lose(self, reason: str) -> None:
        if self.run:
            self.run = ""
            self._generation += 1
            self._listener.lost(reason)

    def call(self, keys: list[str], payload: bytes) -> None:
        loop = asyncio.get_running_loop()
        store, generation = self._store, self._generation

        def arrive() -> None:
            if store.hangs:
                store.held.append(arrive)
                return
            answer = store.take(keys, payload)
            loop.call_later(store.delay_s(), deliver, answer)

        def deliver(answer: bytes) -> None:
            if generation == self._generation:
                self._listener.answered(answer)

        loop.call_later(store.delay_s(), arrive)

    def abort(self) -> None:
        loop = asyncio.get_running_loop()
        self.lose("no answer")
        loop.call_later(0.1, self.connect)

    async def close(self) -> None:
        self.run = ""
        self._generation += 1


class Pods:
    """Some limiters on one store, and everything they admitted."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.limiters: list[Limiter] = []
        self.shared: list[LeaseLimiter] = []
        self.admitted: list[tuple[float, int]] = []
        self.by_pod: list[list[tuple[float, int]]] = []
        self.waits: list[float] = []

    async def add(self, document: contract.Document, *, max_pods: int = 4) -> Limiter:
        limiter = Limiter(document, clock=self.clock, kinds=KINDS)
        number = len(self.limiters)
        shared = LeaseLimiter(limiter, Sim(self.store), uid="uid", pod=f"pod{number}", max_pods=max_pods)
        self.limiters.append(limiter)
        self.shared.append(shared)
        self.by_pod.append([])
        await shared.start()
        return limiter

    async def ask(self, number: int, tokens: int = 0, model: str = "m") -> Grant | Rejection:
        """Ask and write down what came."""
        asked = self.clock.now
        decision = self.limiters[number].admit(model, tokens)
        if not isinstance(decision, Grant | Rejection):
            decision = await decision
        self.waits.append(self.clock.now - asked)
        if isinstance(decision, Grant):
            entry = (self.clock.now, max(1, tokens))
            self.admitted.append(entry)
            self.by_pod[number].append(entry)
        return decision

    async def joined(self) -> None:
        """Let time pass until all pods are."""
        for _ in range(20_000):
            if all(shared.online for shared in self.shared):
                return
            await asyncio.sleep(0.01)
        raise AssertionError([shared.reason for shared in self.shared])

    async def close(self) -> None:
        for shared in self.shared:
            await shared.close()


@contextmanager
def virtual_loop(clock: Clock) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        yield runner
