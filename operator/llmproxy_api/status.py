"""API models of the status that the operator reports."""

from typing import Annotated, Literal

from pydantic import Field

from llmproxy_api.base import ApiModel, ListMap

Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
Name = Annotated[str, Field(max_length=256)]
Generation = Annotated[int, Field(ge=0, le=1 << 53)]
"""The API server reads a schema's bounds as floats, which hold integers of 53 bits."""


UNSEEN = -1
"""observedGeneration before the first reconcile, set by the API server as a default.

Without it kstatus takes an object for current that no operator has reconciled yet.
"""


class Condition(ApiModel):
    """One aspect of the state, in the form that `kubectl wait`, Flux and Argo CD read."""

    type: Annotated[str, Field(max_length=316, pattern=r"^[A-Za-z][A-Za-z0-9]*$")]
    """Ready, Available, Reconciling, Stalled or Paused."""
    status: Literal["True", "False", "Unknown"]
    """Status of the condition."""
    reason: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[A-Za-z][A-Za-z0-9]*$")]
    """Reason as one word, for programs; its meaning never changes."""
    message: Annotated[str, Field(max_length=32768)]
    """Reason for people: the object, its fault, and what to do."""
    observed_generation: Generation | None = None
    """Generation of the object that the condition describes."""
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """Time of the last change of `status`."""


class EffectiveLimits(ApiModel):
    """The limits of the proxy that are in force."""

    mode: Literal["Managed", "Redis", "Local"] | None = None
    """Store of the counters. Managed: a Valkey of this proxy. Redis: the store in the spec. Local: each pod."""
    store_ready: bool | None = None
    """With Managed: true if the Valkey is ready. While it is not, each pod enforces its share of every limit."""
    rpm: Count | None = None
    """Requests in any 60 seconds."""
    rps: Count | None = None
    """Requests in any second."""
    tpm: Count | None = None
    """Tokens in any 60 seconds."""
    max_parallel: Count | None = None
    """Concurrent requests."""


class Status(ApiModel):
    """Observed state, written by the operator."""

    observed_generation: Annotated[int, Field(ge=UNSEEN, le=1 << 53)] | None = None
    """Generation of the object that the status describes; -1 before the first reconcile."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16, strict=False), ListMap("type")] | None = None
    """Ready: every desired pod runs this generation. Available: at least one pod serves. Reconciling: a change is in
    progress. Stalled: someone must act, see its message. Paused: nothing is applied."""
    endpoint: Annotated[str, Field(max_length=512)] | None = None
    """URL of the proxy without `/v1`, as for Agent-Lightning's ProxyLLM. OpenAI clients append `/v1`."""
    models: Annotated[tuple[Name, ...], Field(max_length=128, strict=False)] | None = None
    """Models that clients can request."""
    replicas: Count | None = None
    """Number of pods."""
    ready_replicas: Count | None = None
    """Number of ready pods."""
    updated_replicas: Count | None = None
    """Number of pods with the newest configuration."""
    selector: Annotated[str, Field(max_length=512)] | None = None
    """Label selector of the pods, for the scale subresource."""
    config_hash: Annotated[str, Field(max_length=64)] | None = None
    """Hash of the configuration and of the contents of its Secrets; pods have it as an annotation."""
    image: Annotated[str, Field(max_length=1024)] | None = None
    """Image of the pods in force; while pods roll, the previous one. An upgrade of the operator does not change it."""
    limits: EffectiveLimits | None = None
    """The limits of the proxy that are in force."""
