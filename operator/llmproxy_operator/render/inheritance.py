"""Labels and annotations that children inherit from their LLMProxy, by the allow-lists of the installation."""

import fnmatch
from collections.abc import Mapping
from typing import Any

from llmproxy_operator.manifest import Manifest
from llmproxy_operator.render.inputs import ChildOptions

_NEVER = (
    "llmproxy.dev/*",
    "kubectl.kubernetes.io/*",
    "argocd.argoproj.io/*",
    "kustomize.toolkit.fluxcd.io/*",
    "helm.toolkit.fluxcd.io/*",
    "meta.helm.sh/*",
)
"""Keys that mean the LLMProxy itself: a GitOps tool would take a child that has them for its own, and prune it."""


def inherit(child: Manifest, parent: Mapping[str, Any], options: ChildOptions) -> Manifest:
    """Return *child* with the labels and annotations of the metadata *parent* that are allowed; its own keys win."""
    labels = _allowed(parent.get("labels"), options.inherited_labels)
    annotations = _allowed(parent.get("annotations"), options.inherited_annotations)
    if not labels and not annotations:
        return child
    metadata = {**child["metadata"], "labels": {**labels, **child["metadata"]["labels"]}}
    if annotations:
        metadata["annotations"] = {**annotations, **(metadata.get("annotations") or {})}
    return {**child, "metadata": metadata}


def _allowed(values: Mapping[str, str] | None, patterns: tuple[str, ...]) -> dict[str, str]:
    return {
        key: value for key, value in (values or {}).items() if _matches(key, patterns) and not _matches(key, _NEVER)
    }


def _matches(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)
