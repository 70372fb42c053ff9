"""What the operator reports about an LLMProxy: the schema of its status, and the words that stand in it."""

from typing import Annotated, Literal

from pydantic import Field

from llmproxy_api.base import ListMap, Part

Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
Name = Annotated[str, Field(max_length=64)]
Generation = Annotated[int, Field(ge=0, le=1 << 53)]
"""The API server reads a schema's bounds as floats: one beyond these 53 bits is none of its integers any more."""


UNSEEN = -1
"""The generation that a status is about before any operator has seen the object: the API server's default.

Without it an object that nobody has looked at yet is taken for done by the rules of kstatus.
"""


class Condition(Part):
    """One aspect of the state, in the form that `kubectl wait`, Flux and Argo CD read."""

    type: Annotated[str, Field(max_length=316, pattern=r"^[A-Za-z][A-Za-z0-9]*$")]
    """Ready, Available, Reconciling, Stalled or Paused."""
    status: Literal["True", "False", "Unknown"]
    """Whether it is so."""
    reason: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[A-Za-z][A-Za-z0-9]*$")]
    """One word for why; its meaning never changes."""
    message: Annotated[str, Field(max_length=32768)]
    """For people: the thing, what is wrong with it, and the way out."""
    observed_generation: Generation | None = None
    """The generation of the object that this is about."""
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """When `status` last became what it is."""


class EffectiveLimits(Part):
    """The limits of the proxy that are in force."""

    mode: Literal["Managed", "Redis", "Local"] | None = None
    """Where calls are counted. Managed: in a Valkey of this proxy. Redis: in the store that the spec names. Local:
    within each pod."""
    store_ready: bool | None = None
    """With Managed: whether the Valkey runs. While it does not, each pod goes on with its share of every limit."""
    rpm: Count | None = None
    """Requests in any 60 seconds."""
    rps: Count | None = None
    """Requests in any second."""
    tpm: Count | None = None
    """Tokens in any 60 seconds."""
    max_parallel: Count | None = None
    """Calls at one time."""


class Status(Part):
    """What is there; written by the operator."""

    observed_generation: Annotated[int, Field(ge=UNSEEN, le=1 << 53)] | None = None
    """The generation of the object that the status is about; -1 until the operator has seen it."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16, strict=False), ListMap("type")] | None = None
    """Ready: every wanted pod runs this generation. Available: something serves. Reconciling: on the way.
    Stalled: someone must act, as its message says. Paused: nothing is applied."""
    endpoint: Annotated[str, Field(max_length=512)] | None = None
    """Where it serves, without `/v1`: what a ProxyLLM of Agent-Lightning takes. OpenAI clients append `/v1`."""
    models: Annotated[tuple[Name, ...], Field(max_length=64, strict=False)] | None = None
    """The names that clients can ask for."""
    replicas: Count | None = None
    """Pods there are."""
    ready_replicas: Count | None = None
    """Pods that serve."""
    updated_replicas: Count | None = None
    """Pods that run the newest configuration."""
    selector: Annotated[str, Field(max_length=512)] | None = None
    """Selects the pods, for the scale subresource."""
    config_hash: Annotated[str, Field(max_length=64)] | None = None
    """Stands for the configuration and the contents of the Secrets it names; pods carry it as an annotation."""
    limits: EffectiveLimits | None = None
    """The limits of the proxy that are in force."""
