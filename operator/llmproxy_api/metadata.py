"""API types of metadata: labels, annotations, and the rules about their keys."""

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

from llmproxy_api.rules import Rule

MAX_KEYS = 16

DOMAIN = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
_KEY = rf"({DOMAIN}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?"
_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
_OURS = r"(([-a-z0-9.]*\.)?(llmproxy\.dev|kubernetes\.io|k8s\.io)/.*|pod-template-hash|controller-revision-hash)"
_ALLOWED_DOMAIN = "cluster-autoscaler.kubernetes.io/"
"""Its annotations say if a node may be drained, which the author of the proxy decides."""

LabelValue = Annotated[str, Field(max_length=63, pattern=_VALUE)]
AnnotationValue = Annotated[str, Field(max_length=4096)]


def _without_nulls(raw: object) -> object:
    """Drop nulls, as the API server does in a map whose values have a schema."""
    return {key: value for key, value in raw.items() if value is not None} if isinstance(raw, dict) else raw


Labels = Annotated[dict[str, LabelValue], Field(max_length=MAX_KEYS), BeforeValidator(_without_nulls)]
Annotations = Annotated[dict[str, AnnotationValue], Field(max_length=MAX_KEYS), BeforeValidator(_without_nulls)]


def well_formed_keys(name: str, attribute: str) -> Rule:
    """Return the rule that the keys of the map are qualified names of Kubernetes."""
    quoted = _KEY.replace("\\", "\\\\")
    return Rule(
        f"!has(self.{name}) || self.{name}.all(k, k.matches('^{quoted}$'))",
        f"{name} must have keys of the form name or domain/name, each part at most 63 letters, digits, -, _ and .",
        lambda part: all(re.fullmatch(_KEY, key) for key in getattr(part, attribute) or ()),
        f".{name}",
    )


def unreserved_keys(name: str, attribute: str) -> Rule:
    """Return the rule that no key of the map is reserved for the operator or Kubernetes."""
    quoted = _OURS.replace("\\", "\\\\")

    def holds(part: object) -> bool:
        keys = getattr(part, attribute) or ()
        return all(key.startswith(_ALLOWED_DOMAIN) or not re.fullmatch(_OURS, key) for key in keys)

    return Rule(
        f"!has(self.{name}) || self.{name}.all(k, k.startsWith('{_ALLOWED_DOMAIN}') || !k.matches('^{quoted}$'))",
        f"{name} must not have keys of llmproxy.dev, kubernetes.io or k8s.io, nor pod-template-hash: they are reserved "
        "for the operator and Kubernetes",
        holds,
        f".{name}",
    )
