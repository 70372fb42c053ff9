"""Store of shared limits of one proxy: a small Valkey without a disk.

It holds a minute of counters and nothing else. After a restart the gateways apply their offline quotas until its
windows are complete again; so there is one pod, never two at a time, and nothing is persisted.
"""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from llmproxy_api import LLMProxy
from llmproxy_api.pod import Pod
from llmproxy_operator import names
from llmproxy_operator.manifest import Manifest, owned
from llmproxy_operator.render import network
from llmproxy_operator.render.inputs import Inputs
from llmproxy_operator.render.placement import LOCKED, placement, security

MAX_MEMORY = "64mb"
"""Counters of 64 models take less than 1 MB; above this the store refuses writes, and evicts nothing."""
_PASSWORD = "LIMITS_PASSWORD"  # noqa: S105 - the name of a variable
_ARGUMENTS = (
    *("--port", str(names.PORT_LIMITS)),
    *("--save", ""),
    *("--appendonly", "no"),
    *("--maxmemory", MAX_MEMORY),
    *("--maxmemory-policy", "noeviction"),
    *("--dir", "/tmp"),  # noqa: S108 - a volume of the pod, and nothing is written
    *("--requirepass", f"$({_PASSWORD})"),
)


def password(token: str) -> str:
    """Return the store's password, derived from the token of the proxy's pods by a one-way function."""
    return hmac.new(token.encode(), b"store of shared limits", hashlib.sha256).hexdigest()


def environment(proxy: LLMProxy, variable: str) -> list[dict[str, Any]]:
    """Return the gateway's environment for the store: its URL in *variable*."""
    name = proxy.metadata.name
    host = names.host(names.limits(name), proxy.metadata.namespace)
    return [
        {"name": _PASSWORD, "valueFrom": _password(name)},
        {"name": variable, "value": f"redis://:$({_PASSWORD})@{host}:{names.PORT_LIMITS}/0"},
    ]


def template(proxy: LLMProxy, inputs: Inputs) -> dict[str, Any]:
    """Return the pod template of the store."""
    name, pod = proxy.metadata.name, proxy.spec.pod or Pod()
    digest = inputs.secret_digests[names.peers(name), names.LIMITS_PASSWORD_KEY]
    probe = {"tcpSocket": {"port": names.LIMITS}, "timeoutSeconds": 3}
    container = {
        "name": names.LIMITS,
        "image": inputs.store_image,
        # The entrypoint of the images of Valkey and Redis takes options of the server.
        "args": list(_ARGUMENTS),
        "env": [{"name": _PASSWORD, "valueFrom": _password(name)}],
        "ports": [{"name": names.LIMITS, "containerPort": names.PORT_LIMITS, "protocol": "TCP"}],
        "readinessProbe": {**probe, "periodSeconds": 5, "failureThreshold": 2},
        "livenessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 6},
        "resources": {kind: dict(amounts) for kind, amounts in inputs.store_resources.items()},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": LOCKED,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - as above
    }
    return {
        "metadata": {
            "labels": {**(pod.labels or {}), **names.labels(name, names.LIMITS)},
            "annotations": {**(pod.annotations or {}), names.ANNOTATION_CONFIG_HASH: digest[:16]},
        },
        "spec": {
            **placement(pod, inputs.pull_secrets),
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 5,
            "securityContext": security(inputs.pod_user),
            "containers": [container],
            "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "16Mi"}}],
        },
    }


def objects(proxy: LLMProxy, pods: Mapping[str, Any]) -> tuple[Manifest, ...]:
    """Return the objects of the store with the pod template *pods*."""
    name = proxy.metadata.name
    labels, selector = names.labels(name, names.LIMITS), names.limits_selector_labels(name)
    port = {"name": names.LIMITS, "port": names.PORT_LIMITS, "protocol": "TCP", "targetPort": names.LIMITS}
    callers = {"podSelector": {"matchLabels": names.selector_labels(name)}}
    policy = {
        **owned(proxy, "networking.k8s.io/v1", "NetworkPolicy", names.limits(name), labels),
        "spec": {
            "podSelector": {"matchLabels": selector},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [callers], "ports": [network.tcp(names.PORT_LIMITS), network.tcp(network.HBONE)]}],
        },
    }
    service = {
        **owned(proxy, "v1", "Service", names.limits(name), labels),
        "spec": {"type": "ClusterIP", "selector": selector, "ports": [port]},
    }
    deployment = {
        **owned(proxy, "apps/v1", "Deployment", names.limits(name), labels),
        "spec": {
            "replicas": 1,
            "revisionHistoryLimit": 1,
            "progressDeadlineSeconds": 180,  # a pod that is not ready by then is reported
            "selector": {"matchLabels": selector},
            "strategy": {"type": "Recreate"},  # two stores at a time would admit twice the limit
            "template": dict(pods),
        },
    }
    return policy, service, deployment


def _password(name: str) -> dict[str, Any]:
    return {"secretKeyRef": {"name": names.peers(name), "key": names.LIMITS_PASSWORD_KEY}}
