"""Attempts of one model, one after the other, until a response is worth passing on.

They end with the first byte of a response's body; `UpstreamResponse` reports the rest. The call's record keeps every
attempt, and the balancer learns from it. A client that disconnects cancels the task, which closes the connection to the
upstream. Another model comes after the last of them (`fallback`).
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from llmproxy import shipping_protocol
from llmproxy.gateway.adapters.base import ERRORS
from llmproxy.gateway.adapters.registry import adapter_for
from llmproxy.gateway.errors import CallError, Header, UpstreamError, UpstreamTimeoutError, retry_after
from llmproxy.gateway.http.client import UpstreamFailure
from llmproxy.gateway.requests.context import AdmittedCall, Dependencies
from llmproxy.gateway.requests.early_failure import find_failure
from llmproxy.gateway.requests.retry_policy import (
    QUOTA_STATUS,
    is_final,
    is_retried,
    read_retry_after,
    wait_before_next,
)
from llmproxy.gateway.requests.upstream_response import UpstreamResponse
from llmproxy.gateway.upstreams.deployments import Upstream

MAX_ERROR: Final = 1 << 20
"""Bytes of an error of the upstream."""
_REASONS: Final = {
    "connect": "cannot be reached",
    "closed": "closed the connection",
    "incomplete": "ended before the answer's end",
}
_TIMEOUTS: Final = {
    "connect_timeout": ("took no connection", "connect_s", "timeouts.connect, or see that it runs"),
    "first_byte_timeout": ("sent no byte of an answer", "first_byte_s", "timeouts.firstByte or ask for less"),
    "idle_timeout": ("sent no more of its answer", "idle_s", "timeouts.idle"),
    "timeout": ("did not answer", "total_s", "timeout or ask for less"),
}
"""Message of a timeout: what did not happen, the attribute of `Timeouts`, the way out."""


class Attempts:
    """The attempts of one model for a call."""

    __slots__ = (
        "_attempts", "_balancer", "_call", "_deps", "_endpoint", "_forwarded", "_model", "_tried", "_upstreams",
        "_want_usage",
    )  # fmt: skip

    def __init__(self, deps: Dependencies, call: AdmittedCall, model: str) -> None:
        self._deps = deps
        self._call = call
        self._model = model
        self._endpoint = call.context.route.endpoint
        self._balancer = deps.balancers[model]
        self._upstreams = deps.serving[model, self._endpoint]
        headers, names = call.context.exchange.request.headers, deps.forwarded
        self._forwarded = [header for header in headers if header[0] in names]
        self._want_usage = call.request.stream and (deps.shipper is not None or deps.limiter.counts_tokens(model))
        self._tried: set[str] = set()
        self._attempts = 0

    async def open(self) -> UpstreamResponse:
        """Return the response to pass on; raise CallError when no attempt gave one."""
        balancer, rollout_id = self._balancer, self._call.context.route.rollout_id
        while True:
            upstream = balancer.pick(rollout_id, self._tried, self._upstreams)
            self._tried.add(upstream.id)
            self._attempts += 1
            started_ns = time.time_ns()
            self._call.upstream = upstream
            balancer.start(upstream)
            try:
                response = await self._send(upstream)
            except UpstreamFailure as failure:
                balancer.finish(upstream)
                self._record(upstream, started_ns, 0, failure.code)
                self._deps.stats.upstream_requests[upstream.id, failure.code] += 1
                balancer.report(upstream, ok=False)
                delay_s = self._next_delay(None)
                if delay_s is None:
                    raise upstream_error(self._deps, self._model, upstream, failure, self._attempts) from failure
            except CallError:  # nothing was sent: the request cannot be mapped
                balancer.finish(upstream)
                raise
            except BaseException:  # cancelled: the client has left, or this pod ends
                balancer.finish(upstream)
                self._record(upstream, started_ns, 0, "cancelled")
                raise
            else:
                self._record(upstream, started_ns, response.status, "")
                try:
                    delay_s = await self._delay_of(response)
                except BaseException:
                    response.release()
                    raise
                if delay_s is None:
                    return response
                response.release()
            if delay_s > 0:
                await asyncio.sleep(delay_s)

    async def _delay_of(self, response: UpstreamResponse) -> float | None:
        """Return the seconds before the next attempt, None when *response* is passed on.

        Raise AnswerFailedError, or another CallError, for one that is neither.
        """
        if is_retried(response.status):
            response.settle(f"http_{response.status}")
            if await _is_final(response):
                return None
            return self._next_delay(read_retry_after(response.headers, time.time()))
        if response.status >= ERRORS:
            return None
        try:
            error = await find_failure(response)
        except UpstreamFailure as failure:
            response.settle(failure.code)
            delay_s = self._next_delay(None)
            if delay_s is None:
                raise upstream_error(self._deps, self._model, response.upstream, failure, self._attempts) from failure
            return delay_s
        if error is None:
            return None
        if not error.is_retried:
            response.settle()  # the server is well, the request is not
            raise error
        response.settle("error")
        delay_s = self._next_delay(None)
        if delay_s is None:
            raise error
        return delay_s

    async def _send(self, upstream: Upstream) -> UpstreamResponse:
        call = self._call
        if upstream.upstream_model.endswith("*"):
            upstream = upstream.for_suffix(call.request.model[len(self._model) - 1 :])
        adapter = adapter_for(self._endpoint, upstream)
        body = call.sent_body = adapter.request_body(call.request, upstream, want_usage=self._want_usage)
        head = upstream.heads[adapter.endpoint] % len(body)
        call.endpoint = adapter.endpoint
        lines = adapter.request_headers(call.request, upstream)
        if self._forwarded:
            lines += _forwarded_lines(self._forwarded, head)
        if lines:
            head = head[:-2] + lines + b"\r\n"
        timeouts = upstream.timeouts
        connection = upstream.pool.idle() or await upstream.pool.connect(timeouts.connect_s)
        while True:
            try:
                connection.send(
                    head, body, timeouts.total_s, first_byte_s=timeouts.first_byte_s, idle_s=timeouts.idle_s
                )
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
                return UpstreamResponse(
                    self._model, upstream, adapter, connection, status, headers,
                    attempts=self._attempts, tries=call.tries, balancer=self._balancer, stats=self._deps.stats,
                )  # fmt: skip
            # The server had closed the reused connection and never saw the request (RFC 9110, 9.2.2): that was no
            # attempt. It cannot have closed a new connection.
            connection = await upstream.pool.connect(timeouts.connect_s)

    def _next_delay(self, retry_after_s: float | None) -> float | None:
        retries = self._deps.document.retries
        if self._attempts <= retries.max and self._balancer.has_untried(self._tried, self._upstreams):
            return 0.0
        return wait_before_next(retries, self._attempts, retry_after_s, self._deps.rand)

    def _record(self, upstream: Upstream, started_ns: int, status: int, code: str) -> None:
        self._call.tries.append(shipping_protocol.Try(upstream.id, started_ns, time.time_ns(), status, code))


async def _is_final(response: UpstreamResponse) -> bool:
    body = b""
    if response.status == QUOTA_STATUS:
        try:
            body = response.body = await response.connection.read_all(MAX_ERROR)
        except UpstreamFailure:
            return False  # it is retried, or broken for the client too
    return is_final(response.headers, body)


def _forwarded_lines(headers: Sequence[Header], head: bytes) -> bytes:
    """Return the lines of *headers*, less those that *head* has: what a deployment sets wins over the caller.

    Values have no line ends: the server refuses them.
    """
    return b"".join(b"%b: %b\r\n" % (name, value) for name, value in headers if b"\r\n%b: " % name not in head)


def upstream_error(
    deps: Dependencies, model: str, upstream: Upstream, failure: UpstreamFailure, attempts: int
) -> CallError:
    """Return the error for the client after a *failure* that was the last of *attempts*."""
    count = "1 try" if attempts == 1 else f"{attempts} tries"
    detail = f" ({failure.detail})" if failure.detail else ""
    headers = retry_after(deps.document.retries.max_delay_s)
    if failure.code in _TIMEOUTS:
        reason, attribute, way_out = _TIMEOUTS[failure.code]
        within_s = getattr(upstream.timeouts, attribute)
        return UpstreamTimeoutError(
            f"model {model!r}: {upstream.host} {reason} within {within_s:g} s, after {count}; "
            f"raise the deployment's {way_out}",
            headers=headers,
        )
    reason = _REASONS.get(failure.code, "answered nonsense")
    return UpstreamError(
        f"model {model!r}: {upstream.host} {reason}{detail}, after {count}; see that the model server runs",
        headers=headers,
    )
