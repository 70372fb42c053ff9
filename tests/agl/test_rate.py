"""Rollouts on the real store at 60 % of the rate that it takes here, measured in the same run: none missing."""

import asyncio
import time

import pytest

from aglrig import Road

pytestmark = [pytest.mark.agl, pytest.mark.filterwarnings("default")]

AT_ONCE = 16
SHARE = 0.6
ACK_WAIT_S = 0.05


async def one(road: Road, ids: tuple[str, str], waits: list[float]) -> int:
    """Make a rollout's call, read its spans the instant it is let go, and return how many are missing."""
    began = time.monotonic()
    await road.call(ids)
    waits.append(time.monotonic() - began)
    path = f"/spans?rollout_id={ids[0]}&attempt_id={ids[1]}"
    found = await asyncio.to_thread(road.store.ask, "GET", path)
    return 3 - len(found["items"])


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rollouts", [150, pytest.param(1000, marks=pytest.mark.long)])
async def test_at_60_percent_of_the_stores_ceiling_none_is_missing(road: Road, rollouts: int) -> None:
    fresh = [await road.rollout() for _ in range(2 * rollouts)]
    first, second = fresh[:rollouts], fresh[rollouts:]
    waits: list[float] = []
    left = iter(first)

    async def worker() -> int:
        return sum([await one(road, ids, waits) for ids in left])

    began = time.monotonic()
    missing = sum(await asyncio.gather(*(worker() for _ in range(AT_ONCE))))
    ceiling = rollouts / (time.monotonic() - began)

    waits.clear()
    tasks = []
    began = time.monotonic()
    for number, ids in enumerate(second):
        await asyncio.sleep(max(0.0, began + number / (SHARE * ceiling) - time.monotonic()))
        tasks.append(asyncio.ensure_future(one(road, ids, waits)))
    missing += sum(await asyncio.gather(*tasks))
    rate = rollouts / (time.monotonic() - began)
    over = sum(wait > ACK_WAIT_S for wait in waits)
    median = sorted(waits)[len(waits) // 2] * 1e3
    print(f"ceiling {ceiling:.0f}/s with reads, then {rate:.0f}/s: missing {missing}")
    print(f"stored in {median:.1f} ms, {over} of {rollouts} after more than 50 ms")
    assert missing == 0
    assert len(waits) == rollouts
