"""The whole life of one call, top to bottom: read, admit, tell, try, answer, settle, hand over."""

import asyncio
import logging
import time
from typing import Final

from llmproxy import shipping_protocol
from llmproxy.gateway.adapters.registry import not_served
from llmproxy.gateway.adapters.request_body import Asked
from llmproxy.gateway.errors import CallError, DrainingError, OverLimitError, UnknownModelError, retry_after
from llmproxy.gateway.http.exchange import Caller
from llmproxy.gateway.http.routing import COUNT_TOKENS, MAX_ID, Route
from llmproxy.gateway.limits import Grant, Rejection
from llmproxy.gateway.limits.local.queue import Waiter
from llmproxy.gateway.requests.context import Call, Parts
from llmproxy.gateway.requests.fallback import bound_tokens, open_somewhere
from llmproxy.gateway.requests.response import forward, hold, tell
from llmproxy.gateway.upstreams.balancer import Balancer

log = logging.getLogger("llmproxy.gateway")
CLIENT_CLOSED: Final = 499
"""The status that nginx gave to a caller that left, in metrics only."""


async def serve(parts: Parts, route: Route, caller: Caller) -> None:
    """Answer one call."""
    call = Call(route, caller)
    counts = parts.counts
    counts.in_flight += 1
    try:
        parts.pause.check()
        body = caller.request.body
        asked = call.asked = caller.dialect.read(body, route.model)
        _must_serve(parts, asked.model, route.endpoint)
        caller.watch()
        decision = _ask(parts, route, asked, len(body))
        if not isinstance(decision, (Grant, Rejection)):
            decision = await parts.pause.turn(decision)
        call.grant = _granted(parts, asked.model, decision)
        _arrived(parts, call)
        opened = call.opened = await open_somewhere(parts, call, asked)
        try:
            await forward(parts, call, opened)
        finally:
            opened.release()
    except CallError as error:
        await _refuse(parts, call, error)
    except asyncio.CancelledError:
        await _cut(parts, call)
    except Exception:
        call.status, call.error = 500, "internal_error"
        raise
    finally:
        caller.unwatch()
        counts.in_flight -= 1
        if call.grant is not None:
            _settle(call, call.grant)
        tell(parts, call)
        _count(parts, call)


def find(parts: Parts, model: str) -> Balancer:
    """Return what serves *model*; raise UnknownModelError naming what there is."""
    balancer = parts.balancers.get(model)
    if balancer is None:
        known = ", ".join(sorted(parts.balancers))
        raise UnknownModelError(f"model {model!r} is not served here; there is {known}", param="model")
    return balancer


def _must_serve(parts: Parts, model: str, endpoint: str) -> None:
    balancer = find(parts, model)
    if not parts.serving[model, endpoint]:
        others = [name for name in parts.balancers if parts.serving[name, endpoint]]
        raise not_served(endpoint, model, balancer.targets, others)


def _ask(parts: Parts, route: Route, asked: Asked, body_bytes: int) -> Grant | Rejection | Waiter[Grant | Rejection]:
    return parts.limiter.admit(asked.model, bound_tokens(parts, route, asked, asked.model, body_bytes))


def _granted(parts: Parts, model: str, decision: Grant | Rejection) -> Grant:
    if isinstance(decision, Grant):
        return decision
    parts.counts.rejected[model, decision.kind, decision.scope] += 1
    raise OverLimitError(decision.message, headers=retry_after(decision.retry_after_s))


def _arrived(parts: Parts, call: Call) -> None:
    route, handover = call.route, parts.handover
    if route.endpoint == COUNT_TOKENS:
        return  # no model was called
    if not route.rollout_id:
        parts.counts.without_rollout += 1
        if route.unusable:
            _say_unusable(parts, call)
        spans = parts.document.spans
        if handover is not None and spans is not None and spans.otlp is not None:
            call.call_id = handover.new_id()
    elif handover is not None:
        call.call_id = handover.new_id()
        if not route.sequence_id:
            handover.arrived(
                shipping_protocol.Arrival(call.call_id, route.rollout_id, route.attempt_id, call.started_ns)
            )


def _say_unusable(parts: Parts, call: Call) -> None:
    """Count a call whose rollout cannot be told; log the first, since nothing else says why it has no spans."""
    parts.counts.rollouts_unusable += 1
    if parts.counts.rollouts_unusable == 1:
        way_out = f"name a rollout and an attempt, each without a slash and with at most {MAX_ID} characters"
        log.warning("rollout_unusable", extra={"path": call.caller.request.path[:1000], "way_out": way_out})


async def _refuse(parts: Parts, call: Call, error: CallError) -> None:
    call.status = error.status
    call.error = call.error or error.code
    await hold(parts, call)
    over = isinstance(error, OverLimitError) and call.asked is not None
    limits = call.caller.dialect.limits(parts.limiter, call.asked.model) if over and call.asked else ()
    call.caller.refuse(error, limits)


async def _cut(parts: Parts, call: Call) -> None:
    """Give a call up: its caller has left, or this pod has ended while it was on its way."""
    caller = call.caller
    if caller.gone:
        call.error = "client_closed"
        return
    error = DrainingError("this gateway is ending and the call took longer than drainTimeout: send it again")
    call.error = error.code
    if caller.started:
        caller.end(caller.dialect.error_event(error))
    else:
        await _refuse(parts, call, error)


def _settle(call: Call, grant: Grant) -> None:
    grant.release()
    if call.opened is None:
        grant.refund_tokens()
    elif call.tokens is not None:
        grant.settle(call.tokens)
    elif call.status >= 400:  # noqa: PLR2004 - the upstream refused: no tokens were made
        grant.refund_tokens()


def _count(parts: Parts, call: Call) -> None:
    counts = parts.counts
    if call.error == "client_closed":
        counts.client_gone += 1
    model = call.asked.model if call.asked is not None and call.asked.model in parts.balancers else ""
    counts.requests[model, call.route.endpoint, call.status or CLIENT_CLOSED] += 1
    if call.opened is not None:
        counts.duration[model].add(time.monotonic() - call.started_s)
        if call.first_byte_ns:
            counts.first_byte[model].add((call.first_byte_ns - call.started_ns) / 1e9)
        if call.tokens:
            counts.tokens[model] += call.tokens
