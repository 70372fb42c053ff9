"""API models of access: API keys, NetworkPolicies for ingress and egress, monitoring."""

from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from llmproxy_api.base import ApiModel, UniqueItems, integral
from llmproxy_api.metadata import Labels, unreserved_keys, well_formed_keys
from llmproxy_api.rules import Rule, optional_matches

EVERYWHERE = "*"

Namespace = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?|[*])$")]


Port = Annotated[int, Field(ge=1, le=65535), BeforeValidator(integral)]

_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"({_BYTE}[.]){{3}}{_BYTE}/(3[0-2]|[12]?[0-9])"
_HEX = "[0-9A-Fa-f]{1,4}"
_IPV6 = (
    f"((({_HEX}:){{7}}{_HEX})|(({_HEX}:){{1,7}}:)|(:(:{_HEX}){{1,7}})|::|"
    + "|".join(f"(({_HEX}:){{1,{7 - n}}}(:{_HEX}){{1,{n}}})" for n in range(1, 7))
    + ")/(12[0-8]|1[01][0-9]|[1-9]?[0-9])"
)
CIDR = f"({_IPV4}|{_IPV6})"
"""A CIDR as a NetworkPolicy accepts it; CEL has `isCIDR` since Kubernetes 1.31 only."""


class Destination(ApiModel):
    """A destination that the pods may call: a range of addresses, or pods by namespace and labels."""

    cidr: Annotated[str, Field(min_length=1, max_length=49)] | None = None
    """Range of addresses: `10.0.0.0/8`; `0.0.0.0/0` is all of IPv4. NetworkPolicies apply to the pods behind a Service,
    not to the Service: use the addresses of the pods. Cilium matches no pod by address: use `namespace` there.
    Default: pods, by `namespace` and `podLabels`."""
    namespace: Namespace | None = None
    """Namespace of the pods; `*` for all. Default, with `podLabels`: the LLMProxy's own."""
    pod_labels: Labels | None = None
    """Labels of the pods. Default: every pod of `namespace`."""
    ports: Annotated[tuple[Port, ...], Field(min_length=1, max_length=16, strict=False), UniqueItems()] | None = None
    """TCP ports; behind a Service those of the pods. Default: every port."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        optional_matches("cidr", "cidr", CIDR, "must be a range of addresses such as 10.0.0.0/8 or fd00::/8"),
        # Keys of podLabels have no rule: a pattern for each key of each item may exceed the budget for CEL.
        Rule(
            "has(self.cidr) != (has(self.namespace) || has(self.podLabels))",
            "must have either cidr, or namespace or podLabels",
            lambda d: (d.cidr is not None) != (d.namespace is not None or d.pod_labels is not None),
        ),
    )


class SecretRef(ApiModel):
    """A Secret in the namespace of the LLMProxy, as a whole."""

    name: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
    """Name of the Secret. Each value in it is an API key, under any name. Until it exists with at least one, no rollout
    begins and the condition Stalled names it. An edit takes effect within two minutes and restarts no pod."""


class ApiKeys(ApiModel):
    """API keys that the proxy accepts."""

    secret_ref: SecretRef
    """Secret with the keys."""


class Access(ApiModel):
    """Access control: callers of the proxy, and destinations of its pods."""

    namespaces: Annotated[tuple[Namespace, ...], Field(max_length=64, strict=False), UniqueItems()] | None = None
    """Namespaces whose pods may call, besides the LLMProxy's own; `["*"]` for all. It is a NetworkPolicy, which the
    cluster's network must enforce. Default: no policy."""
    metrics_namespaces: Annotated[tuple[Namespace, ...], Field(max_length=64, strict=False), UniqueItems()] | None = (
        None
    )
    """Namespaces whose pods may read health and metrics (port 9090), besides the LLMProxy's own; `["*"]` for all.
    Default: those of the operator's settings. Probes of the node are always allowed."""
    api_keys: ApiKeys | None = None
    """API keys of callers, sent as `Authorization: Bearer`, `x-api-key` or `api-key`. Requests without a valid key get
    401. Keys of callers are never sent to an upstream. Default: no key is required."""

    egress: Annotated[tuple[Destination, ...], Field(max_length=64, strict=False)] | None = None
    """Destinations that the pods may call, by a NetworkPolicy, which the cluster's network must enforce. List all: the
    upstreams of every model, the store and the collector of the spans, your Redis. DNS (ports 53 and 5353), the proxy's
    other pods and its managed limit store are always allowed, and with `[]` nothing else. Default: no such policy."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!has(self.namespaces) || self.namespaces.size() == 1 || !self.namespaces.exists(n, n == '{EVERYWHERE}')",
            f"{EVERYWHERE} means all namespaces: leave the others out",
            lambda a: a.namespaces is None or len(a.namespaces) == 1 or EVERYWHERE not in a.namespaces,
            ".namespaces",
        ),
        Rule(
            f"!has(self.metricsNamespaces) || self.metricsNamespaces.size() == 1 || "
            f"!self.metricsNamespaces.exists(n, n == '{EVERYWHERE}')",
            f"{EVERYWHERE} means all namespaces: leave the others out",
            lambda a: (
                a.metrics_namespaces is None or len(a.metrics_namespaces) == 1 or EVERYWHERE not in a.metrics_namespaces
            ),
            ".metricsNamespaces",
        ),
        Rule(
            "!has(self.metricsNamespaces) || has(self.namespaces)",
            "metricsNamespaces requires namespaces: without a policy all may read metrics",
            lambda a: a.metrics_namespaces is None or a.namespaces is not None,
            ".metricsNamespaces",
        ),
    )


class Monitoring(ApiModel):
    """Discovery of the metrics."""

    pod_monitor: bool | None = None
    """Create a PodMonitor, from which the prometheus-operator configures a Prometheus. Default: false."""
    labels: Labels | None = None
    """Labels of the PodMonitor, which a Prometheus selects by: often `release: NAME`. Default: only the operator's
    labels."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        well_formed_keys("labels", "labels"),
        unreserved_keys("labels", "labels"),
        Rule(
            "!has(self.labels) || (has(self.podMonitor) && self.podMonitor)",
            "labels requires podMonitor: true",
            lambda m: m.labels is None or bool(m.pod_monitor),
            ".labels",
        ),
    )
