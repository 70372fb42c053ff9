"""What shared limits cost a gateway: CPU of one pod for each request, with a real Redis beside it.

    PYTHONPATH=tests python -P tests/bench/sharing.py

Requests come paced, five or fewer at a time, on uvloop as in the gateway; each is admitted, settled and released.
The same requests by the counters of this process alone, and no requests at all, are measured between and taken off:
what is left is told, the median of several rounds. All is user and system time of this process.
"""

import asyncio
import statistics
import time
from collections.abc import Callable

import uvloop

from llmproxy.gateway.limits import Denial, Grant, Limiter
from llmproxy.gateway.limits.resp import Address, Redis
from llmproxy.gateway.limits.shared import Shared
from llmproxy.gateway.limits.store import SCRIPT
from redisd import Server, redis_server
from windows import document

ROUNDS, SECONDS, TICK_S = 5, 2.0, 0.001
CASES: dict[str, dict[str, int]] = {
    "rps": {"rps": 20_000},
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

    def end(decision: Grant | Denial) -> None:
        if isinstance(decision, Grant):
            decision.settle(50)
            decision.release()
        counts[type(decision).__name__] = counts.get(type(decision).__name__, 0) + 1

    def one() -> None:
        decision = limiter.admit("m", 60)
        if isinstance(decision, Grant | Denial):
            end(decision)
        else:
            counts["waited"] = counts.get("waited", 0) + 1
            decision.future.add_done_callback(lambda future: end(future.result()))

    return one


async def measure(redis: Server, limits: dict[str, int], rate: float) -> str:
    limiter = Limiter(document(limits))
    shared = Shared(limiter, Redis(Address(redis.url), SCRIPT), uid="uid", pod="p", max_pods=2)
    await shared.start()
    while not shared.joined:  # noqa: ASYNC110 - it has no event for it
        await asyncio.sleep(0.01)
    await paced(rate, 0.5, requests(limiter, {}))
    alone = requests(Limiter(document(limits)), {})
    over_alone, over_nothing, calls = [], [], 0.0
    counts: dict[str, int] = {}
    for _ in range(ROUNDS):
        nothing, nothing_made = await paced(rate, SECONDS, lambda: None)
        local, local_made = await paced(rate, SECONDS, alone)
        before = shared.told.calls
        cpu, made = await paced(rate, SECONDS, requests(limiter, counts))
        calls += (shared.told.calls - before) / SECONDS / ROUNDS
        over_alone.append((cpu / made - local / local_made) * 1e6)
        over_nothing.append((cpu / made - nothing / nothing_made) * 1e6)
    cuts = shared.told.cuts
    await shared.close()
    asked = ", ".join(f"{name} {number}" for name, number in sorted(counts.items()))
    extra, whole = statistics.median(over_alone), statistics.median(over_nothing)
    core = f"{extra * rate / 1e4:.1f} % of a core"
    return f"{extra:5.1f} us a request ({core}; {whole:.1f} with counting), {calls:4.0f} calls/s, {cuts} cuts; {asked}"


def main() -> None:
    with redis_server() as redis, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for rate in (1000.0, 5000.0):
            for name, limits in CASES.items():
                client = redis.client()
                client("FLUSHDB")
                client.close()
                redis.has_run_long("uid")
                print(f"{rate:6.0f} requests/s  {name:18} {runner.run(measure(redis, limits, rate))}", flush=True)


if __name__ == "__main__":
    main()
