"""The part of the resource that limits what may be used, and says where pods count it together."""

from typing import ClassVar, Literal

from llmproxy_api.base import Limit, Part
from llmproxy_api.durations import Duration
from llmproxy_api.rules import Rule, longer_than_zero
from llmproxy_api.secret_refs import SecretSource

KINDS = ("rpm", "rps", "tpm", "maxParallel")


class ModelRateLimits(Part):
    """Limits of one model, over all its deployments. A call must fit these and those of the proxy."""

    rpm: Limit | None = None
    """Requests in any 60 seconds. Default: no limit."""
    rps: Limit | None = None
    """Requests in any second. Default: no limit."""
    tpm: Limit | None = None
    """Tokens in any 60 seconds: an upper bound is charged at admission and settled with the real usage. Default: no
    limit."""
    max_parallel: Limit | None = None
    """Calls that are admitted and not finished. Default: no limit."""

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return any(limit is not None for limit in (self.rpm, self.rps, self.tpm, self.max_parallel))


class Shared(Part):
    """Where the pods of the proxy count together. A limit is one limit, however many pods there are."""

    mode: Literal["Managed", "Redis", "Local"]
    """Managed: a small Valkey that belongs to this proxy. Redis: a Valkey or Redis of yours, at `url`. Local: each pod
    by itself, which more than one pod may do only without a limit. Default: Managed with more than one replica or
    autoscaling, else Local. While the store is away, each pod goes on with its share of every limit."""
    url: SecretSource | None = None
    """With Redis: where it is, `redis://` or `rediss://` with user, password and database. It must be one server that
    evicts nothing (maxmemory-policy noeviction); keys begin with `llmproxy:` and the proxy's UID."""
    ca: SecretSource | None = None
    """With Redis by `rediss://`: the certificates in PEM that its own is checked by. Default: the system's."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.mode != 'Redis' || has(self.url)",
            "is needed by mode: Redis: name the Secret that has it in url.secretKeyRef",
            lambda s: s.mode != "Redis" or s.url is not None,
            ".url",
        ),
        Rule(
            "!has(self.url) || self.mode == 'Redis'",
            "url has a meaning only with mode: Redis",
            lambda s: s.url is None or s.mode == "Redis",
            ".url",
        ),
        Rule(
            "!has(self.ca) || self.mode == 'Redis'",
            "ca has a meaning only with mode: Redis",
            lambda s: s.ca is None or s.mode == "Redis",
            ".ca",
        ),
    )


class RateLimits(ModelRateLimits):
    """Limits of the whole proxy. Over a limit a call is answered with 429 and a true Retry-After, or waits."""

    overflow: Literal["Reject", "Queue"] | None = None
    """What happens to a call over a limit: Reject answers 429 at once, Queue lets it wait for its turn.
    Default: Reject."""
    max_queue_time: Duration | None = None
    """With Queue: how long a call may wait before it is rejected after all. Default: 30s."""
    shared: Shared | None = None
    """Where the pods count together: these limits, and those of every model. Default: where it is needed, in a Valkey
    of this proxy."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.maxQueueTime) || (has(self.overflow) && self.overflow == 'Queue')",
            "has a meaning only with overflow: Queue",
            lambda r: r.max_queue_time is None or r.overflow == "Queue",
            ".maxQueueTime",
        ),
        longer_than_zero("maxQueueTime", "max_queue_time"),
    )


def any_of(place: str) -> str:
    """Return in CEL whether the limits at *place* have one."""
    return "(" + " || ".join(f"has({place}.{kind})" for kind in KINDS) + ")"
