"""The LLMProxy resource, field by field: the single source of the CRD, and what the operator and the CLI work with.

A field is here only if something is built that it changes. Defaults stand in the descriptions and are filled in where
the field is used, never by the API server: a default in the schema would fight scaling and GitOps tools.
"""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from llmproxy_api.access import Access, Monitoring
from llmproxy_api.base import ListMap, Part, Tries, UniqueItems
from llmproxy_api.deployments import TRANSLATED, Deployment, provider_in
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
"""Names of child objects and of DNS entries derive from the resource's name."""
DEFAULT_MAX_QUEUE_TIME = "30s"
DEFAULT_MAX_RETRIES = 2
DEFAULT_INITIAL_DELAY = "500ms"
DEFAULT_MAX_DELAY = "8s"
DEFAULT_CONNECT_TIMEOUT = "5s"
MAX_FALLBACKS = 8
DEFAULT_DRAIN_TIMEOUT = "5m"

_SEVERAL = "(has(self.replicas) && self.replicas > 1) || has(self.autoscaling)"
_LIMITED = (
    f"(has(self.rateLimits) && {any_of('self.rateLimits')}) || "
    f"self.models.exists(m, has(m.rateLimits) && {any_of('m.rateLimits')})"
)
_COUNTS_ALONE = "has(self.rateLimits) && has(self.rateLimits.shared) && self.rateLimits.shared.mode == 'Local'"

Sharing = Literal["Managed", "Redis", "Local"]

ModelName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$")]


class Model(Part):
    """What clients ask for by name, and who serves it."""

    name: ModelName
    """The name that clients put into the field `model` of a request."""
    rate_limits: ModelRateLimits | None = None
    """Limits of this model. Default: none but those of the proxy."""
    deployments: Annotated[tuple[Deployment, ...], Field(min_length=1, max_length=16, strict=False)]
    """Who serves the model: at least one, at most 16."""


class Retries(Part):
    """Tries after the first, before the first byte of an answer; another deployment first. No limit counts them."""

    max: Tries | None = None
    """How many tries may follow the first. Default: 2. With 0 there are none."""
    initial_delay: Duration | None = None
    """Upper bound of the first wait; it doubles with each try, and each wait is random below it. Default: 500ms."""
    max_delay: Duration | None = None
    """Upper bound of every wait. An upstream that asks for a longer one by Retry-After is not tried again.
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


class Fallback(Part):
    """Which models answer when one cannot."""

    model: ModelName
    """The model that was asked for."""
    to: Annotated[tuple[ModelName, ...], Field(min_length=1, max_length=MAX_FALLBACKS, strict=False), UniqueItems()]
    """Who answers in its place, the first that can: at least one, at most 8. Their own fallbacks are not followed."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule("!(self.model in self.to)", "must not name the model itself", lambda f: f.model not in f.to, ".to"),
    )


class Translator(Part):
    """The container with LiteLLM."""

    resources: Resources | None = None
    """Its processor and memory. Default: requests of cpu 100m and memory 384Mi, and at most 1Gi."""


class LiteLLMSettings(Part):
    """A few of LiteLLM's `litellm_settings`, under its own names."""

    drop_params: Annotated[bool | None, Field(alias="drop_params")] = None
    """Leave out fields of a request that the provider has nothing for. Default: false, which answers such a request
    with 400 and the field's name."""


class LiteLLM(Part):
    """How LiteLLM translates. It is no more here than that: limits, retries and keys are fields of their own."""

    settings: LiteLLMSettings | None = None
    """Its settings, for all translated models. Default: as each says."""


def _only_if_translated(path: str) -> Rule:
    """The field is there only if a model needs LiteLLM."""
    steps = path.split(".")
    absent = " || ".join(f"!has(self.{'.'.join(steps[: i + 1])})" for i in range(len(steps)))

    def holds(spec: "Spec") -> bool:
        here: object = spec
        for step in steps:
            here = getattr(here, step, None)
        return here is None or any(d.translated for m in spec.models for d in m.deployments)

    return Rule(
        f"{absent} || self.models.exists(m, m.deployments.exists(d, {provider_in(TRANSLATED, 'd.model')}))",
        "has a meaning only with a model whose provider LiteLLM translates, such as gemini: docs/providers.md",
        holds,
        f".{path}",
    )


