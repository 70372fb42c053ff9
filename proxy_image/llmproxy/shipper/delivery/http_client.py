"""HTTP client for a store or a collector: no redirects, bounded answers, and a verdict with a reason and advice.

A status of 2xx is not enough to call a batch delivered: a login page behind a redirect and the default backend of an
ingress answer 200 as well. `verdict` looks at the answer itself.
"""

import asyncio
import zlib
from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple, Self
from urllib.parse import urlsplit

import aiohttp
import msgspec
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from yarl import URL

CONNECT_S = 2.0
POST_S = 20.0
"""Timeout of a batch; a receiver that hangs longer counts as unavailable."""
CONNECTIONS = 64
MAX_POST_ANSWER = 64 << 10
"""Bytes of an answer to a batch, which is empty or a few fields."""
PROTOBUF = {"Content-Type": "application/x-protobuf", "Accept-Encoding": "identity"}


class Outcome(Enum):
    """Outcome of the delivery of a batch."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    """Something in the batch may be at fault; a smaller batch tells more."""
    DROPPED = "dropped"
    """The receiver took the batch, dropped all of it, and must not be sent it again."""
    UNAVAILABLE = "unavailable"
    """The receiver is away or broken; the batch is not at fault."""


class DeliveryResult(NamedTuple):
    """Outcome of a batch with a short reason and advice, free of any content of calls."""

    outcome: Outcome
    reason: str
    advice: str = ""
    """Way out, for a person; empty if the reason says it all."""
    rejected_spans: int = 0
    """Spans that an accepted batch lost, by the receiver's count."""


class ReceiverError(Exception):
    """Failed request; the message is a short reason."""

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.advice = advice


class Answer(NamedTuple):
    """Answer of a receiver, its body decoded and bounded."""

    status: int
    content_type: str
    location: str
    body: bytes


