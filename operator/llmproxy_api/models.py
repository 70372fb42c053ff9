"""API models of the LLMProxy resource: the source of the CRD, used by operator and CLI.

Defaults are documented in the descriptions and applied where a field is used, never by the API server: defaults in the
schema conflict with autoscalers and GitOps tools.
"""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from llmproxy_api.access import Access, Monitoring
from llmproxy_api.base import ApiModel, ListMap, RetryCount, UniqueItems
from llmproxy_api.deployments import TRANSLATED, Deployment, provider_is_in
from llmproxy_api.durations import Duration, seconds
from llmproxy_api.limits import ModelRateLimits, RateLimits, any_of
from llmproxy_api.pod import Pod
from llmproxy_api.resources import Resources
from llmproxy_api.rules import Rule
from llmproxy_api.scaling import Autoscaling, DisruptionBudget, Replicas
from llmproxy_api.spans import Spans

GROUP = "llmproxy.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "LLMProxy"
PLURAL = "llmproxies"

NAME_PATTERN = "[a-z]([-a-z0-9]{0,38}[a-z0-9])?"
"""Names of child objects and DNS names derive from the resource's name."""
DEFAULT_MAX_QUEUE_TIME = "30s"
DEFAULT_MAX_RETRIES = 2
DEFAULT_INITIAL_DELAY = "500ms"
DEFAULT_MAX_DELAY = "8s"
DEFAULT_CONNECT_TIMEOUT = "5s"
MAX_FALLBACKS = 8
DEFAULT_DRAIN_TIMEOUT = "5m"

_MULTI_POD = "(has(self.replicas) && self.replicas > 1) || has(self.autoscaling)"
_HAS_LIMITS = (
    f"(has(self.rateLimits) && {any_of('self.rateLimits')}) || "
    f"self.models.exists(m, has(m.rateLimits) && {any_of('m.rateLimits')})"
)
_COUNTS_LOCALLY = "has(self.rateLimits) && has(self.rateLimits.shared) && self.rateLimits.shared.mode == 'Local'"

Sharing = Literal["Managed", "Redis", "Local"]

ModelName = Annotated[str, Field(min_length=1, max_length=256, pattern="^[!-)+-~]*[!-~]$")]
FixedName = Annotated[str, Field(min_length=1, max_length=256, pattern="^[!-)+-~]+$")]
"""Printable ASCII without space; only a ModelName may have a *, as its last character."""


class Model(ApiModel):
    """A model that clients request by name, and its deployments."""

    name: ModelName
    """Value of the field `model` in requests: up to 256 printable characters, such as a path of a checkpoint. A `*`
    as its last character makes it a prefix of names: `openai/*`, `*`. A name or alias wins over a prefix, a longer
    prefix over a shorter one. Limits and metrics count the entry."""
    aliases: Annotated[tuple[FixedName, ...], Field(max_length=16, strict=False), UniqueItems()] | None = None
    """Other names of the model, which share its limits; each at most once in an LLMProxy. Default: none."""
    rate_limits: ModelRateLimits | None = None
    """Limits of this model. Default: only those of the proxy."""
    deployments: Annotated[tuple[Deployment, ...], Field(min_length=1, max_length=128, strict=False)]
    """Servers of the model: at least one, at most 128."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.name.endsWith('*') || self.deployments.all(d, !d.model.endsWith('*'))",
            "may end with * only if name does: it stands for the rest of the requested name",
            lambda m: m.name.endswith("*") or not any(d.model.endswith("*") for d in m.deployments),
            ".deployments",
        ),
        Rule(
            "!has(self.aliases) || !self.name.endsWith('*')",
            "requires a name without *",
            lambda m: m.aliases is None or not m.name.endswith("*"),
            ".aliases",
        ),
    )


class Retries(ApiModel):
    """Retries before the first byte of a response, on another deployment first. Limits do not count them."""

    max: RetryCount | None = None
    """Maximum number of retries. Default: 2; 0 disables them."""
    initial_delay: Duration | None = None
    """Upper bound of the first backoff. It doubles with each retry; each backoff is random below it. Default: 500ms."""
    max_delay: Duration | None = None
    """Upper bound of every backoff. A request whose upstream asks for more by Retry-After is not retried there.
    Default: 8s."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"duration(has(self.initialDelay) ? self.initialDelay : '{DEFAULT_INITIAL_DELAY}') <= "
            f"duration(has(self.maxDelay) ? self.maxDelay : '{DEFAULT_MAX_DELAY}')",
            f"must be at most maxDelay (defaults: {DEFAULT_INITIAL_DELAY} and {DEFAULT_MAX_DELAY})",
            lambda r: seconds(r.initial_delay or DEFAULT_INITIAL_DELAY) <= seconds(r.max_delay or DEFAULT_MAX_DELAY),
            ".initialDelay",
        ),
    )


