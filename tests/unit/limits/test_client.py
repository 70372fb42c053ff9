"""The session on the gateway's own event loop, which differs from asyncio's where a timer is due at once."""

import asyncio

import uvloop

from llmproxy.gateway.limits import Limiter
from llmproxy.gateway.limits.store.lease_limiter import LeaseLimiter
from llmproxy.gateway.limits.store.protocol import StoreListener
from windows import document


class Nowhere:
    """A way to a store that is never connected."""

    run = ""

    def start(self, listener: StoreListener) -> None: ...

    def call(self, keys: list[str], payload: bytes) -> None: ...

    def abort(self) -> None: ...

    async def close(self) -> None: ...


def test_a_timer_that_is_due_at_once_can_be_followed_by_another() -> None:
    async def scene() -> None:
        shared = LeaseLimiter(Limiter(document({"rps": 1})), Nowhere(), uid="uid", pod="p", max_pods=1)
        for seconds in (0.0, 0.0001, 0.01, 0.0, 1.0):
            shared.client.wake(seconds)
        await asyncio.sleep(0.01)
        await shared.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scene())
