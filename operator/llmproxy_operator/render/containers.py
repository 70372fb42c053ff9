"""Containers of a proxy pod: the gateway, and shipper and translator as native sidecars.

A native sidecar starts before the gateway and ends after it, so the shipper receives the last call's record. Neither
has probes, and both run under a supervisor: a sidecar that fails a probe or ends would make the pod unready, and a
sidecar in trouble must not affect callers.
"""

from typing import Any

from llmproxy_api import LLMProxy, quantities, resources
from llmproxy_operator import names
from llmproxy_operator.render import store
from llmproxy_operator.render.config import (
    LIMITS_URL,
    SecretRef,
    client_secret,
    environment_references,
    environment_values,
    header_references,
    is_translated,
    key_variable,
    keyed_deployments,
    store_references,
)
from llmproxy_operator.render.configmaps import CONFIG_FILE
from llmproxy_operator.render.inputs import Inputs
from llmproxy_operator.render.placement import LOCKED

Container = dict[str, Any]

CONFIG_DIR = "/etc/llmproxy"
CONTROL_DIR = "/etc/llmproxy-control"
KEYS_DIR = "/etc/llmproxy-keys"
"""Mount paths of Secrets that a running pod reads anew; none lies within the ConfigMap's."""
RUN_DIR = "/run/llmproxy"
SPOOL_DIR = "/var/spool/llmproxy"
TMP_DIR = "/tmp"  # noqa: S108 - a volume of the pod
TRANSLATOR_PYTHON = "/opt/translator/bin/python"
"""litellm cannot share an environment with the rest of the image."""

PRE_STOP_S = 5
"""Delay of the shutdown: a pod leaves the Service some time after its termination begins."""

_Defaults = dict[str, dict[str, str]]

_GATEWAY: _Defaults = {"requests": {"cpu": "250m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}
_SHIPPER: _Defaults = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}
_TRANSLATOR: _Defaults = {"requests": {"cpu": "100m", "memory": "384Mi"}, "limits": {"memory": "1Gi"}}


def gateway(proxy: LLMProxy, inputs: Inputs) -> Container:
    """Return the container of the gateway."""
    name, namespace = proxy.metadata.name, proxy.metadata.namespace
    peers_host = names.host(names.peers(name), namespace)
    return {
        **_base(proxy, inputs, names.GATEWAY, python="python"),
        "args": [*_arguments("llmproxy.gateway"), "--peers", peers_host, *_control(), *_api_keys(proxy)],
        "env": [
            _field("POD_IP", "status.podIP"),
            _field("POD_UID", "metadata.uid"),
            _secret("PEER_TOKEN", (names.peers(name), names.PEER_TOKEN_KEY)),
            *_keys(proxy, translated=False),
            *_store(proxy),
        ],
        "ports": [
            _port("http", names.PORT_HTTP),
            _port("admin", names.PORT_ADMIN),
            _port("control", names.PORT_CONTROL),
            _port("peers", names.PORT_PEERS),
        ],
        # Ready once it has taken over the counters of the pod that it replaces: seconds, at most minutes.
        "startupProbe": _probe("/readyz", period_s=1, failures=120),
        "readinessProbe": _probe("/readyz", period_s=5, failures=2),
        "livenessProbe": _probe("/healthz", period_s=10, failures=6),
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_S}}},
        "resources": amounts(proxy.spec.resources, _GATEWAY),
        "volumeMounts": _mounts("config", "run", "tmp", "control", *_keys_volume(proxy)),
    }


def shipper(proxy: LLMProxy, inputs: Inputs) -> Container:
    """Return the sidecar that stores and delivers call records."""
    return {
        **_base(proxy, inputs, names.SHIPPER, python="python"),
        "restartPolicy": "Always",
        "args": [*_supervised("llmproxy.shipper"), "--spool-dir", SPOOL_DIR],
        "env": [_secret(key_variable(ref), ref) for ref in header_references(proxy)],
        "resources": amounts(proxy.spec.spans.resources if proxy.spec.spans is not None else None, _SHIPPER),
        "volumeMounts": _mounts("config", "run", "spool", "tmp"),
    }


def translator(proxy: LLMProxy, inputs: Inputs) -> Container:
    """Return the sidecar that translates for providers with a protocol of their own."""
    return {
        **_base(proxy, inputs, names.TRANSLATOR, python=TRANSLATOR_PYTHON),
        "restartPolicy": "Always",
        "args": _supervised("llmproxy.translator"),
        "env": [*_keys(proxy, translated=True), *_environment(proxy)],
        "resources": amounts(
            proxy.spec.translator.resources if proxy.spec.translator is not None else None, _TRANSLATOR
        ),
        "volumeMounts": _mounts("config", "run", "tmp"),
    }


