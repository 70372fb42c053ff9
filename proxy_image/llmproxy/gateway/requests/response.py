"""From the head of an upstream's answer to the last byte that the caller gets, plain or as a stream.

The last byte of a rollout's call is held until its spans are stored, at most ackWait: trainers read spans the moment
a rollout succeeds.
"""

import time
from collections.abc import Awaitable
from typing import Final, cast

import msgspec

from llmproxy.gateway.adapters.base import Stream
from llmproxy.gateway.adapters.request_body import Asked
from llmproxy.gateway.errors import CallError, Header
from llmproxy.gateway.http.client import UpstreamFailure
from llmproxy.gateway.http.exchange import JSON
from llmproxy.gateway.requests.attempts import Opened, Trying
from llmproxy.gateway.requests.context import MAX_RECORDED, Call, Parts
from llmproxy.gateway.shipping.shipper_client import Handover
from llmproxy.protocols.passthrough import EventTooLargeError

MAX_ANSWER: Final = 256 << 20
"""Bytes of a plain answer; embeddings of many texts are large."""
SSE: Final[Header] = (b"content-type", b"text/event-stream; charset=utf-8")
_ERRORS: Final = 300
"""Statuses from here on are no answers of a model; what comes with them may end as it likes."""
_PASSED: Final = frozenset({b"retry-after", b"retry-after-ms", b"x-should-retry", b"x-request-id", b"request-id"})
_LIMIT: Final = b"ratelimit"
_OURS: Final = 6
"""Lines that say our own limits of both sorts, requests and tokens."""


async def forward(parts: Parts, call: Call, opened: Opened) -> None:
    """Answer the caller with what the upstream says; raise CallError if that breaks off before the first byte."""
    call.status = opened.status
    kind = opened.headers.get(b"content-type", b"")
    if kind.startswith(b"text/event-stream"):
        await _stream(parts, call, opened)
        return
    body = opened.connection.whole()
    if body is None:
        try:
            body = await opened.connection.read_all(MAX_ANSWER)
        except UpstreamFailure as failure:
            raise _broken(call, opened, failure) from failure
    if opened.status < _ERRORS and opened.connection.ends_by_closing() and _is_cut(kind, body):
        raise _broken(call, opened, UpstreamFailure("incomplete"))
    opened.settle()
    call.first_byte_ns = time.time_ns()
    call.response.append(body)
    answered = opened.exchange.answer(cast("Asked", call.asked), opened.status, body)
    call.tokens = answered.tokens
    if opened.status >= _ERRORS:
        call.error = f"http_{opened.status}"
    if call.call_id:
        if _is_held(parts, call) or _finds_no_room(parts):
            await hold(parts, call)
        else:
            tell(parts, call)
    headers = _headers(parts, call, opened)
    headers.append((b"content-type", kind) if kind and not answered.mapped else JSON)
    call.caller.answer(opened.status, answered.body, headers)


async def hold(parts: Parts, call: Call) -> None:
    """Hand the call over as soon as there is room, and wait until its spans are stored: at most ackWait."""
    if call.call_id and _finds_no_room(parts):
        await cast("Handover", parts.handover).room()
    tell(parts, call)
    if _is_held(parts, call):
        await cast("Handover", parts.handover).stored(call.call_id, parts.holds_s)


def _finds_no_room(parts: Parts) -> bool:
    return parts.handover is not None and parts.handover.is_full


def _is_held(parts: Parts, call: Call) -> bool:
    return parts.holds_s > 0 and bool(call.call_id and call.route.rollout_id)


def tell(parts: Parts, call: Call) -> None:
    """Hand the call to the shipper, once, if it makes a span."""
    if call.call_id and not call.told and parts.handover is not None:
        call.told = True
        parts.handover.ended(call.record())


async def _stream(parts: Parts, call: Call, opened: Opened) -> None:
    caller = call.caller
    stream = opened.exchange.stream(cast("Asked", call.asked))
    headers = [SSE, *_headers(parts, call, opened)]
    copy = _Copy(call, stream, opened.status, headers)
    held = copy.held
    broken: CallError | None = None
    try:
        await opened.connection.pour(copy.part)
    except EventTooLargeError:
        broken = _broken(call, opened, UpstreamFailure("protocol", "an event without an end"))
    except UpstreamFailure as failure:
        if not stream.done:
            broken = _broken(call, opened, failure)
    if broken is None:
        held.append(stream.rest())
        if not stream.done and opened.status < _ERRORS:
            broken = _broken(call, opened, UpstreamFailure("incomplete"))
    if stream.failed:
        call.error = call.error or "upstream_error"
        parts.counts.streams_broken += 1
    opened.settle("error" if stream.failed else "")
    call.tokens = stream.tokens
    if broken is not None:
        if not caller.started:
            raise broken
        parts.counts.streams_broken += 1
        held.append(caller.dialect.error_event(broken))  # never a silent end
    elif not caller.started:
        caller.start(opened.status, headers)
    await hold(parts, call)
    caller.end(b"".join(held))


class _Copy:
    """Forwards the parts of one stream as they come."""

    __slots__ = ("_call", "_headers", "_recorded", "_status", "_stream", "held")

    def __init__(self, call: Call, stream: Stream, status: int, headers: list[Header]) -> None:
        self._call = call
        self._stream = stream
        self._status = status
        self._headers = headers
        self._recorded = 0
        self.held: list[bytes] = []
        """What is to wait for the record of the call."""

    def part(self, data: bytes) -> Awaitable[None] | None:
        """Forward a part; return what to wait for before the next one, if the caller is slow."""
        call = self._call
        if not call.first_byte_ns:
            call.first_byte_ns = time.time_ns()
            call.caller.start(self._status, self._headers)
        if self._recorded < MAX_RECORDED:
            call.response.append(data)
            self._recorded += len(data)
        now, later = self._stream.feed(data)
        if later:
            self.held.append(later)
        return call.caller.part(now) if now else None


def _is_cut(kind: bytes, body: bytes) -> bool:
    """Whether a *body* that may end anywhere is JSON by its *kind* and not whole."""
    if kind and b"json" not in kind:
        return False
    try:
        msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return True
    return False


def _broken(call: Call, opened: Opened, failure: UpstreamFailure) -> CallError:
    call.error = f"upstream_{failure.code}"
    opened.settle(failure.code)
    return cast("Trying", call.trying).broken(opened.target, failure)


def _headers(parts: Parts, call: Call, opened: Opened) -> list[Header]:
    headers = call.caller.dialect.limits(parts.limiter, cast("Asked", call.asked).model)
    theirs = opened.headers
    if not headers:
        headers = [(name, value) for name, value in theirs.items() if _LIMIT in name]
    elif len(headers) < _OURS:  # of the sort that is limited here, the upstream's own would contradict
        sort = b"tokens" if b"tokens" in headers[0][0] else b"requests"
        headers += [(name, value) for name, value in theirs.items() if _LIMIT in name and sort not in name]
    if not _PASSED.isdisjoint(theirs):
        headers.extend((name, theirs[name]) for name in _PASSED if name in theirs)
    return headers
