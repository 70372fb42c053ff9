"""From a model to the first byte of an answer: tries, one after the other, until one is worth passing on.

Another model comes after the last of them (`fallback`). Ends at the first byte of an answer's body; how that went on is
told to `Opened`. What every try was is kept for the span; the balancer learns from it. A caller that leaves cancels the
task, which closes the connection that is waited for.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Final, cast

from llmproxy import shipping_protocol
from llmproxy.contract import Retries
from llmproxy.gateway.adapters.base import Exchange
from llmproxy.gateway.adapters.registry import find_exchange
from llmproxy.gateway.adapters.request_body import Asked
from llmproxy.gateway.errors import CallError, UpstreamError, UpstreamTimeoutError, retry_after
from llmproxy.gateway.http.client import Connection, UpstreamFailure
from llmproxy.gateway.http.routing import Route
from llmproxy.gateway.metrics import Counts
from llmproxy.gateway.requests.retry_policy import is_retried, read_retry_after, wait_before_next
from llmproxy.gateway.upstreams.balancer import Balancer
from llmproxy.gateway.upstreams.deployments import Target

_WHAT: Final = {
    "connect": "cannot be reached",
    "closed": "closed the connection",
    "incomplete": "ended before the answer's end",
}
_TIMES: Final = {
    "connect_timeout": ("took no connection", "connect_s", "timeouts.connect, or see that it runs"),
    "first_byte_timeout": ("sent no byte of an answer", "first_byte_s", "timeouts.firstByte or ask for less"),
    "idle_timeout": ("sent no more of its answer", "idle_s", "timeouts.idle"),
    "timeout": ("did not answer", "total_s", "timeout or ask for less"),
}
"""What is told of a time that is over: what did not happen, which of the target's times it is, the way out."""


class Opened:
    """An upstream's answer whose body has begun."""

    __slots__ = ("_settled", "_trying", "connection", "exchange", "headers", "status", "target")

    def __init__(
        self,
        target: Target,
        exchange: Exchange,
        connection: Connection,
        status: int,
        headers: dict[bytes, bytes],
        trying: "Trying",
    ) -> None:
        self._trying = trying
        self._settled = False
        self.target = target
        self.exchange = exchange
        self.connection = connection
        self.status = status
        self.headers = headers

    def settle(self, code: str = "") -> None:
        """Say, once, how the try ended: its answer was whole, or failed with *code*."""
        if not self._settled:
            self._settled = True
            self._trying.ended(self, code)

    def release(self) -> None:
        """Be done with it: the connection is kept if the answer is whole, closed if more of it is to come.

        One that is not settled was given up by its caller, which says nothing of the deployment.
        """
        if not self._settled:
            self._settled = True
            self._trying.given_up(self)
        self.connection.release()
        self._trying.released(self.target)


