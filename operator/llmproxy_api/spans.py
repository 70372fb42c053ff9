"""The part of the resource that says where calls are recorded."""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llmproxy_api import quantities
from llmproxy_api.base import ListMap, Part
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
        "has a meaning only with a store",
        lambda s: getattr(s, attribute) is None or s.store is not None,
        f".{name}",
    )


class Spool(Part):
    """Disk for records of calls that are not delivered yet. It lives as long as the pod."""

    size: Quantity | None = None
    """How much disk the records of a pod may take. Above it new records are refused and counted; none that was
    acknowledged is dropped. With a store and a collector each has half of it. Default: 1Gi."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.size) || (quantity(string(self.size)).compareTo(quantity('1Mi')) >= 0 && "
            "quantity(string(self.size)).compareTo(quantity('1Ti')) <= 0)",
            "must be between 1Mi and 1Ti",
            lambda s: s.size is None or 2**20 <= quantities.value(s.size) <= 2**40,
            ".size",
        ),
    )


class OtlpHeader(Part):
    """A header of every request to the collector."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern="^[a-z0-9][a-z0-9-]*$")]
    """Name of the header, in lower case: `authorization`, `x-api-key`."""
    value: SecretSource
    """The Secret with the whole value of the header: `Bearer ...` with the word Bearer."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!(self.name in {sorted(_OWN_HEADERS)})",
            f"must be none of {', '.join(sorted(_OWN_HEADERS))}, which the proxy sets itself",
            lambda h: h.name not in _OWN_HEADERS,
            ".name",
        ),
    )


class Otlp(Part):
    """A collector that speaks OpenTelemetry's protocol.

    It gets every call, also those of no rollout, as one span each under OpenTelemetry's names for generative AI.
    """

    endpoint: Annotated[str, Field(min_length=1, max_length=256)]
    """Base URL of its OTLP/HTTP receiver: `http://collector.monitoring:4318`; calls go to `/v1/traces` below it. A
    collector that is slow or away costs neither callers nor the store anything; records wait in the spool."""
    headers: Annotated[tuple[OtlpHeader, ...], Field(max_length=8, strict=False), ListMap("name")] | None = None
    """Headers of every request, such as a key. Default: none."""

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


class Spans(Part):
    """Where calls are recorded: in a store for training, in a collector, or in both, which know nothing of each other.

    A store gets every answered call of a rollout, in the order of arrival.
    """

    store: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Base URL of an Agent-Lightning LightningStore: `http://lightning-store:4747`. A store that is slow or away costs
    callers nothing; records wait in the spool. Default: none, and otlp is needed."""
    otlp: Otlp | None = None
    """A collector for the same calls, beside the store or instead of it. Default: none."""
    register_resource: (
        Annotated[str, Field(min_length=1, max_length=64, pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None
    ) = None
    """Name under which the store's resources tell runners of Agent-Lightning where this proxy is, as a `ProxyLLM` with
    the first of the models; other resources stay. It follows an edit of the models. Default: it is not registered."""
    ack_wait: Duration | None = None
    """How long the last byte of a rollout's call is held for its spans to be in the store, because trainers read them
    once, the moment a rollout succeeds. Default: 50ms; at most 10s. With 0s nothing is held. Nobody waits for a
    collector."""
    content: Literal["Full", "TokensOnly"] | None = None
    """What of a call is recorded. `Full`: everything. `TokensOnly`: token ids, log-probabilities, usage, times and
    models; no prompt, answer, tool or error text gets into a span. Default: Full."""
    spool: Spool | None = None
    """Disk for records that are not delivered yet. Default: as its field says."""
    resources: Resources | None = None
    """Processor and memory of the shipper's container. Default: requests of cpu 100m and memory 128Mi, and at most
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
            lambda s: s.ack_wait is None or seconds(s.ack_wait) <= 10,  # noqa: PLR2004 - said by the rule
            ".ackWait",
        ),
    )
