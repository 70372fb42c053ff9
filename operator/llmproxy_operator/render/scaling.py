"""How many pods there are and may be away: HorizontalPodAutoscaler, PodDisruptionBudget, and whose `replicas` is.

With autoscaling the field `replicas` of the Deployment is the autoscaler's. A field that server-side apply stops
sending falls back to its default, so it is handed over to a manager of its own first; the autoscaler takes it from
there with its first write.
"""

from collections.abc import Mapping
from typing import Any

from llmproxy_api import LLMProxy, scaling
from llmproxy_operator import names
from llmproxy_operator.manifest import Manifest, owned

HOLDER = f"{names.FIELD_MANAGER}-replicas"
"""Field manager that holds `replicas` from when we leave it until the autoscaler has written it."""


def autoscaler(proxy: LLMProxy) -> Manifest | None:
    """Return the HorizontalPodAutoscaler of *proxy*, None without autoscaling."""
    wanted, name = proxy.spec.autoscaling, proxy.metadata.name
    if wanted is None:
        return None
    target = wanted.target_cpu_utilization or scaling.DEFAULT_TARGET_CPU
    labels = names.labels(name, names.SCALE)
    return {
        **owned(proxy, "autoscaling/v2", "HorizontalPodAutoscaler", names.autoscaler(name), labels),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": names.deployment(name)},
            "minReplicas": min_replicas(wanted),
            "maxReplicas": wanted.max_replicas,
            "metrics": [
                {
                    # Of the gateway alone: a shipper that works off its spool is no reason for more gateways.
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
    """Return the PodDisruptionBudget of *proxy*, None if it wants none and one pod is all there is."""
    wanted, name = proxy.spec.disruption_budget, proxy.metadata.name
    given = wanted.max_unavailable if wanted is not None else None
    if given is None and not proxy.spec.multi_pod:
        return None
    labels = names.labels(name, names.SCALE)
    return {
        **owned(proxy, "policy/v1", "PodDisruptionBudget", names.budget(name), labels),
        "spec": {
            "maxUnavailable": given or 1,
            "selector": {"matchLabels": names.selector_labels(name)},
            # A pod that does not serve protects nobody, and must not keep a node from being emptied.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def replicas(proxy: LLMProxy) -> int | None:
    """Return how many pods the operator wants, None if that is the autoscaler's to say."""
    if proxy.spec.autoscaling is not None:
        return None
    return 1 if proxy.spec.replicas is None else proxy.spec.replicas


def floor(proxy: LLMProxy) -> int | None:
    """Return how many pods are enough for the proxy to be ready, None if all are that are wanted."""
    return None if proxy.spec.autoscaling is None else min_replicas(proxy.spec.autoscaling)


def first(wanted: Manifest, proxy: LLMProxy) -> Manifest:
    """Return *wanted*, a Deployment that is not there yet, with as many pods as the autoscaler would begin with."""
    if proxy.spec.autoscaling is None:
        return wanted
    return {**wanted, "spec": {**wanted["spec"], "replicas": min_replicas(proxy.spec.autoscaling)}}


def handed_over(proxy: LLMProxy, live: Manifest) -> Manifest | None:
    """Return what HOLDER must apply before *live*, a Deployment, is applied without `replicas`; None: nothing.

    The count stays what it is, within the autoscaler's bounds: at 0 it would do nothing for ever.
    """
    bounds = proxy.spec.autoscaling
    if bounds is None or not _ours(live):
        return None
    count = min(max(int(live["spec"].get("replicas", 1)), min_replicas(bounds)), bounds.max_replicas)
    # At this very version: a count that somebody else writes at this moment is not undone.
    metadata = {key: live["metadata"][key] for key in ("name", "namespace", "uid", "resourceVersion")}
    return {
        "apiVersion": live["apiVersion"],
        "kind": live["kind"],
        "metadata": metadata,
        "spec": {"replicas": count},
    }


def min_replicas(wanted: scaling.Autoscaling) -> int:
    """Return how many pods there are at least."""
    return wanted.min_replicas or scaling.DEFAULT_MIN_REPLICAS


def _ours(live: Mapping[str, Any]) -> bool:
    """Whether we own the field `replicas` and nobody else does."""
    owners = {
        str(entry.get("manager"))
        for entry in live["metadata"].get("managedFields") or ()
        if "f:replicas" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})
    }
    return owners == {names.FIELD_MANAGER}
