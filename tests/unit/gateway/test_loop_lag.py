"""The lag of the event loop, on a loop that is really late."""

import asyncio
import time

import pytest
import uvloop

from llmproxy.gateway.loop_lag import INTERVAL_S, LAG_S, LoopLag


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_loop_that_stands_still_is_late_by_that(factory: type) -> None:
    async def scene() -> None:
        lag = LoopLag()
        lag.start()
        await asyncio.sleep(2.5 * INTERVAL_S)
        before = sum(lag.counts)
        time.sleep(INTERVAL_S + 0.3)  # noqa: ASYNC251 - the loop shall stand still
        await asyncio.sleep(1.5 * INTERVAL_S)
        lag.stop()
        samples = sum(lag.counts)
        await asyncio.sleep(2 * INTERVAL_S)

        assert before >= 1
        assert lag.seconds >= 0.25
        assert sum(lag.counts[LAG_S.index(0.2) + 1 :]) >= 1
        assert sum(lag.counts) == samples, "stopped"

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(scene())
