"""The part of the resource that is about its pods: a chosen few fields of Kubernetes' own, and no more.

Containers, volumes and security contexts are the operator's: whoever may edit an LLMProxy gets no pod of their
own by it.
"""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from llmproxy.providers import PROVIDERS
from llmproxy_api.base import ListMap, Part, whole
from llmproxy_api.rules import Rule
from llmproxy_api.secret_refs import SecretKeyRef

MAX_KEYS = 16
MAX_ITEMS = 16

_DOMAIN = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
_KEY = rf"({_DOMAIN}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?"
_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
_OURS = r"(([-a-z0-9.]*\.)?(llmproxy\.dev|kubernetes\.io|k8s\.io)/.*|pod-template-hash|controller-revision-hash)"
_ALLOWED_DOMAIN = "cluster-autoscaler.kubernetes.io/"
"""Its annotations say whether a node may be emptied: that is for the author of the proxy."""

_SECRET_NAME = "KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS"  # noqa: S105 - a pattern of names
ENVIRONMENT = sorted(
    {
        name.partition("_")[0]
        for row in PROVIDERS.values()
        for name in re.findall(r"[A-Z][A-Z0-9]*_[A-Z0-9_]+", row.environment)
    }
)
"""What the names of variables that providers are told by begin with; no other can be set, for it could do anything."""

LabelValue = Annotated[str, Field(max_length=63, pattern=_VALUE)]
AnnotationValue = Annotated[str, Field(max_length=4096)]
Seconds = Annotated[int, Field(ge=0, le=1_000_000_000), BeforeValidator(whole)]
ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=rf"^{_DOMAIN}$")]


def _without_nulls(raw: object) -> object:
    """Drop what is null, as the API server does in a map whose values are declared."""
    return {key: value for key, value in raw.items() if value is not None} if isinstance(raw, dict) else raw


Labels = Annotated[dict[str, LabelValue], Field(max_length=MAX_KEYS), BeforeValidator(_without_nulls)]
Annotations = Annotated[dict[str, AnnotationValue], Field(max_length=MAX_KEYS), BeforeValidator(_without_nulls)]


def well_formed_keys(name: str, attribute: str) -> Rule:
    """Every key of the map, if it is there, is one that Kubernetes takes."""
    quoted = _KEY.replace("\\", "\\\\")
    return Rule(
        f"!has(self.{name}) || self.{name}.all(k, k.matches('^{quoted}$'))",
        f"{name} must have keys of the form name or domain/name, each part at most 63 letters, digits, -, _ and .",
        lambda part: all(re.fullmatch(_KEY, key) for key in getattr(part, attribute) or ()),
        f".{name}",
    )


def unreserved_keys(name: str, attribute: str) -> Rule:
    """No key of the map, if it is there, is the operator's or Kubernetes' own."""
    quoted = _OURS.replace("\\", "\\\\")

    def holds(part: object) -> bool:
        keys = getattr(part, attribute) or ()
        return all(key.startswith(_ALLOWED_DOMAIN) or not re.fullmatch(_OURS, key) for key in keys)

    return Rule(
        f"!has(self.{name}) || self.{name}.all(k, k.startsWith('{_ALLOWED_DOMAIN}') || !k.matches('^{quoted}$'))",
        f"{name} must not have keys of llmproxy.dev, kubernetes.io or k8s.io, nor pod-template-hash: the operator and "
        "Kubernetes set those",
        holds,
        f".{name}",
    )


