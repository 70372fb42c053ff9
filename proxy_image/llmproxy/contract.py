"""The configuration document of a proxy pod: written by the operator, read by gateway, shipper and translator.

The reader owns it: this module is its one definition, and it knows neither Kubernetes nor an environment. Secrets are
not in it, only the names of the environment variables that hold them. A document that is not understood is refused
whole, with the field that is wrong, because half a configuration is worse than the one before it.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

VERSION = 1
"""Raised when a reader of the version before would do something wrong with the document, not when a field is added."""

EXIT_CODE = 2
"""Exit code of a process that cannot use its document: a restart does not help."""

Name = Annotated[str, Field(min_length=1, max_length=512)]
PositiveInt = Annotated[int, Field(ge=1, le=1_000_000_000_000)]
Url = Annotated[str, Field(pattern="^https?://", max_length=2048)]
Seconds = Annotated[float, Field(ge=0, le=7 * 24 * 3600, allow_inf_nan=False)]
EnvName = Annotated[str, Field(max_length=128, pattern="^[A-Z][A-Z0-9_]*$")]
HeaderName = Annotated[str, Field(min_length=1, max_length=64, pattern="^[a-z0-9][a-z0-9-]*$")]


class ContractError(Exception):
    """The document cannot be used; the message names the field and what is wrong with it."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(_Part):
    """Admissions per window, and calls at one time; None is no limit of that kind."""

    rpm: PositiveInt | None = None
    """Requests in any 60 s."""
    rps: PositiveInt | None = None
    """Requests in any second."""
    tpm: PositiveInt | None = None
    """Tokens in any 60 s: an upper bound is charged at admission and settled with the real usage."""
    rph: PositiveInt | None = None
    """Requests in any hour."""
    tph: PositiveInt | None = None
    """Tokens in any hour."""
    rpd: PositiveInt | None = None
    """Requests in any 24 hours."""
    tpd: PositiveInt | None = None
    """Tokens in any 24 hours."""
    max_parallel: PositiveInt | None = None
    """Calls that have been admitted and are not finished."""

    def any(self) -> bool:
        """Return True when one of the limits is set."""
        return any(value is not None for _, value in self)


class SharedLimits(_Part):
    """A Redis or Valkey where all pods of a proxy count together."""

    url_env: EnvName
    """Environment variable that holds `redis://`, `rediss://`, `valkey://` or `valkeys://`, with user, password, db."""
    ca_env: EnvName | None = None
    """Environment variable that holds the certificates (PEM) a TLS server is checked by; None: the system's."""
    scope: Name
    """Scope of the counters: the proxy's UID. It begins every key in the store."""
    max_pods: Annotated[int, Field(ge=1, le=10_000)]
    """The most pods that may be there at one time, those being replaced included: a pod that has never met the store
    admits the limit divided by it."""


class Overflow(_Part):
    """Behaviour for a request over the limit."""

    mode: Literal["Reject", "Queue"] = "Reject"
    max_queue_time_s: Seconds = 30.0
    """With Queue: longest wait of a request before it is rejected."""


class UpstreamHeader(_Part):
    """A header of every request to a deployment; its value is in the environment."""

    name: HeaderName
    value_env: EnvName


class Deployment(_Part):
    """One server of a model."""

    id: Name
    """Unique in the document and stable over edits of other deployments: `phi/0`."""
    model: Name
    """LiteLLM's `provider/model`; `providers` says how the provider is reached."""
    api_base: Annotated[str, Field(max_length=2048)] | None = None
    """URL up to where `/chat/completions` or `/messages` begins; None is the provider's own address."""
    api_key_env: EnvName | None = None
    """Environment variable that holds the key; None sends none."""
    ca_env: EnvName | None = None
    """Environment variable that holds the certificates (PEM) a TLS server is checked by; None: the system's."""
    server_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """Name in the server's certificate; None: the host of `api_base`."""
    headers: Annotated[tuple[UpstreamHeader, ...], Field(max_length=16)] | None = None
    """None, not empty, if there are none: older readers refuse the field."""
    weight: Annotated[int, Field(ge=0, le=1_000_000)] = 1
    """Share of the calls among the deployments of one model; 0 is used only when no other is left."""
    token_ids: bool = False
    """Ask the upstream for token ids and log-probabilities, which trainers need."""
    timeout_s: Seconds = 600.0
    """From the request's arrival at the upstream to its last byte, for each try."""
    connect_timeout_s: Seconds = 5.0
    first_byte_timeout_s: Seconds | None = None
    """From the request to the first byte of an answer's body; None is no bound but timeout_s."""
    idle_timeout_s: Seconds | None = None
    """Between two parts of an answer."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Defaults for fields of the request body; what the client sends wins."""


class Model(_Part):
    """A model, by the name that clients use."""

    name: Name
    """With * as its last character it stands for every name with that prefix; a * that ends a deployment's model stands
    for the rest of the requested name."""
    aliases: tuple[Name, ...] | None = None
    """Other names of the model. None, not empty, if there are none: older readers refuse the field."""
    rate_limits: Limits = Limits()
    deployments: Annotated[tuple[Deployment, ...], Field(min_length=1, max_length=512)]
    fallbacks: tuple[Name, ...] = ()
    """Models that answer when every attempt of this one has failed, in this order."""


class Retries(_Part):
    """Attempts after the first, before the first byte of a response."""

    max: Annotated[int, Field(ge=0, le=10)] = 2
    initial_delay_s: Seconds = 0.5
    max_delay_s: Seconds = 8.0


