"""What a call is made of: the parts that all calls share, and the state of one."""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from llmproxy import shipping_protocol
from llmproxy.contract import Document
from llmproxy.gateway.adapters.request_body import Asked
from llmproxy.gateway.api_keys import Keys
from llmproxy.gateway.http.exchange import Caller
from llmproxy.gateway.http.routing import Route
from llmproxy.gateway.limits import Grant, Limiter
from llmproxy.gateway.metrics import Counts
from llmproxy.gateway.requests.attempts import Opened, Trying
from llmproxy.gateway.requests.pause import Pause
from llmproxy.gateway.shipping.shipper_client import Handover
from llmproxy.gateway.upstreams.balancer import Balancer
from llmproxy.gateway.upstreams.deployments import Target

MAX_RECORDED: Final = 24 << 20
"""Bytes of an answer that are kept for the span; a longer one is cut there. With the largest body it fits a frame."""


@dataclass
class Parts:
    """Everything a call passes through; built once, in `process`."""

    document: Document
    balancers: Mapping[str, Balancer]
    serving: Mapping[tuple[str, str], Sequence[Target]]
    """The deployments that have an endpoint, by model and endpoint."""
    output_tokens: Mapping[str, int]
    """Bound of an answer's tokens per choice, by model."""
    fallbacks: Mapping[str, Sequence[str]]
    """Who answers in a model's place, by model."""
    limiter: Limiter
    handover: Handover | None
    counts: Counts
    pause: Pause = field(default_factory=Pause)
    keys: Keys | None = None
    """Without them everybody may call who reaches this."""
    rand: random.Random = field(default_factory=random.Random)
    holds_s: float = field(init=False)
    """Seconds that the last byte of a rollout's call waits for its spans at most."""

    def __post_init__(self) -> None:
        """Read what every call needs."""
        spans = self.document.spans
        self.holds_s = 0.0 if spans is None or self.handover is None else spans.holds_s


class Call:
    """One call on its way."""

    __slots__ = (
        "asked",
        "call_id",
        "caller",
        "error",
        "first_byte_ns",
        "grant",
        "opened",
        "response",
        "route",
        "started_ns",
        "started_s",
        "status",
        "tokens",
        "told",
        "trying",
    )  # fmt: skip

    def __init__(self, route: Route, caller: Caller) -> None:
        self.route = route
        self.caller = caller
        self.started_ns = time.time_ns()
        self.started_s = time.monotonic()
        self.call_id = 0
        """0 for a call that makes no span."""
        self.grant: Grant | None = None
        """Of the model that is being tried; None before it is admitted."""
        self.asked: Asked | None = None
        self.trying: Trying | None = None
        self.opened: Opened | None = None
        self.first_byte_ns = 0
        self.status = 0
        self.error = ""
        self.tokens: int | None = None
        self.response: list[bytes] = []
        """The upstream's bytes."""
        self.told = False

    def record(self) -> shipping_protocol.CallRecord:
        """Return what the shipper is told. Only for a call that has asked for something."""
        asked, trying, opened, route = self.asked, self.trying, self.opened, self.route
        target = opened.target if opened is not None else None
        response = self.response[0] if len(self.response) == 1 else b"".join(self.response)
        return shipping_protocol.CallRecord(
            call_id=self.call_id,
            rollout_id=route.rollout_id,
            attempt_id=route.attempt_id,
            sequence_id=route.sequence_id,
            route=trying.endpoint if trying is not None else route.endpoint,
            model=asked.model if asked is not None else "",
            provider=target.provider if target is not None else "",
            upstream_model=target.upstream_model if target is not None else "",
            started_ns=self.started_ns,
            first_byte_ns=self.first_byte_ns,
            ended_ns=time.time_ns(),
            status=self.status,
            error=self.error,
            streamed=asked.stream if asked is not None else False,
            request=trying.sent if trying is not None else b"",
            response=response if len(response) <= MAX_RECORDED else response[:MAX_RECORDED],
            tries=trying.tries if trying is not None else [],
        )
