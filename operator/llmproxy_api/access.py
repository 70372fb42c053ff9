"""The part of the resource that says who may call a proxy and who may look at its metrics."""

from typing import Annotated, ClassVar

from pydantic import Field

from llmproxy_api.parts import Part, UniqueItems
from llmproxy_api.pods import Labels, unreserved_keys, well_formed_keys
from llmproxy_api.rules import Rule

EVERYWHERE = "*"

Namespace = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?|[*])$")]


class SecretRef(Part):
    """A Secret in the namespace of the LLMProxy, as a whole."""

    name: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
    """Name of the Secret. Each of its values is a key, whatever it is called. Until it is there with at least one,
    nothing is rolled and the condition Stalled names it. An edit of it counts within two minutes and rolls nothing."""


class ApiKeys(Part):
    """Which keys open the proxy."""

    secret_ref: SecretRef
    """The Secret with the keys."""


class Access(Part):
    """Who may call."""

    namespaces: Annotated[tuple[Namespace, ...], Field(max_length=64, strict=False), UniqueItems()] | None = None
    """Namespaces whose pods may call, besides the LLMProxy's own; `["*"]` for all of the cluster. A NetworkPolicy says
    so, which the cluster's network must enforce. Default: no policy."""
    api_keys: ApiKeys | None = None
    """Keys that callers must show, as `Authorization: Bearer`, `x-api-key` or `api-key`; without a known one they get
    401. Keys of callers are never sent to an upstream. Default: no key is asked for."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!has(self.namespaces) || self.namespaces.size() == 1 || !self.namespaces.exists(n, n == '{EVERYWHERE}')",
            f"{EVERYWHERE} stands for all namespaces: leave the others out",
            lambda a: a.namespaces is None or len(a.namespaces) == 1 or EVERYWHERE not in a.namespaces,
            ".namespaces",
        ),
    )


class Monitoring(Part):
    """How metrics are found."""

    pod_monitor: bool | None = None
    """Make a PodMonitor, by which a Prometheus of the prometheus-operator finds the pods. Default: false."""
    labels: Labels | None = None
    """Labels of the PodMonitor, by which a Prometheus picks it: often `release: NAME`. Default: none but the
    operator's."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        well_formed_keys("labels", "labels"),
        unreserved_keys("labels", "labels"),
        Rule(
            "!has(self.labels) || (has(self.podMonitor) && self.podMonitor)",
            "labels has a meaning only with podMonitor: true",
            lambda m: m.labels is None or bool(m.pod_monitor),
            ".labels",
        ),
    )