def sidecars(proxy: LLMProxy, inputs: Inputs) -> list[Container]:
    """Return the sidecars that *proxy* needs."""
    items = []
    if proxy.spec.spans is not None:
        items.append(shipper(proxy, inputs))
    if any(is_translated(item) for model in proxy.spec.models for item in model.deployments):
        items.append(translator(proxy, inputs))
    return items


def amounts(spec: resources.Resources | None, default: _Defaults) -> dict[str, dict[str, str]]:
    """Return requests and limits; those that *spec* leaves out are of *default*, without contradicting the rest."""
    requests = _amounts(spec.requests if spec is not None else None)
    limits = _amounts(spec.limits if spec is not None else None)
    if "memory" not in limits:
        limits["memory"] = _larger(default["limits"]["memory"], requests.get("memory"))
    for name, amount in default["requests"].items():
        if name not in requests:
            requests[name] = _smaller(amount, limits.get(name))
    return {"requests": requests, "limits": limits}


def _amounts(spec: resources.ResourceAmounts | None) -> dict[str, str]:
    values = {} if spec is None else {"cpu": spec.cpu, "memory": spec.memory}
    return {name: quantities.canonical(amount) for name, amount in values.items() if amount is not None}


def _smaller(default: str, bound: str | None) -> str:
    return default if bound is None else min(default, bound, key=quantities.value)


def _larger(default: str, bound: str | None) -> str:
    return default if bound is None else max(default, bound, key=quantities.value)


def _base(proxy: LLMProxy, inputs: Inputs, name: str, *, python: str) -> Container:
    policy = {} if inputs.image_pull_policy is None else {"imagePullPolicy": inputs.image_pull_policy}
    return {
        "name": name,
        "image": proxy.spec.image or inputs.image,
        **policy,
        "command": [python],
        # The operator may not read logs: the status of a container holds their last lines.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": LOCKED,
    }


def _control() -> list[str]:
    return ["--control-token-file", f"{CONTROL_DIR}/{names.CONTROL_TOKEN_KEY}"]


def _api_keys(proxy: LLMProxy) -> list[str]:
    return [] if client_secret(proxy) is None else ["--keys-dir", KEYS_DIR]


def _keys_volume(proxy: LLMProxy) -> tuple[str, ...]:
    return () if client_secret(proxy) is None else ("keys",)


def _arguments(module: str) -> list[str]:
    return ["-m", module, "--config", f"{CONFIG_DIR}/{CONFIG_FILE}", "--run-dir", RUN_DIR]


def _supervised(module: str) -> list[str]:
    """Return the arguments of a sidecar whose first process restarts it: one that ends would make the pod unready."""
    return ["-m", "llmproxy.supervisor", *_arguments(module)]


def _keys(proxy: LLMProxy, *, translated: bool) -> list[dict[str, Any]]:
    refs = {ref for deployment, ref in keyed_deployments(proxy) if is_translated(deployment) is translated}
    return [_secret(key_variable(ref), ref) for ref in sorted(refs)]


def _environment(proxy: LLMProxy) -> list[dict[str, Any]]:
    """Return the variables of `spec.pod.env`: accounts at providers."""
    plain = [{"name": name, "value": value} for name, value in environment_values(proxy).items()]
    return plain + [_secret(name, ref) for name, ref in environment_references(proxy).items()]


def _store(proxy: LLMProxy) -> list[dict[str, Any]]:
    """Return the gateway's variables for the store of shared limits."""
    if proxy.spec.sharing == "Managed":
        return store.environment(proxy, LIMITS_URL)
    return [_secret(variable, ref) for variable, ref in store_references(proxy).items()]


def _secret(variable: str, ref: SecretRef) -> dict[str, Any]:
    name, key = ref
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}


def _field(variable: str, path: str) -> dict[str, Any]:
    return {"name": variable, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def _port(name: str, number: int) -> dict[str, Any]:
    return {"name": name, "containerPort": number, "protocol": "TCP"}


def _probe(path: str, *, period_s: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "admin", "scheme": "HTTP"},
        "periodSeconds": period_s,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    }


def _mounts(*volumes: str) -> list[dict[str, Any]]:
    places: dict[str, dict[str, Any]] = {
        "config": {"mountPath": CONFIG_DIR, "readOnly": True},
        "control": {"mountPath": CONTROL_DIR, "readOnly": True},
        "keys": {"mountPath": KEYS_DIR, "readOnly": True},
        "run": {"mountPath": RUN_DIR},
        "spool": {"mountPath": SPOOL_DIR},
        "tmp": {"mountPath": TMP_DIR},
    }
    return [{"name": name, **places[name]} for name in volumes]
