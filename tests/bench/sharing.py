"""What shared limits cost a gateway: CPU of one pod for each request, with a real Redis beside it.

    make bench-sharing

Requests come paced, five or fewer at a time, on uvloop as in the gateway; each is admitted, settled and released.
The same requests by the counters of this process alone are measured between and taken off: what is left is told, the
median of several rounds. All is user and system time of this process.

Each line says whether it keeps what is promised: 5 us a request at 5,000 a second, 3 % of a core at fewer and at none.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Callable

import uvloop

from llmproxy.gateway.limits import Grant, Limiter, Rejection
from llmproxy.gateway.limits.store.lease_limiter import LeaseLimiter
from llmproxy.gateway.limits.store.protocol import SCRIPT
from llmproxy.gateway.limits.store.redis_client import RedisChannel, StoreAddress
from redisd import Server, redis_server
from windows import document

ROUNDS, SECONDS, TICK_S = 3, 1.5, 0.001
MOST_US, MOST_CORE = 5.0, 0.03
BUSY = 5000.0
"""From so many requests a second on, the first is promised, below it the second."""
RATES = (0.0, 50.0, 500.0, 1000.0, 5000.0)
NEAR = "rps, five sixths used"
CASES: dict[str, dict[str, int]] = {
    "rps": {"rps": 20_000},
    NEAR: {},
    "rps, rpm, tpm": {"rps": 20_000, "rpm": 1_200_000, "tpm": 100_000_000},
    "rpm, maxParallel": {"rpm": 1_200_000, "max_parallel": 10_000},
}


async def paced(rate: float, seconds: float, request: Callable[[], None]) -> tuple[float, int]:
    """Make requests at this rate; return the CPU seconds that took and their number."""
    begin, cpu, made = time.monotonic(), time.process_time(), 0
    while (passed := time.monotonic() - begin) < seconds:
        while made < passed * rate:
            request()
            made += 1
        await asyncio.sleep(TICK_S)
    return time.process_time() - cpu, made


def requests(limiter: Limiter, counts: dict[str, int]) -> Callable[[], None]:
    """Return what makes one call."""

    def end(decision: Grant | Rejection) -> None:
        if isinstance(decision, Grant):
            decision.settle(50)
            decision.release()
        counts[type(decision).__name__] = counts.get(type(decision).__name__, 0) + 1

    def one() -> None:
        decision = limiter.admit("m", 60)
        if isinstance(decision, Grant | Rejection):
            end(decision)
        else:
            counts["waited"] = counts.get("waited", 0) + 1
            decision.future.add_done_callback(lambda future: end(future.result()))

    return one


async def measure(redis: Server, limits: dict[str, int], rate: float) -> tuple[bool, str]:
    """Return whether the bound is kept, and one line."""
    limiter = Limiter(document(limits))
    shared = LeaseLimiter(limiter, RedisChannel(StoreAddress(redis.url), SCRIPT), uid="uid", pod="p", max_pods=2)
    await shared.start()
    while not shared.online:  # noqa: ASYNC110 - it has no event for it
        await asyncio.sleep(0.01)
    await paced(rate, 2 * SECONDS, requests(limiter, {}))
    alone = requests(Limiter(document(limits)), {})
    over_alone, calls = [], 0.0
    counts: dict[str, int] = {}
    for _ in range(ROUNDS):
        local, _ = await paced(rate, SECONDS, alone)
        before = shared.stats.calls
        cpu, _ = await paced(rate, SECONDS, requests(limiter, counts))
        calls += (shared.stats.calls - before) / SECONDS / ROUNDS
        over_alone.append((cpu - local) / SECONDS)
    cuts = shared.stats.disconnects
    await shared.close()
    return said(rate, statistics.median(over_alone), calls, cuts, counts)


def said(rate: float, core: float, calls: float, cuts: int, counts: dict[str, int]) -> tuple[bool, str]:
    """Return whether the bound is kept, and one line; *core* is the part of a core that sharing took."""
    each_us = core / rate * 1e6 if rate else 0.0
    kept = each_us <= MOST_US if rate >= BUSY else core <= MOST_CORE
    asked = ", ".join(f"{name} {number}" for name, number in sorted(counts.items()))
    cost = f"{each_us:6.1f} us a request, {core * 100:4.1f} % of a core"
    return kept, f"{'PASS' if kept else 'FAIL'}  {cost}, {calls:4.0f} calls/s, {cuts} cuts; {asked or 'no requests'}"


def main() -> int:
    """Measure and say; 1 when a bound is not kept."""
    all_kept = True
    with redis_server() as redis, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for rate in RATES:
            for name, limits in CASES.items():
                client = redis.client()
                client("FLUSHDB")
                client.close()
                redis.has_run_long("uid")
                asked = limits or {"rps": int(rate * 1.2) or 60}
                kept, line = runner.run(measure(redis, asked, rate))
                all_kept = all_kept and kept
                print(f"{rate:6.0f} requests/s  {name:21} {line}", flush=True)
    return int(not all_kept)


if __name__ == "__main__":
    sys.exit(main())
