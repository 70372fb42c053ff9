"""How the resource names credentials: by Secret and key, never by what is in them."""

from typing import Annotated

from pydantic import Field

from llmproxy_api.base import Part


class SecretKeyRef(Part):
    """A key of a Secret in the namespace of the LLMProxy."""

    name: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
    """Name of the Secret. Until it is there, nothing is rolled and the condition Stalled names it."""
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
    """Key in the Secret's data. A change of its content rolls the pods."""


class SecretSource(Part):
    """Where a credential is; never the credential itself."""

    secret_key_ref: SecretKeyRef
    """A key of a Secret in this namespace."""
