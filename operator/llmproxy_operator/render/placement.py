"""Where and as whom pods run: the part of a pod's spec that the proxy's pods and those beside them have in common."""

from typing import Any

from llmproxy_api.pod import Pod

USER = 65532
"""Numeric, so that the node can see that it is not root; the group too, for the sockets and the spool."""

LOCKED: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
"""Security context of every container."""

_SPREAD_OVER = ("kubernetes.io/hostname", "topology.kubernetes.io/zone")


def security(user: int) -> dict[str, Any]:
    """Return the security context of a pod."""
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def placement(pod: Pod) -> dict[str, Any]:
    """Return where and as whom the pod runs; fields that nobody set are left out."""
    tolerations = [item.model_dump(by_alias=True, exclude_none=True) for item in pod.tolerations or ()]
    made = {
        "nodeSelector": dict(pod.node_selector or {}),
        "tolerations": tolerations,
        "priorityClassName": pod.priority_class_name,
        "imagePullSecrets": [{"name": item.name} for item in pod.image_pull_secrets or ()],
        # Always sent: a name that is taken away lives on in a deprecated field that the API server fills in beside it.
        "serviceAccountName": pod.service_account_name or "default",
    }
    return {name: value for name, value in made.items() if value}


def spread(pod: Pod, selector: dict[str, str]) -> dict[str, Any]:
    """Return the wish for other nodes and zones than those of the other pods that *selector* picks."""
    if pod.topology_spread is False:
        return {}
    constraints = [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector},
            "matchLabelKeys": ["pod-template-hash"],  # pods that a roll replaces do not count
        }
        for key in _SPREAD_OVER
    ]
    return {"topologySpreadConstraints": constraints}
