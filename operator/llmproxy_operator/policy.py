"""Allow-lists of the operator's settings for LLMProxies. Pure.

A user who may edit LLMProxies may not be allowed to create pods: the cluster's administrator decides which images,
service accounts, priorities and nodes an LLMProxy may use.
"""

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass

from llmproxy_api import LLMProxy, Problem

ANY = ("*",)
METADATA_KEYS = ("cluster-autoscaler.kubernetes.io/*", "karpenter.sh/do-not-disrupt", "prometheus.io/*")
"""Keys that add nothing to a pod: eviction by autoscalers, and scraping of metrics."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Patterns with `*` for any characters; a field that an LLMProxy leaves out is always allowed."""

    own_image: str
    images: tuple[str, ...] = ()
    """Empty: any tag or digest of the repository of the operator's default image."""
    priority_classes: tuple[str, ...] = ANY
    service_accounts: tuple[str, ...] = ANY
    toleration_keys: tuple[str, ...] = ANY
    metadata_keys: tuple[str, ...] = METADATA_KEYS
    """Keys of pods' labels and annotations; those without a domain are always allowed."""

    def problems(self, proxy: LLMProxy) -> tuple[Problem, ...]:
        """Return the fields of *proxy* that are not allowed."""
        return tuple(self._problems(proxy))

    def _problems(self, proxy: LLMProxy) -> Iterator[Problem]:
        spec, pod = proxy.spec, proxy.spec.pod
        if spec.image is not None and not self._image_allowed(spec.image):
            yield Problem("spec.image", _refusal(spec.image, self._images()))
        if pod is None:
            return
        references = (
            ("priorityClassName", pod.priority_class_name, self.priority_classes),
            ("serviceAccountName", pod.service_account_name, self.service_accounts),
        )
        for field, name, allowed in references:
            if name is not None and not _matches(name, allowed):
                yield Problem(f"spec.pod.{field}", _refusal(name, allowed))
        for i, toleration in enumerate(pod.tolerations or ()):
            # A toleration without a key tolerates every taint, so only a policy that allows all can allow it.
            if not _matches(toleration.key or "*", self.toleration_keys):
                yield Problem(f"spec.pod.tolerations[{i}].key", _refusal(toleration.key or "*", self.toleration_keys))
        for field, pairs in (("labels", pod.labels), ("annotations", pod.annotations)):
            for key in pairs or ():
                # Admission webhooks act on keys of their domain: they inject containers, volumes, images.
                if "/" in key and not _matches(key, self.metadata_keys):
                    allowed = ("keys without a domain", *self.metadata_keys)
                    yield Problem(f"spec.pod.{field}", _refusal(key, allowed))

    def _images(self) -> tuple[str, ...]:
        own = repository(self.own_image)
        return self.images or (own, f"{own}:*", f"{own}@*")

    def _image_allowed(self, image: str) -> bool:
        if image == self.own_image:
            return True
        # Not by the patterns of the message: `llmproxy:*` would match `llmproxy:5000/other`, a registry's port.
        return _matches(image, self.images) if self.images else repository(image) == repository(self.own_image)


def repository(image: str) -> str:
    """Return *image* without its tag and digest."""
    name = image.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return head + slash + last.partition(":")[0]


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _refusal(name: str, allowed: tuple[str, ...]) -> str:
    patterns = ", ".join(allowed) or "none"
    return (
        f"{name!r} is not allowed by the operator's settings, which allow {patterns}: ask the cluster's administrator"
    )