_NOT_FORWARDED = (
    "auth|cookie|credential|jwt|key|passw|secret|token"
    "|^(accept|accept-encoding|connection|expect|host|keep-alive|te|trailer|transfer-encoding|upgrade|user-agent"
    "|traceparent|tracestate|x-request-id)$|^anthropic-|^content-|^proxy-|^x-llmproxy-"
)
"""Headers that spec.forwardHeaders must not name: credentials, and those that are sent anyway or set by the proxy."""


class Fallback(ApiModel):
    """Fallback models of one model."""

    model: ModelName
    """The requested model."""
    to: Annotated[tuple[FixedName, ...], Field(min_length=1, max_length=MAX_FALLBACKS, strict=False), UniqueItems()]
    """Models to try in order: at least one, at most 8. Their own fallbacks are not followed."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule("!(self.model in self.to)", "must not name the model itself", lambda f: f.model not in f.to, ".to"),
    )


class Translator(ApiModel):
    """Container with LiteLLM."""

    resources: Resources | None = None
    """CPU and memory. Default: requests of cpu 100m and memory 384Mi, memory limit 1Gi."""


class LiteLLMSettings(ApiModel):
    """Some of LiteLLM's `litellm_settings`, under its names."""

    drop_params: Annotated[bool | None, Field(alias="drop_params")] = None
    """Drop request fields that the provider does not support. Default: false; such a request gets 400 with the field's
    name."""


class LiteLLM(ApiModel):
    """Translation by LiteLLM. Limits, retries and keys are fields of their own."""

    settings: LiteLLMSettings | None = None
    """Settings for all translated models. Default: see each field."""


def _requires_translated_model(path: str) -> Rule:
    """Return the rule that the field requires a translated model."""
    steps = path.split(".")
    absent = " || ".join(f"!has(self.{'.'.join(steps[: i + 1])})" for i in range(len(steps)))

    def holds(spec: "Spec") -> bool:
        here: object = spec
        for step in steps:
            here = getattr(here, step, None)
        return here is None or any(d.translated for m in spec.models for d in m.deployments)

    return Rule(
        f"{absent} || self.models.exists(m, m.deployments.exists(d, {provider_is_in(TRANSLATED, 'd.model')}))",
        "requires a model whose provider LiteLLM translates, such as gemini: docs/providers.md",
        holds,
        f".{path}",
    )


