"""One request to a model, top to bottom: parse, admit, attempt, respond, settle, record."""

import asyncio
import logging
import time
from typing import Final

from llmproxy import shipping_protocol
from llmproxy.gateway.adapters.registry import not_served
from llmproxy.gateway.errors import CallError, DrainingError, RejectedError, UnknownModelError, retry_after
from llmproxy.gateway.http.exchange import JSON
from llmproxy.gateway.http.routing import COUNT_TOKENS, MAX_ID
from llmproxy.gateway.limits import Grant, Rejection
from llmproxy.gateway.requests.context import AdmittedCall, Dependencies, RequestContext
from llmproxy.gateway.requests.fallback import open_response
from llmproxy.gateway.requests.response import hold, record, send_response
from llmproxy.gateway.requests.token_bound import bound_tokens
from llmproxy.gateway.upstreams.balancer import Balancer

log = logging.getLogger("llmproxy.gateway")
CLIENT_CLOSED: Final = 499
"""nginx's status for a client that disconnected, in metrics only."""


async def serve(deps: Dependencies, context: RequestContext) -> None:
    """Answer one request."""
    exchange, stats = context.exchange, deps.stats
    call: AdmittedCall | None = None
    stats.in_flight += 1
    try:
        deps.pause.check()
        body = exchange.request.body
        request = context.dialect.parse(body, context.route.model)
        context.model = model = find_model(deps, request.model)
        _require_serving(deps, context, deps.balancers[model])
        exchange.cancel_on_disconnect()
        decision = deps.limiter.admit(
            model, bound_tokens(request, context.route.endpoint, len(body), deps.output_tokens[model])
        )
        if not isinstance(decision, (Grant, Rejection)):
            decision = await deps.pause.turn(decision)
        call = AdmittedCall(context, request, _require_grant(deps, context, decision))
        _announce(deps, call)
        response = call.upstream_response = await open_response(deps, call)
        try:
            await send_response(deps, call, response)
        finally:
            response.release()
    except CallError as error:
        await _send_error(deps, context, call, error)
    except asyncio.CancelledError:
        await _cancel(deps, context, call)
    except Exception:
        context.status, context.error = 500, "internal_error"
        raise
    finally:
        exchange.ignore_disconnect()
        stats.in_flight -= 1
        if call is not None:
            _settle(call)
            record(deps, call)
            deps.budget.give(call.charged)
        _count(deps, context, call)


def find_model(deps: Dependencies, name: str) -> str:
    """Return the model of the document for *name*; raise UnknownModelError with the names that are served."""
    model = deps.models.find(name)
    if model is None:
        names = ", ".join(deps.models.all())
        raise UnknownModelError(f"model {name!r} is not served here; there is {names}", param="model")
    return model


def _require_serving(deps: Dependencies, context: RequestContext, balancer: Balancer) -> None:
    endpoint = context.route.endpoint
    if not deps.serving[context.model, endpoint]:
        others = [name for name in deps.balancers if deps.serving[name, endpoint]]
        raise not_served(endpoint, context.model, balancer.upstreams, others)


def _require_grant(deps: Dependencies, context: RequestContext, decision: Grant | Rejection) -> Grant:
    """Return the grant; count a rejection and raise RejectedError."""
    if isinstance(decision, Grant):
        return decision
    deps.stats.rejections[context.model, decision.kind, decision.scope] += 1
    limits = context.dialect.limits(deps.limiter, context.model)
    raise RejectedError(decision.message, headers=(*retry_after(decision.retry_after_s), *limits))


def _announce(deps: Dependencies, call: AdmittedCall) -> None:
    """Give the call an id if it makes a span; announce a rollout's call to the shipper."""
    route, shipper = call.context.route, deps.shipper
    if route.endpoint == COUNT_TOKENS:
        return  # no model is called
    if not route.rollout_id:
        deps.stats.without_rollout += 1
        if route.invalid:
            _log_invalid_rollout(deps, call)
        spans = deps.document.spans
        if shipper is not None and spans is not None and spans.otlp is not None:
            call.call_id = shipper.new_id()
    elif shipper is not None:
        call.call_id = shipper.new_id()
        if not route.sequence_id:
            shipper.send_arrival(
                shipping_protocol.Arrival(call.call_id, route.rollout_id, route.attempt_id, call.context.started_ns)
            )


def _log_invalid_rollout(deps: Dependencies, call: AdmittedCall) -> None:
    """Count a call with an invalid rollout; log the first, since nothing else tells why it has no spans."""
    deps.stats.invalid_rollouts += 1
    if deps.stats.invalid_rollouts == 1:
        way_out = f"name a rollout and an attempt, each without a slash and with at most {MAX_ID} characters"
        path = call.context.exchange.request.path[:1000]
        log.warning("invalid_rollout", extra={"path": path, "way_out": way_out})


async def _send_error(deps: Dependencies, context: RequestContext, call: AdmittedCall | None, error: CallError) -> None:
    context.status = error.status
    context.error = context.error or error.code
    if call is not None:
        await hold(deps, call)
    context.exchange.respond(error.status, context.dialect.error(error), (JSON, *error.headers))


async def _cancel(deps: Dependencies, context: RequestContext, call: AdmittedCall | None) -> None:
    """End a cancelled request: its client has disconnected, or this pod ends."""
    exchange = context.exchange
    if exchange.disconnected:
        context.error = "client_closed"
        return
    error = DrainingError("this gateway is ending and the call took longer than drainTimeout: send it again")
    context.error = error.code
    if exchange.started:
        exchange.end(context.dialect.error_event(error))
    else:
        await _send_error(deps, context, call, error)


def _settle(call: AdmittedCall) -> None:
    grant = call.grant
    grant.release()
    if not call.sent_body:  # nothing was sent: the gateway itself refused the request
        grant.refund()
    elif call.upstream_response is None:
        grant.refund_tokens()
    elif call.tokens is not None:
        grant.settle(call.tokens)
    elif call.context.status >= 400:  # noqa: PLR2004 - an error of the upstream, which made no tokens
        grant.refund_tokens()


def _count(deps: Dependencies, context: RequestContext, call: AdmittedCall | None) -> None:
    stats, model = deps.stats, context.model
    if context.error == "client_closed":
        stats.client_disconnects += 1
    stats.requests[model, context.route.endpoint, context.status or CLIENT_CLOSED] += 1
    if call is not None and call.upstream_response is not None:
        stats.duration[model].add(time.monotonic() - context.started_s)
        if call.first_byte_ns:
            stats.time_to_first_byte[model].add((call.first_byte_ns - context.started_ns) / 1e9)
        if call.tokens:
            stats.tokens[model] += call.tokens