class Trying:
    """The tries of one call."""

    __slots__ = (
        "_asked", "_balancer", "_before", "_counts", "_model", "_rand", "_retries", "_route", "_targets", "_tried",
        "_want_usage",
        "endpoint", "sent", "tries",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913 - what one call needs
        self,
        route: Route,
        asked: Asked,
        *,
        model: str,
        want_usage: bool,
        balancer: Balancer,
        targets: Sequence[Target],
        counts: Counts,
        retries: Retries,
        rand: random.Random,
        before: list[shipping_protocol.Try],
    ) -> None:
        """*targets* have the endpoint; *before* are other models' tries for the same call, to which these are added."""
        self._route = route
        self._asked = asked
        self._model = model
        self._want_usage = want_usage
        self._balancer = balancer
        self._targets = targets
        self._counts = counts
        self._retries = retries
        self._rand = rand
        self._tried: set[str] = set()
        self._before = len(before)
        self.tries = before
        self.endpoint = route.endpoint
        """As the last upstream names it."""
        self.sent = b""
        """The body that went to the last upstream: what the model was really asked."""

    async def open(self) -> Opened:
        """Return the answer to pass on; raise CallError when no try gave one."""
        while True:
            target = self._balancer.pick(self._route.rollout_id, self._tried, self._targets)
            self._tried.add(target.id)
            started_ns = time.time_ns()
            self._balancer.began(target)
            try:
                opened = await self._try(target)
            except UpstreamFailure as failure:
                self._balancer.ended(target)
                self._remember(target, started_ns, 0, failure.code)
                self._counts.tries[target.id, failure.code] += 1
                self._balancer.report(target, ok=False)
                delay_s = self._next_delay(None)
                if delay_s is None:
                    raise self.broken(target, failure) from failure
            except BaseException:
                self._balancer.ended(target)
                raise
            else:
                self._remember(target, started_ns, opened.status, "")
                if not is_retried(opened.status):
                    return opened
                opened.settle(f"http_{opened.status}")
                delay_s = self._next_delay(read_retry_after(opened.headers, time.time()))
                if delay_s is None:
                    return opened
                opened.release()
            if delay_s > 0:
                await asyncio.sleep(delay_s)

    async def _try(self, target: Target) -> Opened:
        exchange = cast("Exchange", find_exchange(self._route.endpoint, target))
        body = self.sent = exchange.request(self._asked, target, want_usage=self._want_usage)
        head = target.heads[exchange.endpoint] % len(body)
        self.endpoint = exchange.endpoint
        if lines := exchange.head_lines(self._asked, target):
            head = head[:-2] + lines + b"\r\n"
        times = target.times
        connection = target.pool.idle() or await target.pool.connect(times.connect_s)
        while True:
            try:
                connection.send(head, body, times.total_s, first_byte_s=times.first_byte_s, idle_s=times.idle_s)
                status, headers = await connection.head()
            except UpstreamFailure as failure:
                was_stale = connection.is_stale(failure)
                connection.release()
                if not was_stale:
                    raise
            except BaseException:
                connection.cancel()
                connection.release()
                raise
            else:
                if status == 200 and connection.is_empty():  # noqa: PLR2004 - no answer of a model is empty
                    connection.release()
                    raise UpstreamFailure("incomplete")
                return Opened(target, exchange, connection, status, headers, self)
            # The server had closed the kept connection as we took it, so it never saw the request (RFC 9110, 9.2.2):
            # no try was made. A new connection is none that it had closed.
            connection = await target.pool.connect(times.connect_s)

    def _next_delay(self, asked_s: float | None) -> float | None:
        tries = len(self.tries) - self._before
        if tries <= self._retries.max and self._balancer.untried(self._tried, self._targets):
            return 0.0
        return wait_before_next(self._retries, tries, asked_s, self._rand)

    def _remember(self, target: Target, started_ns: int, status: int, code: str) -> None:
        self.tries.append(shipping_protocol.Try(target.id, started_ns, time.time_ns(), status, code))

    def ended(self, opened: Opened, code: str) -> None:
        """The last try's answer was whole, or it failed with *code*; for `Opened`."""
        last = self.tries[-1]
        self._counts.tries[last.deployment, code or opened.status] += 1
        if code:
            self.tries[-1] = shipping_protocol.Try(last.deployment, last.started_ns, time.time_ns(), last.status, code)
        self._balancer.report(opened.target, ok=not code)

    def given_up(self, opened: Opened) -> None:
        """The last try had begun well when its caller left; for `Opened`."""
        self._counts.tries[opened.target.id, opened.status] += 1

    def released(self, target: Target) -> None:
        """The answer's connection is free; for `Opened`."""
        self._balancer.ended(target)

    def broken(self, target: Target, failure: UpstreamFailure) -> CallError:
        """Return what to tell the caller of a *failure* that was the last."""
        model, count = self._model, len(self.tries) - self._before
        tried = "1 try" if count == 1 else f"{count} tries"
        detail = f" ({failure.detail})" if failure.detail else ""
        wait = retry_after(self._retries.max_delay_s)
        if failure.code in _TIMES:
            what, field, way_out = _TIMES[failure.code]
            within_s = getattr(target.times, field)
            return UpstreamTimeoutError(
                f"model {model!r}: {target.host} {what} within {within_s:g} s, after {tried}; "
                f"raise the deployment's {way_out}",
                headers=wait,
            )
        what = _WHAT.get(failure.code, "answered nonsense")
        return UpstreamError(
            f"model {model!r}: {target.host} {what}{detail}, after {tried}; see that the model server runs",
            headers=wait,
        )