class Spec(ApiModel):
    """Desired state of the proxy."""

    models: Annotated[tuple[Model, ...], Field(min_length=1, max_length=128, strict=False), ListMap("name")]
    """Models that clients can request: at least one, at most 128, each name once."""
    rate_limits: RateLimits | None = None
    """Limits of the whole proxy. Default: none. An edit rolls the pods; no request and no counter is lost."""
    retries: Retries | None = None
    """Retries of failed requests. Default: 2, with backoffs from 500ms to 8s."""
    fallbacks: Annotated[tuple[Fallback, ...], Field(max_length=64, strict=False), ListMap("model")] | None = None
    """Models that serve a request when the retries of its model have failed; each model once. A request that falls
    back counts in the limits of both models; a model over its limit is skipped. Default: none."""
    spans: Spans | None = None
    """Recording of requests as spans. Default: none, and no shipper runs."""
    replicas: Replicas | None = None
    """Number of pods, at most 64. Default: 1, without autoscaling. Limits do not change with it: several pods share
    them, as configured in rateLimits.shared. `kubectl scale` requires the field to be set in the object."""
    autoscaling: Autoscaling | None = None
    """Scaling by load. Default: none; `replicas` is the number of pods."""
    disruption_budget: DisruptionBudget | None = None
    """PodDisruptionBudget, for drains of nodes. Default: maxUnavailable 1 where more than one replica is possible, else
    none."""
    forward_headers: (
        Annotated[
            tuple[Annotated[str, Field(min_length=1, max_length=64, pattern="^[a-z0-9][a-z0-9-]*$")], ...],
            Field(min_length=1, max_length=16, strict=False),
            UniqueItems(),
        ]
        | None
    ) = None
    """Headers of clients that are sent on to model servers, in lower case, besides traceparent, tracestate and
    x-request-id. Never credentials. Models that LiteLLM translates do not get them. Default: none."""
    drain_timeout: Duration | None = None
    """Time that requests in flight may take when their pod is replaced; shorter requests are never cut. Default: 5m."""
    image: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$")] | None = None
    """Image of the proxy's containers. Default: the operator's image for proxies. Only its repository is allowed,
    unless the operator's settings allow others."""
    resources: Resources | None = None
    """CPU and memory of the gateway's container. Default: requests of cpu 250m and memory 128Mi, memory limit
    512Mi."""
    translator: Translator | None = None
    """Container that calls providers with other protocols; it runs only where a model needs it. Default: see its
    field."""
    litellm: LiteLLM | None = None
    """Translation for providers with other protocols. Default: see its settings."""
    pod: Pod | None = None
    """Scheduling, metadata and environment of the pods. Default: see each field."""
    access: Access | None = None
    """Access control: callers of the proxy, and destinations of its pods. Default: no restriction."""
    monitoring: Monitoring | None = None
    """Discovery of the metrics, which each pod serves at `/metrics` on its port admin (9090). Default: no PodMonitor is
    created."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.replicas) || !has(self.autoscaling)",
            "must be left out with autoscaling, which sets the number of pods",
            lambda s: s.replicas is None or s.autoscaling is None,
            ".replicas",
        ),
        Rule(
            f"!({_COUNTS_LOCALLY}) || !({_MULTI_POD}) || !({_HAS_LIMITS})",
            "Local multiplies every limit by the number of pods: leave shared out, or set its mode to Managed or Redis",
            lambda s: not (s.counts_locally and s.multi_pod and s.has_limits),
            ".rateLimits.shared.mode",
        ),
        Rule(
            "!has(self.rateLimits) || !has(self.rateLimits.shared) || self.rateLimits.shared.mode != 'Redis' || "
            f"{_HAS_LIMITS}",
            "requires a limit, of the proxy or of a model: without one nothing is counted",
            lambda s: (
                s.has_limits or not (s.rate_limits and s.rate_limits.shared and s.rate_limits.shared.mode == "Redis")
            ),
            ".rateLimits.shared",
        ),
        Rule(
            "!has(self.rateLimits) || !has(self.rateLimits.overflow) || self.rateLimits.overflow != 'Queue' || "
            f"{_HAS_LIMITS}",
            "Queue requires a limit, of the proxy or of a model: without one no request waits",
            lambda s: s.has_limits or s.rate_limits is None or s.rate_limits.overflow != "Queue",
            ".rateLimits.overflow",
        ),
        Rule(
            "!has(self.fallbacks) || self.fallbacks.all(f, self.models.exists(m, m.name == f.model) && "
            "f.to.all(t, self.models.exists(m, m.name == t)))",
            "must name models of spec.models only",
            lambda s: {n for f in s.fallbacks or () for n in (f.model, *f.to)} <= {m.name for m in s.models},
            ".fallbacks",
        ),
        Rule(
            "!has(self.spans) || !has(self.spans.registerResource) || self.models.exists(m, !m.name.endsWith('*'))",
            "requires a model without * in its name",
            lambda s: (
                s.spans is None or s.spans.register_resource is None or any(not m.name.endswith("*") for m in s.models)
            ),
            ".spans.registerResource",
        ),
        Rule(
            f"!has(self.forwardHeaders) || !self.forwardHeaders.exists(h, h.matches('{_NOT_FORWARDED}'))",
            "must not name credentials, or headers that the proxy sets itself: a deployment's apiKey is sent instead",
            lambda s: not any(re.search(_NOT_FORWARDED, h) for h in s.forward_headers or ()),
            ".forwardHeaders",
        ),
        *(_requires_translated_model(name) for name in ("translator", "litellm", "pod.env")),
    )

    @property
    def multi_pod(self) -> bool:
        """True if more than one pod may serve, rollouts apart."""
        return self.autoscaling is not None or (self.replicas or 0) > 1

    @property
    def has_limits(self) -> bool:
        """True if a limit is set, of the proxy or of a model."""
        places = (self.rate_limits, *(model.rate_limits for model in self.models))
        return any(limits is not None and limits.has_limits for limits in places)

    @property
    def counts_locally(self) -> bool:
        """True if the spec asks for counters by pod."""
        shared = self.rate_limits.shared if self.rate_limits is not None else None
        return shared is not None and shared.mode == "Local"

    @property
    def sharing(self) -> Sharing:
        """Mode in which requests are counted."""
        if not self.has_limits:
            return "Local"
        if self.rate_limits is not None and self.rate_limits.shared is not None:
            return self.rate_limits.shared.mode
        return "Managed" if self.multi_pod else "Local"


def _not_named_like(end: str) -> Rule:
    """Return the rule that the name does not end like a Service of another LLMProxy."""
    return Rule(
        f"!self.metadata.name.endsWith('{end}')",
        f"metadata.name must not end with {end}: it could be the Service NAME{end} of another LLMProxy",
        lambda p: not p.metadata.name.endswith(end),
    )


class Metadata(BaseModel):
    """Metadata that the operator reads; the API server validates the rest."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True)

    name: str
    namespace: str = "default"
    uid: str = ""
    """Empty for an object that is not in an API server."""
    generation: int = 0
    annotations: Annotated[dict[str, str], BeforeValidator(lambda raw: raw or {})] = Field(default_factory=dict)


class LLMProxy(ApiModel):
    """An LLM proxy: an endpoint for OpenAI and Anthropic clients with exact rate limits and a record of every call."""

    metadata: Metadata
    spec: Spec

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"self.metadata.name.matches('^{NAME_PATTERN}$')",
            "metadata.name must be at most 40 lower-case letters, digits and -, beginning with a letter: names of "
            "Services derive from it",
            lambda p: re.fullmatch(NAME_PATTERN, p.metadata.name) is not None,
        ),
        *(_not_named_like(end) for end in ("-limits", "-peers")),
    )
