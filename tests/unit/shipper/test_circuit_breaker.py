"""Delays and probes of the circuit breaker."""

import asyncio
import random

from llmproxy.shipper.delivery import circuit_breaker
from llmproxy.shipper.delivery.circuit_breaker import CircuitBreaker, backoff_s


def test_waits_double_up_to_a_bound_and_vary() -> None:
    rand = random.Random(1)
    for failures, whole in ((1, 0.05), (2, 0.1), (5, 0.8), (7, 2.0), (1000, 2.0)):
        waits = [backoff_s(failures, rand) for _ in range(50)]
        assert whole / 2 <= min(waits) < max(waits) <= whole


async def test_failures_of_one_moment_are_one_failure() -> None:
    breaker = CircuitBreaker(random.Random(1))
    for _ in range(60):
        breaker.record_failure("http_503")
    began = asyncio.get_running_loop().time()
    async with breaker.permit():
        assert asyncio.get_running_loop().time() - began < circuit_breaker.MAX_DELAY_S / 2
    breaker.record_success()
    assert breaker.healthy
