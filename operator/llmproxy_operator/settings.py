"""Settings of the operator, read from the environment once at the start; the chart sets them.

No variable begins with LLMPROXY_: a Service of that name would add variables of its own to the environment.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from llmproxy_api import quantities
from llmproxy_operator.policy import ANY, METADATA_KEYS, Policy
from llmproxy_operator.render.inputs import DEFAULT_STORE_IMAGE, DEFAULT_STORE_RESOURCES, ChildOptions
from llmproxy_operator.render.placement import USER

PULL_POLICIES = ("Always", "IfNotPresent", "Never")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_MAX_PORT = 65535
_MAX_ID = 1 << 31
NO_OPTIONS = ChildOptions()
AUTO = "auto"
"""The cluster's admission sets the user of pods, as OpenShift does for each namespace."""


class SettingsError(Exception):
    """A variable is missing or invalid; the message names it. The operator exits with code 2."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of an installation."""

    proxy_image: str
    """Default image of proxies."""
    policy: Policy
    """Allow-lists for LLMProxies."""
    proxy_image_pull_policy: str | None = None
    """None: the default of Kubernetes, which depends on the tag."""
    limits_store_image: str = DEFAULT_STORE_IMAGE
    """Image of the stores of shared limits."""
    limits_store_resources: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: DEFAULT_STORE_RESOURCES)
    """Requests and limits of the stores of shared limits."""
    pod_user: int | None = USER
    """User, group and fsGroup of pods; None: the cluster's admission sets them."""
    pull_secrets: tuple[str, ...] = ()
    """Names of Secrets to pull images of proxies with, in the namespace of each LLMProxy."""
    children: ChildOptions = NO_OPTIONS
    watch_namespaces: tuple[str, ...] = ()
    """Empty: all of them."""
    namespace: str = "default"
    """Namespace of the operator and its Lease."""
    pod_name: str = "operator"
    """Holder of the Lease, for people."""
    leader_election: bool = True
    lease_name: str = "llmproxy-operator"
    metrics_port: int = 8080
    """Port of health checks and metrics."""
    log_level: str = "INFO"


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Return the settings in *environment*; an empty variable counts as unset. Raise SettingsError."""
    return Settings(
        proxy_image=_required(environment, "OPERATOR_PROXY_IMAGE"),
        proxy_image_pull_policy=_pull_policy(environment),
        policy=_policy(environment),
        limits_store_image=environment.get("OPERATOR_LIMITS_STORE_IMAGE") or DEFAULT_STORE_IMAGE,
        limits_store_resources=_resources(environment, "OPERATOR_LIMITS_STORE_RESOURCES"),
        pod_user=_user(environment, "OPERATOR_POD_USER"),
        pull_secrets=_list(environment, "OPERATOR_PROXY_IMAGE_PULL_SECRETS"),
        children=ChildOptions(
            inherited_labels=_list(environment, "OPERATOR_INHERITED_LABELS"),
            inherited_annotations=_list(environment, "OPERATOR_INHERITED_ANNOTATIONS"),
            metrics_namespaces=_list(environment, "OPERATOR_METRICS_NAMESPACES"),
        ),
        watch_namespaces=_list(environment, "OPERATOR_WATCH_NAMESPACES"),
        namespace=environment.get("OPERATOR_NAMESPACE") or "default",
        pod_name=environment.get("OPERATOR_POD_NAME") or "operator",
        leader_election=_choice(environment, "OPERATOR_LEADER_ELECTION", ("true", "false"), "true") == "true",
        lease_name=environment.get("OPERATOR_LEASE_NAME") or "llmproxy-operator",
        metrics_port=_port(environment, "OPERATOR_METRICS_LISTEN_PORT", 8080),
        log_level=_choice(environment, "OPERATOR_LOG_LEVEL", LOG_LEVELS, "INFO"),
    )


def _policy(environment: Mapping[str, str]) -> Policy:
    return Policy(
        own_image=_required(environment, "OPERATOR_PROXY_IMAGE"),
        images=_list(environment, "OPERATOR_ALLOWED_IMAGES"),
        priority_classes=_list(environment, "OPERATOR_ALLOWED_PRIORITY_CLASSES") or ANY,
        service_accounts=_list(environment, "OPERATOR_ALLOWED_SERVICE_ACCOUNTS") or ANY,
        toleration_keys=_list(environment, "OPERATOR_ALLOWED_TOLERATIONS") or ANY,
        metadata_keys=_list(environment, "OPERATOR_ALLOWED_METADATA_KEYS") or METADATA_KEYS,
    )


def _list(environment: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(environment.get(name, "").replace(",", " ").split())


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise SettingsError(f"{name} is not set")
    return value


def _pull_policy(environment: Mapping[str, str]) -> str | None:
    name = "OPERATOR_PROXY_IMAGE_PULL_POLICY"
    return _choice(environment, name, PULL_POLICIES, "") if environment.get(name) else None


def _choice(environment: Mapping[str, str], name: str, choices: tuple[str, ...], default: str) -> str:
    value = environment.get(name) or default
    if value not in choices:
        raise SettingsError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    return value


def _resources(environment: Mapping[str, str], name: str) -> Mapping[str, Mapping[str, str]]:
    """Return requests and limits in JSON, with amounts in the form of the API server."""
    text = environment.get(name)
    if not text:
        return DEFAULT_STORE_RESOURCES
    try:
        return {
            kind: {resource: quantities.canonical(str(amount)) for resource, amount in amounts.items()}
            for kind, amounts in json.loads(text).items()
        }
    except (ValueError, TypeError, AttributeError) as exc:
        raise SettingsError(f"{name} must be requests and limits in JSON, got {text!r}") from exc


def _user(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name) or str(USER)
    if value == AUTO:
        return None
    if not value.isascii() or not value.isdecimal() or not 0 < int(value) < _MAX_ID:
        raise SettingsError(f"{name} must be {AUTO} or a number from 1 to {_MAX_ID - 1}, got {value!r}")
    return int(value)


def _port(environment: Mapping[str, str], name: str, default: int) -> int:
    value = environment.get(name) or str(default)
    if not value.isascii() or not value.isdecimal() or not 0 < int(value) <= _MAX_PORT:
        raise SettingsError(f"{name} must be a port from 1 to {_MAX_PORT}, got {value!r}")
    return int(value)
