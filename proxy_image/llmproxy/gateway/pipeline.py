"""The whole life of one call, top to bottom: read, admit, tell, try, answer, settle, hand over."""

import random
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import cast

from llmproxy import calls
from llmproxy.contract import Document
from llmproxy.gateway.balance import Balancer
from llmproxy.gateway.body import Asked, read_body
from llmproxy.gateway.caller import Caller, CallerGoneError
from llmproxy.gateway.errors import CallError, Header, OverLimitError, UnknownModelError, error_body, retry_after
from llmproxy.gateway.handover import Handover
from llmproxy.gateway.limits import Denial, Grant, Limiter
from llmproxy.gateway.metrics import Counts
from llmproxy.gateway.routes import Route
from llmproxy.gateway.streaming import EventTooLargeError, Relay, answer_tokens
from llmproxy.gateway.tries import Opened, Trying
from llmproxy.gateway.upstream import UpstreamFailure

MAX_BODY = 32 << 20
"""Bytes of a request's body: images in base64 are large, gigabytes are an attack."""
MAX_ANSWER = 256 << 20
"""Bytes of a plain answer; embeddings of many texts are large."""
DEFAULT_OUTPUT_TOKENS = 4096
"""Charged against tpm per choice when neither the request nor the deployment's params bound the answer."""
MAX_RECORDED = 32 << 20
"""Bytes of an answer that are kept for the span; a longer one is cut there."""
_PASSED = (b"retry-after", b"retry-after-ms", b"x-request-id", b"request-id")
JSON: Header = (b"content-type", b"application/json")
SSE: Header = (b"content-type", b"text/event-stream; charset=utf-8")


@dataclass
class Parts:
    """Everything a call passes through; built once, in `__main__`."""

    document: Document
    balancers: Mapping[str, Balancer]
    output_tokens: Mapping[str, int]
    """Bound of an answer's tokens per choice, by model."""
    limiter: Limiter
    handover: Handover | None
    counts: Counts
    rand: random.Random = field(default_factory=random.Random)


@dataclass
class Call:
    """One call on its way."""

    route: Route
    caller: Caller
    started_ns: int
    started_s: float
    call_id: int = 0
    asked: Asked | None = None
    trying: Trying | None = None
    opened: Opened | None = None
    first_byte_ns: int = 0
    status: int = 0
    error: str = ""
    tokens: int | None = None
    response: list[bytes] = field(default_factory=list)
    told: bool = False


async def serve(parts: Parts, route: Route, caller: Caller) -> None:
    """Answer one call."""
    call = Call(route, caller, time.time_ns(), time.monotonic())
    counts = parts.counts
    grant: Grant | None = None
    counts.in_flight += 1
    try:
        body = await caller.body(MAX_BODY)
        asked = call.asked = read_body(body, route.model)
        balancer = _find(parts, asked.model)
        caller.watch()
        grant = await _admit(parts, call, len(body))
        _arrived(parts, call)
        call.trying = Trying(
            route.endpoint,
            route.rollout_id,
            asked,
            want_usage=parts.handover is not None or _counts_tokens(parts, asked.model),
            balancer=balancer,
            caller=caller,
            counts=counts,
            retries=parts.document.retries,
            rand=parts.rand,
        )
        opened = call.opened = await call.trying.open()
        try:
            await _answer(parts, call, opened)
        finally:
            caller.on_gone = None
            opened.connection.release()
    except CallError as error:
        await _refuse(parts, call, error)
    except (CallerGoneError, UpstreamFailure):
        call.error = call.error or "client_closed"
        counts.client_gone += 1
    finally:
        caller.unwatch()
        counts.in_flight -= 1
        if grant is not None:
            _settle(call, grant)
        _told(parts, call)
        _count(parts, call)


def _find(parts: Parts, model: str) -> Balancer:
    balancer = parts.balancers.get(model)
    if balancer is None:
        known = ", ".join(sorted(parts.balancers))
        raise UnknownModelError(f"model {model!r} is not served here; there is {known}", param="model")
    return balancer


def _counts_tokens(parts: Parts, model: str) -> bool:
    return parts.limiter.counts_tokens(model)


async def _admit(parts: Parts, call: Call, body_bytes: int) -> Grant:
    asked = cast("Asked", call.asked)
    per_choice = asked.max_tokens if asked.max_tokens is not None else parts.output_tokens[asked.model]
    decision: Grant | Denial | Awaitable[Grant | Denial] = parts.limiter.admit(
        asked.model, body_bytes + asked.choices * per_choice
    )
    if not isinstance(decision, (Grant, Denial)):
        decision = await decision
    if isinstance(decision, Denial):
        parts.counts.rejected[asked.model, decision.kind, decision.scope] += 1
        raise OverLimitError(decision.message, headers=retry_after(decision.retry_after_s))
    return decision


def _arrived(parts: Parts, call: Call) -> None:
    route = call.route
    if parts.handover is None or not route.rollout_id:
        parts.counts.without_rollout += not route.rollout_id
        return
    call.call_id = parts.handover.new_id()
    if not route.sequence_id:
        parts.handover.arrived(calls.Arrival(call.call_id, route.rollout_id, route.attempt_id, call.started_ns))


async def _answer(parts: Parts, call: Call, opened: Opened) -> None:
    call.status = opened.status
    caller = call.caller
    caller.on_gone = opened.connection.cancel
    headers = _headers(parts, call, opened)
    kind = opened.headers.get(b"content-type", b"")
    if kind.startswith(b"text/event-stream"):
        await _stream(parts, call, opened, headers)
        return
    try:
        body = await opened.connection.read_all(MAX_ANSWER)
    except UpstreamFailure as failure:
        raise _broken(call, opened, failure) from failure
    call.first_byte_ns = time.time_ns()
    call.response.append(body)
    if opened.status < 300:  # noqa: PLR2004 - an answer, not an error
        call.tokens = answer_tokens(body)
    else:
        call.error = f"http_{opened.status}"
    await _hold(parts, call)
    await caller.answer(opened.status, body, [(b"content-type", kind or JSON[1]), *headers])