class Toleration(Part):
    """Lets the pods onto nodes with a taint."""

    key: Annotated[str, Field(max_length=316, pattern=r"^[-A-Za-z0-9_./]*$")] | None = None
    """Key of the taint. Default: every key, which operator: Exists must say."""
    operator: Literal["Exists", "Equal"] | None = None
    """Equal compares the value, Exists takes any. Default: Equal."""
    value: LabelValue | None = None
    """Value of the taint, with Equal. Default: an empty one."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint. Default: every effect."""
    toleration_seconds: Seconds | None = None
    """With NoExecute: how long a pod stays on a node that gets the taint. Default: for ever."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.key) || (has(self.operator) && self.operator == 'Exists')",
            "key is needed unless operator is Exists",
            lambda t: t.key is not None or t.operator == "Exists",
            ".key",
        ),
        Rule(
            "!has(self.value) || !has(self.operator) || self.operator == 'Equal'",
            "value has a meaning only with operator: Equal",
            lambda t: t.value is None or t.operator in {None, "Equal"},
            ".value",
        ),
        Rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "tolerationSeconds has a meaning only with effect: NoExecute",
            lambda t: t.toleration_seconds is None or t.effect == "NoExecute",
            ".tolerationSeconds",
        ),
    )


class PullSecret(Part):
    """A Secret of the type kubernetes.io/dockerconfigjson in the namespace of the LLMProxy."""

    name: ObjectName
    """Name of the Secret."""


class Variable(Part):
    """An environment variable by which LiteLLM is told of a provider's account."""

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=rf"^({'|'.join(ENVIRONMENT)})_[A-Z0-9_]+$")]
    """One that a provider is told by: docs/providers.md lists them."""
    value: Annotated[str, Field(max_length=4096)] | None = None
    """What it holds, if everybody may know it: a region, a project. Default: none, and secretKeyRef is needed."""
    secret_key_ref: SecretKeyRef | None = None
    """The key of a Secret in this namespace that it comes from. Default: none, and value is needed."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.value) != has(self.secretKeyRef)",
            "must have one of value and secretKeyRef",
            lambda v: (v.value is None) != (v.secret_key_ref is None),
        ),
        Rule(
            f"!has(self.value) || !self.name.matches('{_SECRET_NAME}')",
            "would put a credential into the pods' template: keep it in a Secret and name that in secretKeyRef",
            lambda v: v.value is None or re.search(_SECRET_NAME, v.name) is None,
            ".value",
        ),
    )


class Pod(Part):
    """Where and as whom the pods run. An edit rolls them."""

    labels: Labels | None = None
    """Labels of the pods besides the operator's. None is copied from the LLMProxy itself. Default: none. The operator's
    settings may allow only some of the keys that have a domain."""
    annotations: Annotations | None = None
    """Annotations of the pods besides the operator's. None is copied from the LLMProxy itself. Default: none. The
    operator's settings may allow only some of the keys that have a domain."""
    node_selector: Labels | None = None
    """Labels that a node must have to run a pod. Default: any node does."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=MAX_ITEMS, strict=False)] | None = None
    """Taints of nodes that the pods bear. Default: none. The operator's settings may allow only some."""
    priority_class_name: ObjectName | None = None
    """Which pods must leave first when a node is full. Default: the cluster's. The operator's settings may allow only
    some."""
    service_account_name: ObjectName | None = None
    """Service account of the pods. No token of it is mounted; it stands for pull secrets and for policies of the
    cluster. Default: default. The operator's settings may allow only some."""
    image_pull_secrets: (
        Annotated[tuple[PullSecret, ...], Field(max_length=MAX_ITEMS, strict=False), ListMap("name")] | None
    ) = None
    """Secrets to pull the image with. Default: those of the service account."""
    env: Annotated[tuple[Variable, ...], Field(max_length=MAX_ITEMS, strict=False), ListMap("name")] | None = None
    """Environment of the translator, for providers that LiteLLM learns of by it (`AWS_...`, `VERTEXAI_...`). Default:
    none."""
    topology_spread: bool | None = None
    """Prefer other nodes and zones for each pod, where there are any. Default: true."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        well_formed_keys("labels", "labels"),
        unreserved_keys("labels", "labels"),
        well_formed_keys("annotations", "annotations"),
        unreserved_keys("annotations", "annotations"),
        well_formed_keys("nodeSelector", "node_selector"),
        Rule(
            "!has(self.priorityClassName) || !self.priorityClassName.startsWith('system-')",
            "must not begin with system-: those are for the cluster's own pods",
            lambda p: p.priority_class_name is None or not p.priority_class_name.startswith("system-"),
            ".priorityClassName",
        ),
    )
