"""Inputs of rendering besides the resource."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from llmproxy_operator.render.config import SecretRef
from llmproxy_operator.render.placement import USER

DEFAULT_STORE_IMAGE = "docker.io/valkey/valkey:8.1.4-alpine"
DEFAULT_STORE_RESOURCES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}}
)


@dataclass(frozen=True)
class ChildOptions:
    """Settings of the installation for objects other than pods: they roll nothing."""

    inherited_labels: tuple[str, ...] = ()
    """Patterns of labels of an LLMProxy that every child gets."""
    inherited_annotations: tuple[str, ...] = ()
    metrics_namespaces: tuple[str, ...] = ()
    """Namespaces whose pods may scrape proxies that restrict callers."""


@dataclass(frozen=True)
class Inputs:
    """Settings of the installation, and digests of the Secrets that a proxy names."""

    image: str
    """Default image of proxies."""
    secret_digests: Mapping[SecretRef, str]
    """`config.secret_digest` of the content of every one of `config.digested`; never the content."""
    image_pull_policy: str | None = None
    """None: the default of Kubernetes, which depends on the tag."""
    restart: str | None = None
    """Value of the annotation that restarts: a new one rolls the pods."""
    store_image: str = DEFAULT_STORE_IMAGE
    """Image of the stores of shared limits."""
    store_resources: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: DEFAULT_STORE_RESOURCES)
    """Requests and limits of the stores of shared limits."""
    pod_user: int | None = USER
    """User, group and fsGroup of pods; None: the cluster's admission sets them."""
    pull_secrets: tuple[str, ...] = ()
    """Names of Secrets to pull images with, besides those of the resource."""
    children: ChildOptions = ChildOptions()
