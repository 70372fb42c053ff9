"""Fallback: after the last attempt of a model, another model that the proxy names answers in its place.

A call that falls back is a request of both models' limits and one of the proxy's: it gives the slot and tokens of the
first one back, since nothing runs there any more, and is admitted to the other, at once or not at all. An error that
ends the retries ends the fallbacks too: it is passed on. A model without the endpoint, or over a limit, is skipped.
"""

from llmproxy.gateway.errors import CallError, UpstreamError, UpstreamTimeoutError
from llmproxy.gateway.limits import Grant, Rejection
from llmproxy.gateway.requests.attempts import Attempts
from llmproxy.gateway.requests.context import AdmittedCall, Dependencies
from llmproxy.gateway.requests.early_failure import AnswerFailedError
from llmproxy.gateway.requests.retry_policy import is_retried
from llmproxy.gateway.requests.token_bound import bound_tokens
from llmproxy.gateway.requests.upstream_response import UpstreamResponse


async def open_response(deps: Dependencies, call: AdmittedCall) -> UpstreamResponse:
    """Return the response to pass on; raise CallError when no model gave one."""
    model = call.context.model
    fallbacks = deps.fallbacks.get(model)
    if fallbacks is None:
        return await Attempts(deps, call, model).open()
    outcome = await _attempt(deps, call, model)
    for name in fallbacks:
        if isinstance(outcome, UpstreamResponse) and not is_retried(outcome.status):
            return outcome
        if not deps.serving[name, call.context.route.endpoint] or not await _admit(deps, call, name):
            continue
        if isinstance(outcome, UpstreamResponse):
            outcome.release()
        deps.stats.fallbacks[model, name] += 1
        outcome = await _attempt(deps, call, name)
    if isinstance(outcome, UpstreamResponse):
        return outcome
    raise outcome


async def _attempt(deps: Dependencies, call: AdmittedCall, model: str) -> UpstreamResponse | CallError:
    try:
        return await Attempts(deps, call, model).open()
    except AnswerFailedError as error:
        if not error.is_retried:
            raise
        return error
    except (UpstreamError, UpstreamTimeoutError) as error:
        return error


async def _admit(deps: Dependencies, call: AdmittedCall, model: str) -> bool:
    """Return True when the limits admit *model*; the unused part of the grant before it is given back."""
    call.grant.refund_tokens()
    call.grant.release()
    body_bytes = len(call.context.exchange.request.body)
    tokens = bound_tokens(call.request, call.context.route.endpoint, body_bytes, deps.output_tokens[model])
    decision = deps.limiter.admit(model, tokens, queue=False, is_fallback=True)
    if not isinstance(decision, Grant | Rejection):
        decision = await decision
    if isinstance(decision, Rejection):
        deps.stats.rejections[model, decision.kind, decision.scope] += 1
        return False
    call.grant = decision
    return True