class Spec(Part):
    """What is wanted."""

    models: Annotated[tuple[Model, ...], Field(min_length=1, max_length=64, strict=False), ListMap("name")]
    """The models that clients can ask for: at least one, at most 64, each name once."""
    rate_limits: RateLimits | None = None
    """Limits of the whole proxy. Default: none. An edit rolls the pods and loses neither a request nor a counter."""
    retries: Retries | None = None
    """Tries after the first. Default: 2, with waits from 500ms to 8s."""
    fallbacks: Annotated[tuple[Fallback, ...], Field(max_length=64, strict=False), ListMap("model")] | None = None
    """Models that answer in place of another when its retries have failed, each model once. A call that falls back is a
    request of both models' limits; a model that has no room is skipped. Default: none."""
    spans: Spans | None = None
    """Where calls are recorded. Default: nowhere, and no shipper runs."""
    replicas: Replicas | None = None
    """How many pods serve, at most 64. Default: 1, without autoscaling. Limits stay what they are: with more than one
    pod they are counted together, as rateLimits.shared says. `kubectl scale` needs this field to be written in the
    object."""
    autoscaling: Autoscaling | None = None
    """Lets the load say how many pods serve. Default: replicas does."""
    disruption_budget: DisruptionBudget | None = None
    """How many pods may be away at once when nodes are emptied. Default: 1 where more than one replica is possible,
    else there is no budget."""
    drain_timeout: Duration | None = None
    """How long calls that are in flight may go on when a pod is replaced: none that is shorter is cut. Default: 5m."""
    image: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$")] | None = None
    """Image of the proxy's containers. Default: the one that the operator was installed with, whose repository is also
    the only one allowed unless the operator's settings name others."""
    resources: Resources | None = None
    """Processor and memory of the gateway's container. Default: requests of cpu 250m and memory 128Mi, and at most
    512Mi."""
    translator: Translator | None = None
    """The container that speaks to providers with a protocol of their own; it runs only where a model needs it.
    Default: as its field says."""
    litellm: LiteLLM | None = None
    """How calls are translated for providers with a protocol of their own. Default: as its settings say."""
    pod: Pod | None = None
    """Where and as whom the pods run. Default: as each field says."""
    access: Access | None = None
    """Who may call, and what the pods may call. Default: every pod that reaches the Service, and all that there is."""
    monitoring: Monitoring | None = None
    """How a Prometheus finds the metrics, which the port admin (9090) of each pod serves at `/metrics`. Default: by
    nothing that is made here."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.replicas) || !has(self.autoscaling)",
            "must be left out with autoscaling, which says how many there are",
            lambda s: s.replicas is None or s.autoscaling is None,
            ".replicas",
        ),
        Rule(
            f"!({_COUNTS_ALONE}) || !({_SEVERAL}) || !({_LIMITED})",
            "Local would let each pod use every limit once more: leave shared out, or set its mode to Managed or Redis",
            lambda s: not (s.counts_alone and s.several and s.limited),
            ".rateLimits.shared.mode",
        ),
        Rule(
            "!has(self.rateLimits) || !has(self.rateLimits.shared) || self.rateLimits.shared.mode != 'Redis' || "
            f"{_LIMITED}",
            "has a meaning only with a limit, of the proxy or of a model: without one nothing is counted",
            lambda s: (
                s.limited or not (s.rate_limits and s.rate_limits.shared and s.rate_limits.shared.mode == "Redis")
            ),
            ".rateLimits.shared",
        ),
        Rule(
            "!has(self.rateLimits) || !has(self.rateLimits.overflow) || self.rateLimits.overflow != 'Queue' || "
            f"{_LIMITED}",
            "Queue has a meaning only with a limit, of the proxy or of a model: without one no call waits",
            lambda s: s.limited or s.rate_limits is None or s.rate_limits.overflow != "Queue",
            ".rateLimits.overflow",
        ),
        Rule(
            "!has(self.fallbacks) || self.fallbacks.all(f, self.models.exists(m, m.name == f.model) && "
            "f.to.all(t, self.models.exists(m, m.name == t)))",
            "must name models of spec.models only",
            lambda s: {n for f in s.fallbacks or () for n in (f.model, *f.to)} <= {m.name for m in s.models},
            ".fallbacks",
        ),
        *(_only_if_translated(name) for name in ("translator", "litellm", "pod.env")),
    )

    @property
    def several(self) -> bool:
        """Whether more than one pod may serve for longer than a roll takes."""
        return self.autoscaling is not None or (self.replicas or 0) > 1

    @property
    def limited(self) -> bool:
        """Whether there is a limit, of the proxy or of a model."""
        places = (self.rate_limits, *(model.rate_limits for model in self.models))
        return any(limits is not None and limits.limited for limits in places)

    @property
    def counts_alone(self) -> bool:
        """Whether the author wants each pod to count by itself."""
        shared = self.rate_limits.shared if self.rate_limits is not None else None
        return shared is not None and shared.mode == "Local"

    @property
    def sharing(self) -> Sharing:
        """Where calls are counted."""
        if not self.limited:
            return "Local"
        if self.rate_limits is not None and self.rate_limits.shared is not None:
            return self.rate_limits.shared.mode
        return "Managed" if self.several else "Local"


def _not_named_like(end: str) -> Rule:
    """The object's name does not end like that of a Service which the operator makes for another one."""
    return Rule(
        f"!self.metadata.name.endsWith('{end}')",
        f"metadata.name must not end with {end}: the Service NAME{end} of another LLMProxy could be meant",
        lambda p: not p.metadata.name.endswith(end),
    )


class Metadata(BaseModel):
    """What the operator needs of an object's metadata; the rest is the API server's."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True)

    name: str
    namespace: str = "default"
    uid: str = ""
    """Empty for an object that no API server has seen."""
    generation: int = 0
    annotations: Annotated[dict[str, str], BeforeValidator(lambda raw: raw or {})] = Field(default_factory=dict)


class LLMProxy(Part):
    """Runs LLM proxies: an endpoint for OpenAI clients with rate limits that hold and a record of every call."""

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
