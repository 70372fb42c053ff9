"""Deployment of a proxy. No call fails in a roll: the new pod is ready before the old one terminates."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from llmproxy_api import LLMProxy, quantities
from llmproxy_api.pod import Pod
from llmproxy_operator import names
from llmproxy_operator.manifest import Manifest, owned
from llmproxy_operator.render import containers
from llmproxy_operator.render.config import (
    MAX_SURGE,
    client_secret,
    config_hash,
    digested,
    document,
    document_hash,
    drain_timeout_s,
    spool_bytes,
)
from llmproxy_operator.render.inputs import Inputs
from llmproxy_operator.render.placement import placement, security, spread
from llmproxy_operator.render.scaling import replicas

FLUSH_S = 15
"""Time for the shipper to deliver its spool after the gateway has ended."""
MARGIN_S = 5
"""Margin before the kubelet kills the pod."""
PROGRESS_DEADLINE_S = 180
"""Deadline of a new pod's readiness, after which it is reported."""
REVISIONS = 3
"""Old ReplicaSets that stay, and with them their ConfigMaps."""


def deployment(proxy: LLMProxy, pods: Mapping[str, Any]) -> Manifest:
    """Return the Deployment; *pods* is their template."""
    name = proxy.metadata.name
    count = replicas(proxy)
    return {
        **owned(proxy, "apps/v1", "Deployment", names.deployment(name), names.labels(name, names.GATEWAY)),
        "spec": {
            **({} if count is None else {"replicas": count}),
            "revisionHistoryLimit": REVISIONS,
            "progressDeadlineSeconds": PROGRESS_DEADLINE_S,
            "selector": {"matchLabels": names.selector_labels(name)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": MAX_SURGE}},
            "template": pods,
        },
    }


def grace_period_s(proxy: LLMProxy) -> int:
    """Return the grace period of a pod in seconds; a shorter one would cut calls."""
    return containers.PRE_STOP_S + math.ceil(drain_timeout_s(proxy.spec)) + FLUSH_S + MARGIN_S


def pod_config_hash(proxy: LLMProxy, inputs: Inputs) -> str:
    """Return the config hash of the pods of *proxy*; raise KeyError for a Secret without a digest in *inputs*."""
    digests = {ref: inputs.secret_digests[ref] for ref in digested(proxy)}
    return config_hash(document(proxy), digests)


def template(proxy: LLMProxy, inputs: Inputs) -> dict[str, Any]:
    """Return the pod template of *proxy*, as this release renders it."""
    pod = {"metadata": _metadata(proxy, inputs), "spec": _pod(proxy, inputs)}
    pod["metadata"]["annotations"][names.ANNOTATION_TEMPLATE_HASH] = template_hash(pod)
    return pod


def template_hash(pod: dict[str, Any]) -> str:
    """Return the hash of a template; its pods carry it."""
    text = json.dumps(pod, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _metadata(proxy: LLMProxy, inputs: Inputs) -> dict[str, Any]:
    pod = proxy.spec.pod or Pod()
    return {
        "labels": {**(pod.labels or {}), **names.labels(proxy.metadata.name, names.GATEWAY)},
        "annotations": {
            **(pod.annotations or {}),
            names.ANNOTATION_CONFIG_HASH: pod_config_hash(proxy, inputs),
            "kubectl.kubernetes.io/default-container": names.GATEWAY,
            **({names.ANNOTATION_RESTART: inputs.restart} if inputs.restart else {}),
        },
    }


def _pod(proxy: LLMProxy, inputs: Inputs) -> dict[str, Any]:
    sidecars = containers.sidecars(proxy, inputs)
    pod = proxy.spec.pod or Pod()
    return {
        **placement(pod, inputs.pull_secrets),
        **spread(pod, names.selector_labels(proxy.metadata.name)),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_period_s(proxy),
        "securityContext": security(inputs.pod_user),
        **({"initContainers": sidecars} if sidecars else {}),
        "containers": [containers.gateway(proxy, inputs)],
        "volumes": _volumes(proxy, inputs),
    }


def _volumes(proxy: LLMProxy, inputs: Inputs) -> list[dict[str, Any]]:
    config = names.config(proxy.metadata.name, document_hash(document(proxy).to_json()))
    volumes: list[dict[str, Any]] = [
        {"name": "config", "configMap": {"name": config}},
        {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "128Mi"}},
    ]
    volumes.append({"name": "control", "secret": _readable(names.control(proxy.metadata.name), inputs)})
    if (keys := client_secret(proxy)) is not None:
        volumes.append({"name": "keys", "secret": _readable(keys, inputs)})
    if proxy.spec.spans is not None:
        volumes.append({"name": "spool", "emptyDir": {"sizeLimit": _spool_size_limit(spool_bytes(proxy.spec.spans))}})
    return volumes


def _readable(secret: str, inputs: Inputs) -> dict[str, Any]:
    """Return the volume source of a Secret that only the pod's user and group may read.

    Without an fsGroup of ours its files may belong to root alone, so any user of the container may read them then.
    """
    return {"secretName": secret, "defaultMode": 0o440 if inputs.pod_user is not None else 0o444}


def _spool_size_limit(cap_bytes: int) -> str:
    """Return a limit well above the spool's own: at the limit of the volume the kubelet evicts the pod."""
    return quantities.canonical(f"{math.ceil(cap_bytes * 1.25 / (1 << 20)) + 64}Mi")