class OtlpHeader(_Part):
    """One header of every request to a collector."""

    name: HeaderName
    value_env: EnvName
    """Environment variable that holds its value."""


class Otlp(_Part):
    """A collector."""

    endpoint: Url
    """Base URL of an OTLP/HTTP receiver, without `/v1/traces`."""
    headers: Annotated[tuple[OtlpHeader, ...], Field(max_length=16)] = ()


class Resource(_Part):
    """The proxy as a resource of the store, so that runners find it."""

    name: Name
    """Among the store's resources."""
    endpoint: Url
    """Where runners reach the gateway, without `/v1`."""


class Spans(_Part):
    """Destinations of spans; without it there is no shipper. One of `store` and `otlp` at least."""

    store: Url | None = None
    """Base URL of a LightningStore, without `/v1/...`."""
    otlp: Otlp | None = None
    """A collector: it gets every call, also those of no rollout."""
    resource: Resource | None = None
    """Registered in the store; None registers nothing."""
    ack_wait_s: Seconds = 0.05
    """Longest wait of the last byte of a rollout's call for its spans to be stored; 0, or no store, never waits."""
    content: Literal["Full", "TokensOnly"] = "Full"
    """TokensOnly: token ids, log-probabilities, usage, times and models; no text of a call gets into a span."""
    spool_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 40)] = 1 << 30
    """Records that are not delivered yet, on disk; above it new ones are refused and counted. Two destinations have
    half of it each."""

    @model_validator(mode="after")
    def _has_a_destination(self) -> Self:
        if self.store is None and self.otlp is None:
            raise ValueError("no store is named, and no collector")
        if self.resource is not None and self.store is None:
            raise ValueError("a resource is registered in a store, and none is named")
        return self

    @property
    def holds_s(self) -> float:
        """Seconds that a rollout's last byte is held at most: nobody waits for a collector."""
        return self.ack_wait_s if self.store is not None else 0.0


class Translation(_Part):
    """Settings of the translator; unused without a translated deployment."""

    drop_params: bool = False
    """Leave out fields that the provider has nothing for; else such a call is refused."""


class Proxy(_Part):
    """The proxy of this pod, for logs and metrics."""

    name: Name
    namespace: Name


class Document(_Part):
    """Configuration of a pod."""

    version: Literal[1] = 1
    proxy: Proxy
    models: Annotated[tuple[Model, ...], Field(min_length=1, max_length=512)]
    rate_limits: Limits = Limits()
    shared_limits: SharedLimits | None = None
    """Without it the pod that leads counts, and hands its counters over (`limits/peers`)."""
    overflow: Overflow = Overflow()
    retries: Retries = Retries()
    spans: Spans | None = None
    require_api_key: bool = False
    """Clients need one of the API keys in the gateway's `--keys-dir`; the keys are no part of this document."""
    translation: Translation | None = None
    forward_headers: Annotated[tuple[HeaderName, ...], Field(max_length=16)] | None = None
    """Headers of callers that go to model servers, besides trace context and request id. None, not empty, if there are
    none: older readers refuse the field."""
    drain_timeout_s: Seconds = 300.0
    """Time of calls in flight at SIGTERM to finish."""

    def to_json(self) -> str:
        """Return the document as text: the same document gives the same text."""
        data = self.model_dump(mode="json", exclude_none=True)
        return json.dumps(data, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def parse(text: str | bytes, *, source: str = "document") -> Document:
    """Return the document in *text*; raise ContractError naming the field that cannot be used."""
    try:
        data = json.loads(text)
    except ValueError as exc:
        raise ContractError(f"{source}: not JSON: {exc}") from exc
    if not isinstance(data, dict):
        raise ContractError(f"{source}: a JSON object is needed, got {type(data).__name__}")
    version = data.get("version")
    if version != VERSION:
        raise ContractError(
            f"{source}: version: this image understands version {VERSION}, got {version!r}; "
            "run operator and proxy images of one release"
        )
    try:
        document = Document.model_validate_json(text)
    except ValidationError as exc:
        first = exc.errors(include_input=False, include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        raise ContractError(f"{source}: {path}: {first['msg']}") from exc
    _check_unique(document, source)
    return document


def load(path: Path) -> Document:
    """Return the document in the file *path*; raise ContractError, also when it cannot be read."""
    try:
        text = path.read_bytes()
    except OSError as exc:
        raise ContractError(f"{path}: {exc.strerror or exc}") from exc
    return parse(text, source=str(path))


def _check_unique(document: Document, source: str) -> None:
    names: set[str] = set()
    aliases = {model.name for model in document.models}
    ids: set[str] = set()
    for i, model in enumerate(document.models):
        if model.name in names:
            raise ContractError(f"{source}: models.{i}.name: {model.name!r} is there twice")
        names.add(model.name)
        for name in model.aliases or ():
            if name in aliases:
                raise ContractError(f"{source}: models.{i}.aliases: {name!r} is there twice")
            aliases.add(name)
        for j, deployment in enumerate(model.deployments):
            if deployment.id in ids:
                raise ContractError(f"{source}: models.{i}.deployments.{j}.id: {deployment.id!r} is there twice")
            ids.add(deployment.id)
    for i, model in enumerate(document.models):
        for name in model.fallbacks:
            if name not in names or name == model.name:
                raise ContractError(f"{source}: models.{i}.fallbacks: {name!r} is no other model of the document")
