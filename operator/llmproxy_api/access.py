"""The part of the resource that says who may call a proxy, what it may call, and who may look at its metrics."""

from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from llmproxy_api.base import Part, UniqueItems, whole
from llmproxy_api.pod import Labels, unreserved_keys, well_formed_keys
from llmproxy_api.rules import Rule, optional_matches

EVERYWHERE = "*"

Namespace = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?|[*])$")]


Port = Annotated[int, Field(ge=1, le=65535), BeforeValidator(whole)]

_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"({_BYTE}[.]){{3}}{_BYTE}/(3[0-2]|[12]?[0-9])"
_HEX = "[0-9A-Fa-f]{1,4}"
_IPV6 = (
    f"((({_HEX}:){{7}}{_HEX})|(({_HEX}:){{1,7}}:)|(:(:{_HEX}){{1,7}})|::|"
    + "|".join(f"(({_HEX}:){{1,{7 - n}}}(:{_HEX}){{1,{n}}})" for n in range(1, 7))
    + ")/(12[0-8]|1[01][0-9]|[1-9]?[0-9])"
)
CIDR = f"({_IPV4}|{_IPV6})"
"""A range of addresses as a NetworkPolicy takes it; `isCIDR` of CEL came only with Kubernetes 1.31."""


class Destination(Part):
    """A range of addresses that the pods may call."""

    cidr: Annotated[str, Field(min_length=1, max_length=49)]
    """The addresses, such as `10.0.0.0/8`; `0.0.0.0/0` is every one of IPv4. A network sees the pods behind a Service,
    not the Service: give the addresses of the pods."""
    ports: Annotated[tuple[Port, ...], Field(min_length=1, max_length=16, strict=False), UniqueItems()] | None = None
    """Their TCP ports, those of the pods where a Service is before them. Default: every port."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        optional_matches("cidr", "cidr", CIDR, "must be a range of addresses such as 10.0.0.0/8 or fd00::/8"),
    )


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
    """Who may call, and what the pods may call."""

    namespaces: Annotated[tuple[Namespace, ...], Field(max_length=64, strict=False), UniqueItems()] | None = None
    """Namespaces whose pods may call, besides the LLMProxy's own; `["*"]` for all of the cluster. A NetworkPolicy says
    so, which the cluster's network must enforce. Default: no policy."""
    api_keys: ApiKeys | None = None
    """Keys that callers must show, as `Authorization: Bearer`, `x-api-key` or `api-key`; without a known one they get
    401. Keys of callers are never sent to an upstream. Default: no key is asked for."""

    egress: Annotated[tuple[Destination, ...], Field(max_length=64, strict=False)] | None = None
    """What the pods may call, by a NetworkPolicy, which the cluster's network must enforce. List all that they need:
    the upstreams of every model, the spans' store and collector, a Redis of yours. DNS (port 53), the proxy's other
    pods and its own store of limits are always let through, and with `[]` nothing else. Default: no such policy."""

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
