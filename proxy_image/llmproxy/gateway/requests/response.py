"""Response to the client, from the head of the upstream's to the last byte, whole or as a stream.

The last byte of a rollout's call is held until its spans are stored, at most ackWait: trainers read spans the moment
a rollout succeeds.
"""

import re
import time
from collections.abc import Awaitable
from typing import Final

import msgspec

from llmproxy.gateway.adapters.base import ERRORS, Stream
from llmproxy.gateway.errors import MAX_RETRY_AFTER_S, CallError, Header, OverloadedError, retry_after
from llmproxy.gateway.http.client import ClientConnection, UpstreamFailure
from llmproxy.gateway.http.content_coding import CodingError, Decoder, coding_of
from llmproxy.gateway.http.exchange import JSON, ByteBudget
from llmproxy.gateway.requests.attempts import upstream_error
from llmproxy.gateway.requests.context import MAX_RECORDED, AdmittedCall, Dependencies
from llmproxy.gateway.requests.retry_policy import read_retry_after
from llmproxy.gateway.requests.upstream_response import UpstreamResponse
from llmproxy.protocols.sse import EventTooLargeError

MAX_RESPONSE: Final = 256 << 20
"""Bytes of a whole response; embeddings of many texts are large."""
MAX_PARTS: Final = 16
"""Parts of 1 MiB that a received part of a coded stream may have."""
SSE: Final[Header] = (b"content-type", b"text/event-stream; charset=utf-8")
_PASSED_ON: Final = frozenset({b"x-should-retry", b"x-request-id", b"request-id"})
_RETRY_AFTER: Final = (b"retry-after", b"retry-after-ms")
_RATE_LIMIT: Final = re.compile(rb"(?:x-|anthropic-)?ratelimit-[a-z0-9-]{1,64}")
_LIMIT: Final = b"ratelimit"
_BOTH_SORTS: Final = 6
"""Header lines of our own limits of both sorts, requests and tokens."""


async def send_response(deps: Dependencies, call: AdmittedCall, response: UpstreamResponse) -> None:
    """Pass the upstream's response to the client; raise CallError if it breaks off before the first byte."""
    context, connection = call.context, response.connection
    context.status = response.status
    content_type = response.headers.get(b"content-type", b"")
    if content_type[:17].lower() == b"text/event-stream":
        await _send_stream(deps, call, response)
        return
    body = response.body if response.body is not None else connection.whole()
    if body is None:
        try:
            body = await _read_all(deps, call, connection)
        except UpstreamFailure as failure:
            raise _broken(deps, call, response, failure) from failure
    if b"content-encoding" in response.headers:
        try:
            body = _decode(deps, call, response, body)
        except UpstreamFailure as failure:
            raise _broken(deps, call, response, failure) from failure
    if response.status < ERRORS and connection.ends_by_closing() and _is_cut(content_type, body):
        raise _broken(deps, call, response, UpstreamFailure("incomplete"))
    response.settle()
    call.first_byte_ns = time.time_ns()
    call.response_parts.append(body)
    result = response.adapter.response(call.request, response.status, body)
    call.tokens = result.tokens
    if response.status >= ERRORS:
        context.error = f"http_{response.status}"
    if call.call_id:
        if _is_held(deps, call) or (deps.shipper is not None and deps.shipper.is_full):
            await hold(deps, call)
        else:
            record(deps, call)
    headers = _headers(deps, call, response)
    headers.append((b"content-type", content_type) if content_type and not result.mapped else JSON)
    context.exchange.respond(response.status, result.body, headers)


async def _read_all(deps: Dependencies, call: AdmittedCall, connection: ClientConnection) -> bytes:
    """Return the whole body; raise OverloadedError when there is no memory for it, and UpstreamFailure."""
    parts: list[bytes] = []
    size = 0
    while part := await connection.read():
        size += len(part)
        if size > MAX_RESPONSE:
            raise UpstreamFailure("protocol", f"a response of more than {MAX_RESPONSE} bytes")
        if not deps.budget.take(len(part)):
            raise OverloadedError
        call.charged += len(part)
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _decoder(response: UpstreamResponse) -> Decoder | None:
    """Return a decoder for a response that is coded though only identity is accepted; raise UpstreamFailure."""
    value = response.headers.get(b"content-encoding", b"")
    coding = coding_of(value)
    if coding is None:
        raise UpstreamFailure("protocol", f"unasked content-encoding {value.decode('latin-1')[:100]!r}")
    return Decoder(coding) if coding else None


def _decode(deps: Dependencies, call: AdmittedCall, response: UpstreamResponse, body: bytes) -> bytes:
    """Return the body without its content coding; raise UpstreamFailure, or OverloadedError."""
    decoder = _decoder(response)
    if decoder is None or not body:
        return body
    parts: list[bytes] = []
    try:
        for part in decoder.feed(body):
            if not deps.budget.take(len(part)):
                raise OverloadedError
            call.charged += len(part)
            parts.append(part)
        decoder.finish()
    except CodingError as exc:
        raise UpstreamFailure("protocol", str(exc)) from exc
    return b"".join(parts)


async def hold(deps: Dependencies, call: AdmittedCall) -> None:
    """Record the call as soon as the shipper has room, and wait until its spans are stored: at most ackWait."""
    shipper = deps.shipper
    if shipper is None or not call.call_id:
        return
    if shipper.is_full:
        await shipper.room()
    record(deps, call)
    if _is_held(deps, call):
        await shipper.stored(call.call_id, deps.ack_wait_s)


def _is_held(deps: Dependencies, call: AdmittedCall) -> bool:
    return deps.ack_wait_s > 0 and bool(call.call_id and call.context.route.rollout_id)