class HttpClient:
    """Client of one address. Use as an asynchronous context manager."""

    def __init__(self, base_url: str, setting: str) -> None:
        """*setting* is the field of the spec that holds *base_url*, for advice."""
        self.base_url = base_url.rstrip("/")
        self.setting = setting
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # Servers of Python close an idle connection after 5 s: never send on one that is about to be.
        connector = aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=3.0)
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def request(
        self, method: str, path: str, data: bytes, headers: Mapping[str, str], *, timeout_s: float, max_answer: int
    ) -> Answer:
        """Return the answer of a request; *path* is sent as it is. Raise ReceiverError."""
        if self._session is None:
            raise RuntimeError(f"{type(self).__name__} is used as a context manager")
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_S)
        url = URL(self.base_url + path, encoded=True)
        try:
            async with self._session.request(
                method, url, data=data, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                body = await _read(response, max_answer)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as exc:
            raise ReceiverError(_transport_reason(exc)) from exc
        if body is None:
            advice = f"its answer is larger than {max_answer} bytes: check that {self.setting} is the right address"
            raise ReceiverError("answer_too_large", advice)
        return Answer(response.status, response.content_type, response.headers.get("location", ""), body)

    async def post_batch(
        self, path: str, batch: bytes, headers: Mapping[str, str], faults: set[int], *, strict: bool
    ) -> DeliveryResult:
        """Deliver a serialized ExportTraceServiceRequest; *faults* are the statuses that blame the batch.

        With *strict* only an answer of OTLP is a success; without it any that is no web page.
        """
        try:
            answer = await self.request("POST", path, batch, headers, timeout_s=POST_S, max_answer=MAX_POST_ANSWER)
        except ReceiverError as exc:
            return DeliveryResult(Outcome.UNAVAILABLE, str(exc), exc.advice)
        return verdict(answer, self.setting, faults, strict=strict)


def verdict(answer: Answer, setting: str, faults: set[int], *, strict: bool) -> DeliveryResult:
    """Return the outcome of a batch by the receiver's *answer*."""
    if not is_success(answer.status):
        outcome = Outcome.REFUSED if answer.status in faults else Outcome.UNAVAILABLE
        return DeliveryResult(outcome, f"http_{answer.status}", status_advice(answer, setting))
    if is_html(answer):
        return DeliveryResult(Outcome.UNAVAILABLE, "html_answer", html_advice(setting))
    rejected = rejected_spans(answer.body)
    if rejected is None and strict:
        advice = f"its answer is not OTLP: check that {setting} is the right address"
        return DeliveryResult(Outcome.UNAVAILABLE, "unexpected_answer", advice)
    return DeliveryResult(Outcome.ACCEPTED, f"http_{answer.status}", rejected_spans=rejected or 0)


def rejected_spans(answer: bytes) -> int | None:
    """Return the number of spans that a receiver reports as rejected, None if *answer* is not OTLP's."""
    try:
        if answer[:1] == b"{":
            return max(0, msgspec.json.decode(answer, type=_JsonResponse, strict=False).partialSuccess.rejectedSpans)
        count: int = ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans
    except (DecodeError, msgspec.MsgspecError):
        return None
    return max(0, count)


class _PartialSuccess(msgspec.Struct):
    rejectedSpans: int = 0  # noqa: N815 - OTLP's name


class _JsonResponse(msgspec.Struct):
    """ExportTraceServiceResponse in JSON, which some receivers write whatever they were sent."""

    partialSuccess: _PartialSuccess = msgspec.field(default_factory=_PartialSuccess)  # noqa: N815 - OTLP's name


def is_success(status: int) -> bool:
    """Return True for a status of class 2xx."""
    return 200 <= status < 300  # noqa: PLR2004 - the class of successes


def status_advice(answer: Answer, setting: str) -> str:
    """Return the way out of an answer that is no success, empty if its status says it all."""
    if 300 <= answer.status < 400:  # noqa: PLR2004 - the class of redirects
        return (
            f"redirects to {_without_secrets(answer.location)} are not followed: name the address itself in {setting}"
        )
    if answer.status in {401, 403}:
        return f"the address in {setting} or what stands before it rejects the credentials"
    if answer.status in {404, 405}:
        return f"no such endpoint: {setting} is the base address, to which /v1/... is added"
    return ""


def decode_json(answer: Answer, setting: str) -> object:
    """Return the JSON value of a successful *answer*; raise ReceiverError."""
    if not is_success(answer.status):
        raise ReceiverError(f"http_{answer.status}", status_advice(answer, setting))
    if is_html(answer):
        raise ReceiverError("html_answer", html_advice(setting))
    try:
        value: object = msgspec.json.decode(answer.body)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise ReceiverError("unexpected_answer", f"its answer is not JSON: check {setting}") from exc
    return value


def is_html(answer: Answer) -> bool:
    """Return True for a web page, whatever it calls itself: neither OTLP nor JSON begins with `<`."""
    return answer.content_type == "text/html" or answer.body.lstrip()[:1] == b"<"


def html_advice(setting: str) -> str:
    """Return the way out of a web page where a receiver should be."""
    return f"a web page answers, such as a login or a default backend: {setting} must reach the receiver itself"


def _without_secrets(location: str) -> str:
    """Return scheme, host and path of a redirect; its query may hold a token."""
    try:
        parts = urlsplit(location)
        host = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}" if parts.hostname else ""
    except ValueError:
        return "another address"
    text = f"{host}{parts.path}"[:200]
    return text if text.isprintable() and text else "another address"


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes | None:
    """Return the decoded body, None if it has more than *max_bytes*. Raise ReceiverError for an unknown coding."""
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > max_bytes:
            response.close()
            return None
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding == "identity" or not data:
        return bytes(data)
    if coding not in {"gzip", "x-gzip", "deflate"}:
        raise ReceiverError("content_encoding", "its answer is coded, though identity was asked for")
    try:  # 32 more than a window's size: the header says whether it is gzip or zlib
        body = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(bytes(data), max_bytes + 1)
    except zlib.error as exc:
        raise ReceiverError("content_encoding", "its answer is not the gzip that it says") from exc
    return body if len(body) <= max_bytes else None


def _transport_reason(exc: BaseException) -> str:
    """Return a short code for a transport failure."""
    if isinstance(exc, (TimeoutError, asyncio.TimeoutError)):
        return "timeout"
    if isinstance(exc, aiohttp.ClientConnectorError):
        return "connect"
    if isinstance(exc, aiohttp.ServerDisconnectedError):
        return "closed"
    return type(exc).__name__
