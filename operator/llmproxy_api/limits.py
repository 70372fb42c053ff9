"""API models of rate limits, and of the store that pods share them in."""

from typing import ClassVar, Literal

from llmproxy_api.base import ApiModel, Limit
from llmproxy_api.durations import Duration, longer_than_zero
from llmproxy_api.rules import Rule
from llmproxy_api.secret_refs import SecretSource

KINDS = ("rpm", "rps", "tpm", "maxParallel")


class ModelRateLimits(ApiModel):
    """Limits of one model, over all its deployments. A request must fit these and those of the proxy."""

    rpm: Limit | None = None
    """Requests in any 60 seconds. Default: no limit."""
    rps: Limit | None = None
    """Requests in any second. Default: no limit."""
    tpm: Limit | None = None
    """Tokens in any 60 seconds: an upper bound is reserved at admission and settled with the usage of the response.
    Default: no limit."""
    max_parallel: Limit | None = None
    """Concurrent requests. Default: no limit."""

    @property
    def has_limits(self) -> bool:
        """True if a limit is set."""
        return any(limit is not None for limit in (self.rpm, self.rps, self.tpm, self.max_parallel))


class SharedLimits(ApiModel):
    """Store of shared limits: a limit is one limit, for any number of pods."""

    mode: Literal["Managed", "Redis", "Local"]
    """Managed: a small Valkey of this proxy. Redis: your own Valkey or Redis, at `url`. Local: each pod counts alone,
    which is valid with several pods only without limits. Default: Managed with more than one replica or autoscaling,
    else Local. While the store is unavailable, each pod enforces its share of every limit."""
    url: SecretSource | None = None
    """With Redis: its URL, `redis://` or `rediss://` with user, password and database. It must be a single server that
    evicts nothing (maxmemory-policy noeviction); keys begin with `llmproxy:` and the proxy's UID."""
    ca: SecretSource | None = None
    """With Redis by `rediss://`: CA certificates in PEM. Default: the system's."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.mode != 'Redis' || has(self.url)",
            "is required for mode: Redis: name a Secret with the URL in url.secretKeyRef",
            lambda s: s.mode != "Redis" or s.url is not None,
            ".url",
        ),
        Rule(
            "!has(self.url) || self.mode == 'Redis'",
            "url requires mode: Redis",
            lambda s: s.url is None or s.mode == "Redis",
            ".url",
        ),
        Rule(
            "!has(self.ca) || self.mode == 'Redis'",
            "ca requires mode: Redis",
            lambda s: s.ca is None or s.mode == "Redis",
            ".ca",
        ),
    )


class RateLimits(ModelRateLimits):
    """Limits of the whole proxy. A request over a limit gets 429 with the exact Retry-After, or waits in a queue."""

    overflow: Literal["Reject", "Queue"] | None = None
    """Handling of requests over a limit: Reject answers 429 at once, Queue holds them in order. Default: Reject."""
    max_queue_time: Duration | None = None
    """With Queue: time after which a waiting request is rejected. Default: 30s."""
    shared: SharedLimits | None = None
    """Store of shared limits, the proxy's and every model's. Default: Managed where several pods need one."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.maxQueueTime) || (has(self.overflow) && self.overflow == 'Queue')",
            "requires overflow: Queue",
            lambda r: r.max_queue_time is None or r.overflow == "Queue",
            ".maxQueueTime",
        ),
        longer_than_zero("maxQueueTime", "max_queue_time"),
    )


def any_of(place: str) -> str:
    """Return the CEL test that a limit at *place* is set."""
    return "(" + " || ".join(f"has({place}.{kind})" for kind in KINDS) + ")"
