"""What rendering needs besides the resource."""

from collections.abc import Mapping
from dataclasses import dataclass

from llmproxy_operator.render.config import SecretRef

DEFAULT_STORE_IMAGE = "docker.io/valkey/valkey:8.1.4-alpine"


@dataclass(frozen=True)
class Inputs:
    """Facts of the installation and of the Secrets that a proxy names."""

    image: str
    """Image of proxies that name none."""
    secret_digests: Mapping[SecretRef, str]
    """`config.secret_digest` of the content of every one of `config.digested`; never the content."""
    image_pull_policy: str | None = None
    """None leaves it to Kubernetes, which goes by the tag."""
    restart: str | None = None
    """Rolls the pods when it changes."""
    store_image: str = DEFAULT_STORE_IMAGE
    """Image of the stores of shared limits."""
