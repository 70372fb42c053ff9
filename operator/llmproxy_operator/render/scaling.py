"""Number of pods: HorizontalPodAutoscaler, PodDisruptionBudget, and the owner of the field `replicas`.

With autoscaling the field `replicas` of the Deployment is the autoscaler's. A field that server-side apply stops
sending falls back to its default, so it is handed over to a field manager of its own first; the autoscaler takes it
from there with its first write.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from llmproxy_api import LLMProxy, scaling
from llmproxy_operator import names
from llmproxy_operator.manifest import Manifest, owned

HOLDER = f"{names.FIELD_MANAGER}-replicas"
"""Field manager of `replicas` between the operator and the autoscaler's first write."""


def autoscaler(proxy: LLMProxy) -> Manifest | None:
    """Return the HorizontalPodAutoscaler of *proxy*, None without autoscaling."""
    bounds, name = proxy.spec.autoscaling, proxy.metadata.name
    if bounds is None:
        return None
    target = bounds.target_cpu_utilization or scaling.DEFAULT_TARGET_CPU
    labels = names.labels(name, names.SCALE)
    return {
        **owned(proxy, "autoscaling/v2", "HorizontalPodAutoscaler", names.autoscaler(name), labels),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": names.deployment(name)},
            "minReplicas": min_replicas(bounds),
            "maxReplicas": bounds.max_replicas,
            "metrics": [
                {
                    # Of the gateway alone: a shipper that delivers a backlog needs no more gateways.
                    "type": "ContainerResource",
                    "containerResource": {
                        "name": "cpu",
                        "container": names.GATEWAY,
                        "target": {"type": "Utilization", "averageUtilization": target},
                    },
                }
            ],
        },
    }


def disruption_budget(proxy: LLMProxy) -> Manifest | None:
    """Return the PodDisruptionBudget of *proxy*, None if it has none and runs only one pod."""
    budget, name = proxy.spec.disruption_budget, proxy.metadata.name
    max_unavailable = budget.max_unavailable if budget is not None else None
    if max_unavailable is None and not proxy.spec.multi_pod:
        return None
    labels = names.labels(name, names.SCALE)
    return {
        **owned(proxy, "policy/v1", "PodDisruptionBudget", names.budget(name), labels),
        "spec": {
            "maxUnavailable": max_unavailable or 1,
            "selector": {"matchLabels": names.selector_labels(name)},
            # A pod that does not serve must not keep a node from being drained.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def inactive_note(live: Iterable[Manifest]) -> str:
    """Return why the autoscaler among *live* does not scale, empty if it does."""
    for item in live:
        if item["kind"] == "HorizontalPodAutoscaler":
            for condition in (item.get("status") or {}).get("conditions") or ():
                if (condition["type"], condition["status"]) == ("ScalingActive", "False"):
                    return f"the autoscaler does not scale: {condition.get('message') or condition.get('reason')}"
    return ""


def replicas(proxy: LLMProxy) -> int | None:
    """Return the desired number of pods, None if the autoscaler decides it."""
    if proxy.spec.autoscaling is not None:
        return None
    return 1 if proxy.spec.replicas is None else proxy.spec.replicas


def min_ready(proxy: LLMProxy) -> int | None:
    """Return the number of ready pods that is enough with autoscaling, None without."""
    return None if proxy.spec.autoscaling is None else min_replicas(proxy.spec.autoscaling)


def first(desired: Manifest, proxy: LLMProxy) -> Manifest:
    """Return *desired*, a Deployment to create, with the number of pods that the autoscaler would begin with."""
    if proxy.spec.autoscaling is None:
        return desired
    return {**desired, "spec": {**desired["spec"], "replicas": min_replicas(proxy.spec.autoscaling)}}


def replicas_handover(proxy: LLMProxy, live: Manifest) -> Manifest | None:
    """Return the manifest that HOLDER must apply before *live*, a Deployment, is applied without `replicas`; or None.

    The count stays, within the autoscaler's bounds: at 0 an autoscaler does nothing for ever.
    """
    bounds = proxy.spec.autoscaling
    if bounds is None or not _ours(live):
        return None
    count = min(max(int(live["spec"].get("replicas", 1)), min_replicas(bounds)), bounds.max_replicas)
    # At this resourceVersion: a count that somebody else writes at this moment is not undone.
    metadata = {key: live["metadata"][key] for key in ("name", "namespace", "uid", "resourceVersion")}
    return {
        "apiVersion": live["apiVersion"],
        "kind": live["kind"],
        "metadata": metadata,
        "spec": {"replicas": count},
    }


def min_replicas(bounds: scaling.Autoscaling) -> int:
    """Return the minimum number of pods."""
    return bounds.min_replicas or scaling.DEFAULT_MIN_REPLICAS


def _ours(live: Mapping[str, Any]) -> bool:
    """Return whether the operator owns the field `replicas` alone."""
    owners = {
        str(entry.get("manager"))
        for entry in live["metadata"].get("managedFields") or ()
        if "f:replicas" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})
    }
    return owners == {names.FIELD_MANAGER}