async def _stream(parts: Parts, call: Call, opened: Opened, headers: list[Header]) -> None:
    asked = cast("Asked", call.asked)
    caller, connection = call.caller, opened.connection
    relay = Relay(hide_usage=not asked.usage_asked)
    held: list[bytes] = []
    recorded = 0
    failure: UpstreamFailure | None = None
    try:
        while data := await connection.read():
            if not call.first_byte_ns:
                call.first_byte_ns = time.time_ns()
                await caller.start(opened.status, [SSE, *headers])
            if recorded < MAX_RECORDED:
                call.response.append(data)
                recorded += len(data)
            now, later = relay.feed(data)
            if now:
                await caller.part(now)
            if later:
                held.append(later)
            if caller.gone:
                raise CallerGoneError
    except EventTooLargeError:
        failure = UpstreamFailure("protocol", "an event without an end")
        connection.cancel()
    except UpstreamFailure as exc:
        failure = exc
    if not caller.started and failure is None:
        await caller.start(opened.status, [SSE, *headers])
    call.tokens = relay.tokens
    held.append(relay.rest())
    if failure is not None and not relay.done:
        last = _last_event(parts, call, opened, failure)
        if not caller.started:
            raise _broken(call, opened, failure)
        held.append(last)
    await _hold(parts, call)
    await caller.end(b"".join(held))


def _last_event(parts: Parts, call: Call, opened: Opened, failure: UpstreamFailure) -> bytes:
    """Return the error event that a stream ends with whose upstream broke off: never a silent end."""
    if failure.code == "cancelled":
        raise CallerGoneError
    parts.counts.streams_broken += 1
    call.error = f"upstream_{failure.code}"
    error = _broken(call, opened, failure)
    return b"data: " + error_body(error.message, error.type, error.code) + b"\n\n"


def _broken(call: Call, opened: Opened, failure: UpstreamFailure) -> CallError:
    if failure.code == "cancelled":
        raise CallerGoneError
    trying = cast("Trying", call.trying)
    call.error = f"upstream_{failure.code}"
    return trying.broken(opened.target, failure)


async def _hold(parts: Parts, call: Call) -> None:
    """Hand the call over now, and keep its last byte until its spans are stored: at most ackWait."""
    _told(parts, call)
    spans = parts.document.spans
    if call.call_id and parts.handover is not None and spans is not None and spans.ack_wait_s > 0:
        await parts.handover.stored(call.call_id, spans.ack_wait_s)


def _headers(parts: Parts, call: Call, opened: Opened) -> list[Header]:
    headers: list[Header] = []
    ours = parts.limiter.headers(cast("Asked", call.asked).model)
    for name in _PASSED:
        value = opened.headers.get(name)
        if value is not None:
            headers.append((name, value))
    if ours:
        headers.extend(ours)
    else:
        headers.extend((n, v) for n, v in opened.headers.items() if n.startswith(b"x-ratelimit-"))
    return headers


async def _refuse(parts: Parts, call: Call, error: CallError) -> None:
    caller = call.caller
    call.status = error.status
    call.error = call.error or error.code
    if caller.started:
        await caller.end()
        return
    await _hold(parts, call)
    headers = list(parts.limiter.headers(call.asked.model)) if isinstance(error, OverLimitError) and call.asked else []
    await caller.refuse(error, headers)


def _settle(call: Call, grant: Grant) -> None:
    grant.release()
    if call.opened is None:
        grant.refund_tokens()
    elif call.tokens is not None:
        grant.settle(call.tokens)
    elif call.status >= 400:  # noqa: PLR2004 - the upstream refused: no tokens were made
        grant.refund_tokens()


def _told(parts: Parts, call: Call) -> None:
    """Hand the call to the shipper, once."""
    if call.told or not call.call_id or parts.handover is None or call.asked is None:
        return
    call.told = True
    trying, opened, route = call.trying, call.opened, call.route
    target = opened.target if opened is not None else None
    if call.caller.gone and not call.error:
        call.error = "client_closed"
    parts.handover.ended(
        calls.Call(
            call_id=call.call_id,
            rollout_id=route.rollout_id,
            attempt_id=route.attempt_id,
            sequence_id=route.sequence_id,
            route=route.endpoint,
            model=call.asked.model,
            provider=target.provider if target else "",
            upstream_model=target.upstream_model if target else "",
            started_ns=call.started_ns,
            first_byte_ns=call.first_byte_ns,
            ended_ns=time.time_ns(),
            status=call.status,
            error=call.error,
            streamed=call.asked.stream,
            request=trying.sent if trying is not None else b"",
            response=call.response[0] if len(call.response) == 1 else b"".join(call.response),
            tries=trying.tries if trying is not None else [],
        )
    )


def _count(parts: Parts, call: Call) -> None:
    counts = parts.counts
    model = call.asked.model if call.asked is not None and call.asked.model in parts.balancers else ""
    counts.requests[model, call.route.endpoint, call.status or 499] += 1
    if call.opened is not None:
        counts.duration[model].add(time.monotonic() - call.started_s)
        if call.first_byte_ns:
            counts.first_byte[model].add((call.first_byte_ns - call.started_ns) / 1e9)
        if call.tokens:
            counts.tokens[model] += call.tokens

