"""API models of spans, the records of requests: store, OTLP collector, spool."""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llmproxy_api import quantities
from llmproxy_api.base import ApiModel, ListMap
from llmproxy_api.deployments import URL
from llmproxy_api.durations import Duration, seconds
from llmproxy_api.quantities import Quantity
from llmproxy_api.resources import Resources
from llmproxy_api.rules import Rule, optional_matches
from llmproxy_api.secret_refs import SecretSource

DEFAULT_ACK_WAIT = "50ms"
DEFAULT_SPOOL_SIZE = "1Gi"
_OWN_HEADERS = ("connection", "content-encoding", "content-length", "content-type", "host", "transfer-encoding")


def _needs_store(name: str, attribute: str) -> Rule:
    return Rule(
        f"!has(self.{name}) || has(self.store)",
        "requires a store",
        lambda s: getattr(s, attribute) is None or s.store is not None,
        f".{name}",
    )


class Spool(ApiModel):
    """Disk buffer of records that are not delivered yet. It has the lifetime of the pod."""

    size: Quantity | None = None
    """Maximum size on disk, by pod. Above it new records are refused and counted; acknowledged records are never
    dropped. With a store and a collector each has half of it. Default: 1Gi."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.size) || (quantity(string(self.size)).compareTo(quantity('1Mi')) >= 0 && "
            "quantity(string(self.size)).compareTo(quantity('1Ti')) <= 0)",
            "must be between 1Mi and 1Ti",
            lambda s: s.size is None or 2**20 <= quantities.value(s.size) <= 2**40,
            ".size",
        ),
    )


class OtlpHeader(ApiModel):
    """A header of every request to the collector."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern="^[a-z0-9][a-z0-9-]*$")]
    """Name of the header, in lower case: `authorization`, `x-api-key`."""
    value: SecretSource
    """Secret with the whole value of the header: `Bearer ...` with the word Bearer."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!(self.name in {sorted(_OWN_HEADERS)})",
            f"must be none of {', '.join(sorted(_OWN_HEADERS))}, which the proxy sets itself",
            lambda h: h.name not in _OWN_HEADERS,
            ".name",
        ),
    )


class Otlp(ApiModel):
    """An OpenTelemetry collector.

    It gets every request, with or without a rollout, as one span by OpenTelemetry's semantic conventions for GenAI.
    """

    endpoint: Annotated[str, Field(min_length=1, max_length=256)]
    """Base URL of the OTLP/HTTP receiver: `http://collector.monitoring:4318`; `/v1/traces` is appended. A slow or
    unavailable collector delays neither callers nor the store; records wait in the spool."""
    headers: Annotated[tuple[OtlpHeader, ...], Field(max_length=8, strict=False), ListMap("name")] | None = None
    """Headers of every export, such as a key. Default: none."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        optional_matches(
            "endpoint",
            "endpoint",
            URL,
            "must be a URL such as http://collector:4318, without user, password, query or fragment",
        ),
        Rule(
            "!self.endpoint.matches('/v1/traces/?$')",
            "must be the base URL: leave /v1/traces out",
            lambda o: re.search("/v1/traces/?$", o.endpoint) is None,
            ".endpoint",
        ),
    )


class Spans(ApiModel):
    """Recording of requests: in a store for training, in a collector, or in both, independently.

    A store gets every completed request of a rollout, in the order of arrival.
    """

    store: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Base URL of an Agent-Lightning LightningStore: `http://lightning-store:4747`. A slow or unavailable store does
    not delay callers; records wait in the spool. Default: none; otlp is required."""
    otlp: Otlp | None = None
    """Collector for the same requests, beside the store or instead of it. Default: none."""
    register_resource: (
        Annotated[str, Field(min_length=1, max_length=64, pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None
    ) = None
    """Name of a resource in the store that tells Agent-Lightning's runners the address of this proxy: a `ProxyLLM` with
    the first model. Other resources are unchanged. It follows edits of the models. Default: not registered."""
    ack_wait: Duration | None = None
    """Time that the last byte of a rollout's response is held until its spans are in the store: trainers read them
    once, the moment a rollout succeeds. Default: 50ms; at most 10s; 0s disables it. A collector is never waited for."""
    content: Literal["Full", "TokensOnly"] | None = None
    """Content of the spans. `Full`: everything. `TokensOnly`: token ids, log-probabilities, usage, times and models; no
    text of prompts, responses, tools or errors. Default: Full."""
    spool: Spool | None = None
    """Disk buffer of records that are not delivered yet. Default: see its field."""
    resources: Resources | None = None
    """CPU and memory of the shipper's container. Default: requests of cpu 100m and memory 128Mi, memory limit
    512Mi."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.store) || has(self.otlp)",
            "needs a store, a collector under otlp, or both",
            lambda s: s.store is not None or s.otlp is not None,
        ),
        _needs_store("registerResource", "register_resource"),
        _needs_store("ackWait", "ack_wait"),
        optional_matches(
            "store",
            "store",
            URL,
            "must be a URL such as http://lightning-store:4747, without user, password, query or fragment",
        ),
        Rule(
            "!has(self.ackWait) || duration(self.ackWait) <= duration('10s')",
            "must be at most 10s: callers wait for it",
            lambda s: s.ack_wait is None or seconds(s.ack_wait) <= 10,  # noqa: PLR2004 - as in the rule
            ".ackWait",
        ),
    )
