"""Who answers a call: the model that was asked for, or after its last try another that the proxy names for it.

A call that falls back is a request of both models' limits and one of the proxy's: it gives the first one's slot and
tokens back, since nothing runs there any more, and is admitted to the other, at once or not at all. What ends a call's
retries ends them here too: a refusal that no other try would heal is passed on, and a model that cannot be asked, or
has no room, is skipped.
"""

from typing import Final, cast

from llmproxy.gateway.adapters.request_body import Asked
from llmproxy.gateway.errors import CallError, UpstreamError, UpstreamTimeoutError
from llmproxy.gateway.http.routing import COUNT_TOKENS, Route
from llmproxy.gateway.limits import Grant, Rejection
from llmproxy.gateway.requests.attempts import Opened, Trying
from llmproxy.gateway.requests.context import Call, Parts
from llmproxy.gateway.requests.retry_policy import is_retried

_WITHOUT_OUTPUT: Final = frozenset({"embeddings", COUNT_TOKENS})


async def open_somewhere(parts: Parts, call: Call, asked: Asked) -> Opened:
    """Return the answer to pass on; raise CallError when no model gave one."""
    outcome: Opened | CallError | None = None
    for name in (asked.model, *parts.fallbacks.get(asked.model, ())):
        if outcome is not None:
            if not _failed(outcome):
                break
            if not parts.serving[name, call.route.endpoint] or not await _admitted(parts, call, asked, name):
                continue
            if isinstance(outcome, Opened):
                outcome.release()
            parts.counts.fallbacks[asked.model, name] += 1
        try:
            outcome = await _trying(parts, call, asked, name).open()
        except (UpstreamError, UpstreamTimeoutError) as error:
            outcome = error
    if isinstance(outcome, Opened):
        return outcome
    raise cast("CallError", outcome)


def bound_tokens(parts: Parts, route: Route, asked: Asked, model: str, body_bytes: int) -> int:
    """Return how many tokens a call may use at most, if *model* answers it."""
    tokens = 0 if route.endpoint == COUNT_TOKENS else body_bytes
    if route.endpoint not in _WITHOUT_OUTPUT:
        per_choice = asked.max_tokens if asked.max_tokens is not None else parts.output_tokens[model]
        tokens += asked.choices * per_choice
    return tokens


def _trying(parts: Parts, call: Call, asked: Asked, model: str) -> Trying:
    """Return the tries of one model, which are the call's from now on."""
    trying = call.trying = Trying(
        call.route,
        asked,
        model=model,
        want_usage=asked.stream and (parts.handover is not None or parts.limiter.counts_tokens(model)),
        balancer=parts.balancers[model],
        targets=parts.serving[model, call.route.endpoint],
        counts=parts.counts,
        retries=parts.document.retries,
        rand=parts.rand,
        before=call.trying.tries if call.trying is not None else [],
    )
    return trying


def _failed(outcome: Opened | CallError) -> bool:
    return isinstance(outcome, CallError) or is_retried(outcome.status)


async def _admitted(parts: Parts, call: Call, asked: Asked, model: str) -> bool:
    """Whether the limits let *model* answer; the grant of the model before is given back as far as it is unused."""
    if call.grant is not None:
        call.grant.refund_tokens()
        call.grant.release()
    tokens = bound_tokens(parts, call.route, asked, model, len(call.caller.request.body))
    decision = parts.limiter.admit(model, tokens, queue=False, is_fallback=True)
    if not isinstance(decision, Grant | Rejection):
        decision = await decision
    if isinstance(decision, Rejection):
        parts.counts.rejected[model, decision.kind, decision.scope] += 1
        return False
    call.grant = decision
    return True
