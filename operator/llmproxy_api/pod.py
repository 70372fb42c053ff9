"""API models of the pods: a selection of Kubernetes' own fields.

Containers, volumes and security contexts belong to the operator: the right to edit an LLMProxy is not the right to run
any pod.
"""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from llmproxy.providers import PROVIDERS
from llmproxy_api.base import ApiModel, ListMap, integral
from llmproxy_api.metadata import DOMAIN, Annotations, Labels, LabelValue, unreserved_keys, well_formed_keys
from llmproxy_api.rules import Rule
from llmproxy_api.secret_refs import SecretKeyRef

MAX_ITEMS = 16

_SECRET_NAME = "KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS"  # noqa: S105 - a pattern of names
ENV_PREFIXES = sorted(
    {
        name.partition("_")[0]
        for row in PROVIDERS.values()
        for name in re.findall(r"[A-Z][A-Z0-9]*_[A-Z0-9_]+", row.environment)
    }
)
"""Prefixes of the environment variables of providers. No other can be set: LD_PRELOAD would run any code."""

Seconds = Annotated[int, Field(ge=0, le=1_000_000_000), BeforeValidator(integral)]
ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=rf"^{DOMAIN}$")]


class Toleration(ApiModel):
    """Toleration of a taint."""

    key: Annotated[str, Field(max_length=316, pattern=r"^[-A-Za-z0-9_./]*$")] | None = None
    """Key of the taint. Default: every key, which requires operator: Exists."""
    operator: Literal["Exists", "Equal"] | None = None
    """Equal compares the value, Exists matches any. Default: Equal."""
    value: LabelValue | None = None
    """Value of the taint, with Equal. Default: empty."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint. Default: every effect."""
    toleration_seconds: Seconds | None = None
    """With NoExecute: time that a pod stays on a node with the taint. Default: for ever."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.key) || (has(self.operator) && self.operator == 'Exists')",
            "key is required unless operator is Exists",
            lambda t: t.key is not None or t.operator == "Exists",
            ".key",
        ),
        Rule(
            "!has(self.value) || !has(self.operator) || self.operator == 'Equal'",
            "value requires operator: Equal",
            lambda t: t.value is None or t.operator in {None, "Equal"},
            ".value",
        ),
        Rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "tolerationSeconds requires effect: NoExecute",
            lambda t: t.toleration_seconds is None or t.effect == "NoExecute",
            ".tolerationSeconds",
        ),
    )


class PullSecret(ApiModel):
    """A Secret of the type kubernetes.io/dockerconfigjson in the namespace of the LLMProxy."""

    name: ObjectName
    """Name of the Secret."""


class EnvVar(ApiModel):
    """Environment variable of a provider that LiteLLM translates for."""

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=rf"^({'|'.join(ENV_PREFIXES)})_[A-Z0-9_]+$")]
    """Variable of a provider: docs/providers.md lists them."""
    value: Annotated[str, Field(max_length=4096)] | None = None
    """Value that is no secret: a region, a project. Default: none; secretKeyRef is required."""
    secret_key_ref: SecretKeyRef | None = None
    """Key of a Secret in this namespace. Default: none; value is required."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.value) != has(self.secretKeyRef)",
            "must have one of value and secretKeyRef",
            lambda v: (v.value is None) != (v.secret_key_ref is None),
        ),
        Rule(
            f"!has(self.value) || !self.name.matches('{_SECRET_NAME}')",
            "puts a credential into the pods' template: keep it in a Secret and name the Secret in secretKeyRef",
            lambda v: v.value is None or re.search(_SECRET_NAME, v.name) is None,
            ".value",
        ),
    )


class Pod(ApiModel):
    """Scheduling, metadata and environment of the pods. An edit rolls them."""

    labels: Labels | None = None
    """Labels of the pods, besides the operator's. Labels of the LLMProxy are not copied. Default: none. The operator's
    settings can restrict keys with a domain."""
    annotations: Annotations | None = None
    """Annotations of the pods, besides the operator's. Annotations of the LLMProxy are not copied. Default: none. The
    operator's settings can restrict keys with a domain."""
    node_selector: Labels | None = None
    """Labels that a node must have. Default: any node."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=MAX_ITEMS, strict=False)] | None = None
    """Tolerated taints of nodes. Default: none. The operator's settings can restrict them."""
    priority_class_name: ObjectName | None = None
    """PriorityClass of the pods. Default: the cluster's. The operator's settings can restrict it."""
    service_account_name: ObjectName | None = None
    """ServiceAccount of the pods, for pull secrets and policies of the cluster. Its token is not mounted. Default:
    default. The operator's settings can restrict it."""
    image_pull_secrets: (
        Annotated[tuple[PullSecret, ...], Field(max_length=MAX_ITEMS, strict=False), ListMap("name")] | None
    ) = None
    """Pull secrets of the image. Default: those of the ServiceAccount."""
    env: Annotated[tuple[EnvVar, ...], Field(max_length=MAX_ITEMS, strict=False), ListMap("name")] | None = None
    """Environment variables of the translator, for providers that LiteLLM configures by them (`AWS_...`,
    `VERTEXAI_...`). Default: none."""
    topology_spread: bool | None = None
    """Spread the pods over nodes and zones, where possible. Default: true."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        well_formed_keys("labels", "labels"),
        unreserved_keys("labels", "labels"),
        well_formed_keys("annotations", "annotations"),
        unreserved_keys("annotations", "annotations"),
        well_formed_keys("nodeSelector", "node_selector"),
        Rule(
            "!has(self.priorityClassName) || !self.priorityClassName.startsWith('system-')",
            "must not begin with system-: those classes are reserved for the cluster's own pods",
            lambda p: p.priority_class_name is None or not p.priority_class_name.startswith("system-"),
            ".priorityClassName",
        ),
    )
