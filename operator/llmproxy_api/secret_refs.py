"""API models of references to Secrets."""

from typing import Annotated

from pydantic import Field

from llmproxy_api.base import ApiModel


class SecretKeyRef(ApiModel):
    """A key of a Secret in the namespace of the LLMProxy."""

    name: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
    """Name of the Secret. Until it exists, no rollout begins and the condition Stalled names it."""
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
    """Key in the Secret's data. An edit of its value rolls the pods."""


class SecretSource(ApiModel):
    """Source of a credential; never the credential itself."""

    secret_key_ref: SecretKeyRef
    """Key of a Secret in this namespace."""
