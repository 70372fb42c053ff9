"""From a model to the head of an answer: tries, one after the other, until one is worth passing on.

Ends at the first byte of an answer. What every try was is kept for the span; the balancer learns from it.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from llmproxy import calls
from llmproxy.contract import Retries
from llmproxy.gateway.balance import Balancer
from llmproxy.gateway.body import Asked, upstream_body
from llmproxy.gateway.caller import Caller, CallerGoneError
from llmproxy.gateway.errors import CallError, UnknownRouteError, UpstreamError, UpstreamTimeoutError, retry_after
from llmproxy.gateway.metrics import Counts
from llmproxy.gateway.retry import is_retried, read_retry_after, utc_now_s, wait_before_next
from llmproxy.gateway.targets import Target
from llmproxy.gateway.upstream import Connection, UpstreamFailure

CONNECT_TIMEOUT_S = 5.0
MAX_ERROR_BODY = 1 << 20
"""Bytes of an error's body that are read; a failed try's connection with more is closed."""


@dataclass(slots=True)
class Opened:
    """An upstream's answer whose head has come."""

    target: Target
    connection: Connection
    status: int
    headers: dict[bytes, bytes]
    sent: bytes
    """The body that went to the upstream: what the model was really asked."""


@dataclass(slots=True)
class Trying:
    """The tries of one call."""

    endpoint: str
    rollout_id: str
    asked: Asked
    want_usage: bool
    balancer: Balancer
    caller: Caller
    counts: Counts
    retries: Retries
    rand: random.Random
    tries: list[calls.Try] = field(default_factory=list)
    sent: bytes = b""
    _tried: set[str] = field(default_factory=set)

    async def open(self) -> Opened:
        """Return the answer to pass on; raise CallError when no try gave one, CallerGoneError when nobody waits."""
        while True:
            target = self.balancer.pick(self.rollout_id, self._tried)
            self._tried.add(target.deployment.id)
            started_ns = time.time_ns()
            try:
                opened = await self._try(target)
            except UpstreamFailure as failure:
                self._failed(target, started_ns, 0, failure.code)
                delay_s = self._next_delay(None)
                if delay_s is None:
                    raise self.broken(target, failure) from failure
            else:
                if not is_retried(opened.status):
                    self._succeeded(opened, started_ns)
                    return opened
                self._failed(target, started_ns, opened.status, f"http_{opened.status}")
                delay_s = self._next_delay(read_retry_after(opened.headers, utc_now_s()))
                if delay_s is None:
                    return opened
                await _discard(opened.connection)
            await self._sleep(delay_s)

    async def _try(self, target: Target) -> Opened:
        head = target.heads.get(self.endpoint)
        if head is None:
            raise UnknownRouteError(
                f"model {self.asked.model!r} is served by {target.provider}, which has no {self.endpoint} here"
            )
        body = self.sent = upstream_body(self.asked, target, self.endpoint, want_usage=self.want_usage)
        timeout_s = target.deployment.timeout_s
        connection = await target.pool.acquire(min(CONNECT_TIMEOUT_S, timeout_s))
        kept = connection.idle_since > 0
        while True:
            try:
                status, headers = await self._send(connection, head % len(body), body, timeout_s)
            except UpstreamFailure as failure:
                if not (kept and failure.code == "closed"):
                    raise
                # The server closed a kept connection as we took it: no try was made, another connection is.
                connection = await target.pool.acquire(min(CONNECT_TIMEOUT_S, timeout_s))
                kept = connection.idle_since > 0
                continue
            return Opened(target, connection, status, headers, body)

    async def _send(
        self, connection: Connection, head: bytes, body: bytes, timeout_s: float
    ) -> tuple[int, dict[bytes, bytes]]:
        if self.caller.gone:
            connection.send(head, body, timeout_s)
            connection.cancel()
            connection.release()
            raise CallerGoneError
        connection.send(head, body, timeout_s)
        self.caller.on_gone = connection.cancel
        try:
            return await connection.head()
        except BaseException as exc:
            connection.cancel()
            connection.release()
            if isinstance(exc, UpstreamFailure) and exc.code == "cancelled":
                raise CallerGoneError from exc
            raise
        finally:
            self.caller.on_gone = None

    def _next_delay(self, asked_s: float | None) -> float | None:
        tries = len(self.tries)
        if tries <= self.retries.max and self.balancer.untried(self._tried):
            return 0.0
        return wait_before_next(self.retries, tries, asked_s, self.rand)

    async def _sleep(self, delay_s: float) -> None:
        if delay_s > 0:
            waiting = asyncio.get_running_loop().create_future()
            timer = asyncio.get_running_loop().call_later(delay_s, _wake, waiting)
            self.caller.on_gone = _waker(waiting)
            try:
                await waiting
            finally:
                timer.cancel()
                self.caller.on_gone = None
        if self.caller.gone:
            raise CallerGoneError

    def _succeeded(self, opened: Opened, started_ns: int) -> None:
        self._remember(opened.target, started_ns, opened.status, "")
        self.balancer.report(opened.target, ok=True)

    def _failed(self, target: Target, started_ns: int, status: int, code: str) -> None:
        self._remember(target, started_ns, status, code)
        self.balancer.report(target, ok=False)

    def _remember(self, target: Target, started_ns: int, status: int, code: str) -> None:
        ident = target.deployment.id
        self.tries.append(calls.Try(ident, started_ns, time.time_ns(), status, code))
        self.counts.tries[ident, code or str(status)] += 1

    def broken(self, target: Target, failure: UpstreamFailure) -> CallError:
        """Return what to tell the caller of a *failure* that was the last."""
        model, count = self.asked.model, len(self.tries)
        tried = "1 try" if count == 1 else f"{count} tries"
        detail = f" ({failure.detail})" if failure.detail else ""
        wait = retry_after(self.retries.max_delay_s)
        if failure.code == "timeout":
            seconds = target.deployment.timeout_s
            return UpstreamTimeoutError(
                f"model {model!r}: {target.host} did not answer within {seconds:g} s, after {tried}; "
                "raise the deployment's timeout or ask for less",
                headers=wait,
            )
        what = {"connect": "cannot be reached", "closed": "closed the connection"}.get(failure.code, "answered nonsense")
        return UpstreamError(
            f"model {model!r}: {target.host} {what}{detail}, after {tried}; see that the model server runs",
            headers=wait,
        )


async def _discard(connection: Connection) -> None:
    try:
        await connection.read_all(MAX_ERROR_BODY)
    except UpstreamFailure:
        connection.cancel()
    finally:
        connection.release()


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _waker(future: "asyncio.Future[None]") -> Callable[[], None]:
    return lambda: _wake(future)
