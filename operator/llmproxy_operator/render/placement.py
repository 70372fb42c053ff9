"""Scheduling and security context: the part of a pod's spec that gateways and the store of limits share."""

from typing import Any

from llmproxy_api.pod import Pod

USER = 65532
"""User and group. Numeric, so that the kubelet can verify runAsNonRoot; the group is for the sockets and the spool."""

LOCKED: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
"""Security context of every container."""

_SPREAD_OVER = ("kubernetes.io/hostname", "topology.kubernetes.io/zone")


def security(user: int | None) -> dict[str, Any]:
    """Return the security context of a pod; without *user* the cluster's admission sets user and groups (OpenShift)."""
    ids = {} if user is None else {"runAsUser": user, "runAsGroup": user, "fsGroup": user}
    return {"runAsNonRoot": True, **ids, "seccompProfile": {"type": "RuntimeDefault"}}


def placement(pod: Pod, pull_secrets: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the scheduling fields of a pod; unset ones are left out. *pull_secrets* are those of the installation."""
    secrets = dict.fromkeys([*(item.name for item in pod.image_pull_secrets or ()), *pull_secrets])
    tolerations = [item.model_dump(by_alias=True, exclude_none=True) for item in pod.tolerations or ()]
    fields = {
        "nodeSelector": dict(pod.node_selector or {}),
        "tolerations": tolerations,
        "priorityClassName": pod.priority_class_name,
        "imagePullSecrets": [{"name": name} for name in secrets],
        # Always sent: a removed name would live on in `serviceAccount`, which the API server defaults from it.
        "serviceAccountName": pod.service_account_name or "default",
    }
    return {name: value for name, value in fields.items() if value}


def spread(pod: Pod, selector: dict[str, str]) -> dict[str, Any]:
    """Return a soft spread of the pods that *selector* picks over nodes and zones."""
    if pod.topology_spread is False:
        return {}
    constraints = [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector},
            "matchLabelKeys": ["pod-template-hash"],  # pods of an older template do not count
        }
        for key in _SPREAD_OVER
    ]
    return {"topologySpreadConstraints": constraints}
