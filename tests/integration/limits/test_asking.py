"""One pod asks another: two limiters in one process, joined by a real connection."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import pytest

from llmproxy.gateway.limits import Grant, Limiter, Rejection
from llmproxy.gateway.limits.peers import election
from llmproxy.gateway.limits.peers.election import Peers
from waiting import until_async
from windows import document

TOKEN = "secret"


@asynccontextmanager
async def pair(
    old: dict[str, int], new: dict[str, int] | None = None, *, queue_s: float | None = None, used: int = 0
) -> AsyncIterator[tuple[Limiter, Peers, Limiter, Peers]]:
    """Two pods; the first has admitted *used* requests of 10 tokens when the second takes over."""
    first = Limiter(document(old, queue_s=queue_s))
    first_peers = await election.serve(first, "127.0.0.1", 0, TOKEN, "old")
    await first_peers.take_over([])
    for _ in range(used):
        grant = first.admit("m", 10)
        assert isinstance(grant, Grant)
        grant.release()
    second = Limiter(document(new or old, queue_s=queue_s))
    second_peers = await election.serve(second, "127.0.0.1", 0, TOKEN, "new")
    await second_peers.take_over([f"127.0.0.1:{first_peers.port}"])
    await until_async(lambda: first.mode == "leader")
    try:
        yield first, first_peers, second, second_peers
    finally:
        await first_peers.close()
        await second_peers.close()


async def decided(decision: Grant | Rejection | Awaitable[Grant | Rejection]) -> Grant | Rejection:
    return decision if isinstance(decision, Grant | Rejection) else await decision


async def granted(limiter: Limiter, tokens: int = 10) -> Grant:
    decision = await decided(limiter.admit("m", tokens))
    assert isinstance(decision, Grant), decision
    return decision


def used(limiter: Limiter, kind: str) -> int:
    return next(use.used for use in limiter.usage() if use.kind == kind)


async def test_a_starting_pod_knows_what_was_counted_before_it() -> None:
    async with pair({"rpm": 5, "tpm": 1000}, used=3) as (old, _, new, _):
        assert (new.mode, old.mode) == ("local", "leader")
        assert (used(new, "rpm"), used(new, "tpm")) == (3, 30)

        await granted(old)
        await granted(new)
        denied = await decided(old.admit("m", 10))

        assert isinstance(denied, Rejection)
        assert (denied.kind, denied.scope) == ("rpm", "proxy")
        assert 55 < denied.retry_after_s < 62
        assert "model" not in denied.message


async def test_what_was_used_is_settled_where_it_was_charged() -> None:
    async with pair({"tpm": 1000}) as (old, _, new, _):
        grant = await granted(old, 600)
        assert used(new, "tpm") == 600

        grant.settle(50)
        await until_async(lambda: used(new, "tpm") == 50)

        assert isinstance(await decided(old.admit("m", 950)), Grant)


async def test_a_call_from_before_the_hand_over_is_settled_after_it() -> None:
    first = Limiter(document({"tpm": 1000, "max_parallel": 1}))
    old_peers = await election.serve(first, "127.0.0.1", 0, TOKEN, "old")
    await old_peers.take_over([])
    before = first.admit("m", 700)
    assert isinstance(before, Grant)
    second = Limiter(document({"tpm": 1000, "max_parallel": 1}))
    new_peers = await election.serve(second, "127.0.0.1", 0, TOKEN, "new")
    await new_peers.take_over([f"127.0.0.1:{old_peers.port}"])

    over = second.admit("m", 1)
    before.settle(100)
    before.release()
    await until_async(lambda: used(second, "maxParallel") == 0)

    assert isinstance(over, Rejection)
    assert over.kind == "maxParallel"
    assert used(second, "tpm") == 100
    assert isinstance(second.admit("m", 900), Grant)
    await old_peers.close()
    await new_peers.close()


async def test_a_refund_and_a_release_reach_the_authority() -> None:
    async with pair({"rpm": 1, "max_parallel": 1}) as (old, _, new, _):
        grant = await granted(old)
        assert isinstance(new.admit("m", 0), Rejection)

        grant.refund()
        grant.release()
        grant.release()
        await until_async(lambda: used(new, "rpm") == 0)

        assert used(new, "maxParallel") == 0
        assert isinstance(new.admit("m", 0), Grant)


async def test_a_call_that_falls_back_counts_once_for_the_proxy_at_the_authority_too() -> None:
    async with pair({"rpm": 1, "max_parallel": 1}) as (old, _, new, _):
        first = await granted(old)
        first.release()
        again = await decided(old.admit("m", 10, queue=False, is_fallback=True))

        assert isinstance(again, Grant)
        assert (used(new, "rpm"), used(new, "maxParallel")) == (1, 1)
        again.refund()
        again.release()
        await until_async(lambda: used(new, "maxParallel") == 0)
        assert used(new, "rpm") == 1, "only the model's request is given back"


async def test_a_request_of_the_old_pod_waits_its_turn_at_the_new_one() -> None:
    async with pair({"max_parallel": 1}, queue_s=20) as (old, _, new, _):
        holding = new.admit("m", 0)
        assert isinstance(holding, Grant)
        first = asyncio.ensure_future(decided(old.admit("m", 0)))
        await until_async(lambda: new.waiting == 1)
        second = asyncio.ensure_future(decided(new.admit("m", 0)))
        await asyncio.sleep(1.2)
        assert not first.done(), "waiting for a turn is no silence"
        assert old.mode == "leader"

        holding.release()
        grant = await first

        assert isinstance(grant, Grant)
        assert not second.done()
        grant.release()
        assert isinstance(await second, Grant)


async def test_a_caller_of_the_old_pod_that_leaves_frees_its_place_at_the_new_one() -> None:
    async with pair({"max_parallel": 1}, queue_s=20) as (old, _, new, _):
        holding = new.admit("m", 0)
        assert isinstance(holding, Grant)
        waiting = asyncio.ensure_future(decided(old.admit("m", 0)))
        await until_async(lambda: new.waiting == 1)

        waiting.cancel()
        await until_async(lambda: new.waiting == 0)

        holding.release()
        assert used(new, "maxParallel") == 0


async def test_a_caller_that_leaves_while_the_grant_is_on_its_way_leaves_nothing_behind() -> None:
    async with pair({"rpm": 100, "max_parallel": 100}) as (old, _, new, _):
        tasks = [asyncio.ensure_future(decided(old.admit("m", 0))) for _ in range(50)]
        for turns, task in enumerate(tasks):
            asyncio.get_running_loop().call_later(turns * 0.0001, task.cancel)
        done, _pending = await asyncio.wait(tasks)
        kept = [task.result() for task in done if not task.cancelled()]

        await until_async(lambda: used(new, "rpm") == len(kept))
        await until_async(lambda: used(new, "maxParallel") == len(kept))


async def test_those_who_wait_when_the_counters_are_handed_over_go_on_waiting_at_the_new_pod() -> None:
    first = Limiter(document({"rps": 2}, queue_s=20))
    old_peers = await election.serve(first, "127.0.0.1", 0, TOKEN, "old")
    await old_peers.take_over([])
    waiting = [asyncio.ensure_future(decided(first.admit("m", 0))) for _ in range(6)]
    await asyncio.sleep(0.1)
    second = Limiter(document({"rps": 2}, queue_s=20))
    new_peers = await election.serve(second, "127.0.0.1", 0, TOKEN, "new")

    await new_peers.take_over([f"127.0.0.1:{old_peers.port}"])
    await until_async(lambda: second.waiting > 0)
    decisions = await asyncio.gather(*waiting)

    assert first.waiting == 0
    assert all(isinstance(decision, Grant) for decision in decisions)
    await old_peers.close()
    await new_peers.close()


async def test_when_the_authority_ends_in_order_the_other_knows_everything() -> None:
    async with pair({"rpm": 10}, used=2) as (old, _, new, new_peers):
        for _ in range(3):
            await granted(old)
            assert isinstance(new.admit("m", 0), Grant)

        await new_peers.close()
        await until_async(lambda: old.mode == "local")

        assert used(old, "rpm") == 8
        assert [isinstance(old.admit("m", 0), Grant) for _ in range(3)] == [True, True, False]


async def test_a_grant_that_came_too_late_is_given_back_and_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pair({"rps": 50, "max_parallel": 9}) as (old, old_peers, new, _):
        real = old_peers._follower.on_granted
        delays = [0.1]

        def slowly(message: object) -> None:
            if delays:
                time.sleep(delays.pop())  # longer than a lease of 1/32 s
            real(message)  # type: ignore[arg-type]  # passed on as it came

        monkeypatch.setattr(old_peers._follower, "on_granted", slowly)

        grant = await granted(old)

        await until_async(lambda: used(new, "rps") == 1)
        assert used(new, "maxParallel") == 1
        assert old.decisions.refunded == 1
        grant.release()


async def test_the_old_pod_tells_its_callers_the_limits_of_the_new_one() -> None:
    async with pair({"rpm": 10}, {"rpm": 4}, used=1) as (old, _, _, _):
        await until_async(lambda: dict(old.headers("m"))[b"x-ratelimit-limit-requests"] == b"4")  # with its welcome
        assert dict(old.headers("m"))[b"x-ratelimit-remaining-requests"] == b"3"


async def test_without_a_token_nobody_listens() -> None:
    with pytest.raises(ValueError, match="set PEER_TOKEN"):
        await election.serve(Limiter(document()), "127.0.0.1", 0, "", "pod")


async def test_an_address_where_nobody_is_costs_little_and_admission_begins() -> None:
    limiter = Limiter(document({"rpm": 1}))
    peers = await election.serve(limiter, "127.0.0.1", 0, TOKEN, "pod")
    before = time.monotonic()

    await peers.take_over(["127.0.0.1:1", "there-is-no-such-name.invalid", f"127.0.0.1:{peers.port}"])

    assert time.monotonic() - before < 4.5, "RESOLVE_S + CONNECT_S + what this machine adds"
    assert limiter.mode == "local"
    assert isinstance(limiter.admit("m", 0), Grant)
    await peers.close()
