"""State of a request by its stages: what is known on arrival, and what after admission."""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from llmproxy import shipping_protocol
from llmproxy.contract import Document
from llmproxy.gateway.adapters.base import Dialect
from llmproxy.gateway.adapters.request_body import ModelRequest
from llmproxy.gateway.api_keys import ApiKeys
from llmproxy.gateway.http.exchange import ByteBudget, HttpExchange
from llmproxy.gateway.http.routing import Route
from llmproxy.gateway.limits import Grant, Limiter
from llmproxy.gateway.metrics import RequestStats
from llmproxy.gateway.requests.pause import Pause
from llmproxy.gateway.requests.upstream_response import UpstreamResponse
from llmproxy.gateway.shipping.shipper_client import ShipperClient
from llmproxy.gateway.upstreams.balancer import Balancer
from llmproxy.gateway.upstreams.deployments import Upstream
from llmproxy.gateway.upstreams.model_index import ModelIndex

TRACE_HEADERS: Final = frozenset({b"traceparent", b"tracestate", b"x-request-id"})
"""Headers of callers that always go to a model server: W3C trace context, and the id of the request."""
MAX_RECORDED: Final = 24 << 20
"""Bytes of a response in its record; a longer one is cut there. With the largest body it fits a frame."""


@dataclass
class Dependencies:
    """Parts of the gateway that all requests share; built once, in `process`."""

    document: Document
    models: ModelIndex
    balancers: Mapping[str, Balancer]
    """By model of the document, as everything by model here."""
    serving: Mapping[tuple[str, str], Sequence[Upstream]]
    """The deployments that have an endpoint, by model and endpoint."""
    output_tokens: Mapping[str, int]
    """Bound of the tokens of an answer, by model."""
    fallbacks: Mapping[str, Sequence[str]]
    """Models that answer in a model's place, by model."""
    limiter: Limiter
    shipper: ShipperClient | None
    stats: RequestStats
    budget: ByteBudget
    pause: Pause = field(default_factory=Pause)
    api_keys: ApiKeys | None = None
    """Without them everybody who reaches the port may call."""
    rand: random.Random = field(default_factory=random.Random)
    ack_wait_s: float = field(init=False)
    """Longest time in seconds that the last byte of a rollout's call waits for its spans."""
    forwarded: frozenset[bytes] = field(init=False)
    """Names of the callers' headers that go to model servers, in lower case."""

    def __post_init__(self) -> None:
        """Read the settings that every call needs."""
        self.forwarded = TRACE_HEADERS | {name.encode() for name in self.document.forward_headers or ()}
        spans = self.document.spans
        self.ack_wait_s = 0.0 if spans is None or self.shipper is None else spans.holds_s


class RequestContext:
    """A request to a model, from its arrival on."""

    __slots__ = ("dialect", "error", "exchange", "model", "route", "started_ns", "started_s", "status")

    def __init__(self, route: Route, dialect: Dialect, exchange: HttpExchange) -> None:
        self.route = route
        self.dialect = dialect
        self.exchange = exchange
        self.started_ns = time.time_ns()
        self.started_s = time.monotonic()
        self.model = ""
        """Model of the document, once the request's is known to be served: its name, an alias or a prefix."""
        self.status = 0
        """Status of the response, 0 before there is one."""
        self.error = ""
        """Code of the error that ended the request."""


class AdmittedCall:
    """A request that the limits have admitted."""

    __slots__ = (
        "call_id", "charged", "context", "endpoint", "first_byte_ns", "grant", "recorded", "request", "response_parts",
        "sent_body", "tokens", "tries", "upstream", "upstream_response",
    )  # fmt: skip

    def __init__(self, context: RequestContext, request: ModelRequest, grant: Grant) -> None:
        self.context = context
        self.request = request
        self.grant = grant
        """Of the model that is being attempted."""
        self.call_id = 0
        """0 for a call that makes no span."""
        self.tries: list[shipping_protocol.Try] = []
        self.endpoint = context.route.endpoint
        """Endpoint at the last upstream."""
        self.sent_body = b""
        """Body of the last request to an upstream."""
        self.upstream: Upstream | None = None
        """Upstream of the last try, whether it has answered or not."""
        self.upstream_response: UpstreamResponse | None = None
        """The response that the client gets."""
        self.first_byte_ns = 0
        self.tokens: int | None = None
        self.response_parts: list[bytes] = []
        """Bytes of the upstream's response."""
        self.recorded = False
        self.charged = 0
        """Bytes of the budget for its response."""

    def record(self) -> shipping_protocol.CallRecord:
        """Return the record of the call for the shipper."""
        context, upstream = self.context, self.upstream
        route, parts = context.route, self.response_parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        return shipping_protocol.CallRecord(
            call_id=self.call_id,
            rollout_id=route.rollout_id,
            attempt_id=route.attempt_id,
            sequence_id=route.sequence_id,
            route=self.endpoint,
            model=self.request.model,
            provider=upstream.provider if upstream is not None else "",
            upstream_model=upstream.upstream_model if upstream is not None else "",
            started_ns=context.started_ns,
            first_byte_ns=self.first_byte_ns,
            ended_ns=time.time_ns(),
            status=context.status,
            error=context.error,
            streamed=self.request.stream,
            request=self.sent_body,
            response=body if len(body) <= MAX_RECORDED else body[:MAX_RECORDED],
            tries=self.tries,
        )
