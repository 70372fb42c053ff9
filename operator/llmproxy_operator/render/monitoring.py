"""PodMonitor for the prometheus-operator; rendered only if the resource says so."""

from llmproxy_api import LLMProxy
from llmproxy_operator import names
from llmproxy_operator.manifest import Manifest, owned

LABEL = "llmproxy"
"""Label of every series with the LLMProxy's name: alert rules and dashboards use it."""
API_VERSION, KIND = "monitoring.coreos.com/v1", "PodMonitor"

_NAMED = {"sourceLabels": ["__meta_kubernetes_pod_label_llmproxy_dev_name"], "targetLabel": LABEL}


def pod_monitor(proxy: LLMProxy) -> Manifest | None:
    """Return the PodMonitor of *proxy*, None if it has none."""
    monitoring = proxy.spec.monitoring
    if monitoring is None or not monitoring.pod_monitor:
        return None
    name = proxy.metadata.name
    labels = {**(monitoring.labels or {}), **names.labels(name, names.MONITOR)}
    return {
        **owned(proxy, API_VERSION, KIND, names.monitor(name), labels),
        "spec": {
            "selector": {"matchLabels": names.selector_labels(name)},
            "podMetricsEndpoints": [{"port": "admin", "path": "/metrics", "relabelings": [_NAMED]}],
        },
    }