def record(deps: Dependencies, call: AdmittedCall) -> None:
    """Send the record of the call to the shipper, once, if it makes a span."""
    if call.call_id and not call.recorded and deps.shipper is not None:
        call.recorded = True
        deps.shipper.send_record(call.record())


async def _send_stream(deps: Dependencies, call: AdmittedCall, response: UpstreamResponse) -> None:
    context = call.context
    exchange = context.exchange
    stream = response.adapter.stream(call.request)
    headers = [SSE, *_headers(deps, call, response)]
    sender = _StreamSender(deps.budget, call, stream, response.status, headers)
    held = sender.held
    error: CallError | None = None
    try:
        sender.decoder = _decoder(response)
        await sender.send(response)
    except EventTooLargeError:
        error = _broken(deps, call, response, UpstreamFailure("protocol", "an event without an end"))
    except UpstreamFailure as failure:
        if not stream.done:
            error = _broken(deps, call, response, failure)
    if error is None:
        held.append(stream.rest())
        if not stream.done and response.status < ERRORS:
            error = _broken(deps, call, response, UpstreamFailure("incomplete"))
    if stream.failed:
        context.error = context.error or "upstream_error"
        deps.stats.stream_errors += 1
    response.settle("error" if stream.failed else "")
    call.tokens = stream.tokens
    if error is not None:
        if not exchange.started:
            raise error
        deps.stats.stream_errors += 1
        held.append(context.dialect.error_event(error))  # never a silent end
    elif not exchange.started:
        exchange.start(response.status, headers)
    await hold(deps, call)
    exchange.end(b"".join(held))


class _StreamSender:
    """Sends the parts of one stream as they come."""

    __slots__ = (
        "_budget",
        "_call",
        "_exchange",
        "_headers",
        "_recorded_bytes",
        "_status",
        "_stream",
        "decoder",
        "held",
    )

    def __init__(
        self, budget: ByteBudget, call: AdmittedCall, stream: Stream, status: int, headers: list[Header]
    ) -> None:
        self._budget = budget
        self._call = call
        self._exchange = call.context.exchange
        self._stream = stream
        self._status = status
        self._headers = headers
        self._recorded_bytes = 0
        self.decoder: Decoder | None = None
        self.held: list[bytes] = []
        """Bytes that wait for the record of the call."""

    async def send(self, response: UpstreamResponse) -> None:
        """Send the whole stream; raise UpstreamFailure."""
        for data in response.prefix:
            blocked = self.part(data)
            if blocked is not None:
                await blocked
        await response.connection.pipe(self.part)

    def part(self, data: bytes) -> Awaitable[None] | None:
        """Send a part; return what to wait for before the next one, if the client is slow."""
        if self.decoder is not None:
            data = self._decode(self.decoder, data)
            if not data:
                return None
        call = self._call
        if not call.first_byte_ns:
            call.first_byte_ns = time.time_ns()
            self._exchange.start(self._status, self._headers)
        if self._recorded_bytes < MAX_RECORDED:
            size = len(data)
            if self._budget.take(size):
                call.charged += size
                call.response_parts.append(data)
                self._recorded_bytes += size
            else:
                self._recorded_bytes = MAX_RECORDED  # the record is cut here, the client's stream goes on
        now, later = self._stream.feed(data)
        if later:
            self.held.append(later)
        return self._exchange.part(now) if now else None

    def _decode(self, decoder: Decoder, data: bytes) -> bytes:
        parts: list[bytes] = []
        try:
            for part in decoder.feed(data):
                parts.append(part)
                if len(parts) > MAX_PARTS:
                    raise UpstreamFailure("protocol", "a part of a stream that is too large once decoded")
        except CodingError as exc:
            raise UpstreamFailure("protocol", str(exc)) from exc
        return b"".join(parts)


def _is_cut(content_type: bytes, body: bytes) -> bool:
    """Return True for JSON, by its *content_type*, that is not whole."""
    if content_type and b"json" not in content_type:
        return False
    try:
        msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return True
    return False


def _broken(deps: Dependencies, call: AdmittedCall, response: UpstreamResponse, failure: UpstreamFailure) -> CallError:
    call.context.error = f"upstream_{failure.code}"
    response.settle(failure.code)
    return upstream_error(deps, response.model, response.upstream, failure, response.attempts)


def _headers(deps: Dependencies, call: AdmittedCall, response: UpstreamResponse) -> list[Header]:
    headers = call.context.dialect.limits(deps.limiter, call.context.model)
    upstream_headers = response.headers
    if len(headers) < _BOTH_SORTS:  # the upstream's own of the sort that is limited here would contradict ours
        ours = b"" if not headers else b"tokens" if b"tokens" in headers[0][0] else b"requests"
        for name, value in upstream_headers.items():
            if _LIMIT in name and _RATE_LIMIT.fullmatch(name) and not (ours and ours in name):
                headers.append((name, value))
    if b"retry-after" in upstream_headers or b"retry-after-ms" in upstream_headers:
        headers.extend(_retry_after(upstream_headers))
    if not _PASSED_ON.isdisjoint(upstream_headers):
        headers.extend((name, upstream_headers[name]) for name in _PASSED_ON if name in upstream_headers)
    return headers


def _retry_after(headers: dict[bytes, bytes]) -> list[Header]:
    """Return the upstream's Retry-After: as it came, shortened if it is too long, none if it is invalid."""
    seconds = read_retry_after(headers, time.time())
    if seconds is None:
        return []
    if b" " in headers.get(b"retry-after", b""):  # a date, by a clock that may be wrong
        return list(retry_after(seconds)) if seconds else []
    if seconds > MAX_RETRY_AFTER_S:
        return list(retry_after(seconds))
    return [(name, headers[name]) for name in _RETRY_AFTER if name in headers]
