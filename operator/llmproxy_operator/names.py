"""Names, labels and annotations that the operator writes; none is built anywhere else."""

from collections.abc import Mapping

FIELD_MANAGER = "llmproxy-operator"

LABEL_NAME = "llmproxy.dev/name"
LABEL_COMPONENT = "llmproxy.dev/component"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
ANNOTATION_CONFIG_HASH = "llmproxy.dev/config-hash"
ANNOTATION_TEMPLATE_HASH = "llmproxy.dev/template-hash"
"""On pods: hash of the whole template, by which pods of an older one are recognized."""
ANNOTATION_PAUSED = "llmproxy.dev/paused"
ANNOTATION_RESTART = "llmproxy.dev/restart"
"""On an LLMProxy, for people: the first pauses the operator, a new value of the second rolls the pods once."""

GATEWAY = "gateway"
SHIPPER = "shipper"
TRANSLATOR = "translator"
CONFIG = "config"
ENDPOINT = "endpoint"
PEERS = "peers"
CONTROL = "control"
POLICY = "policy"
REVISION = "revision"
MONITOR = "monitor"
LIMITS = "limits"
SCALE = "scale"
"""Components: the first three are containers too."""

PORT_HTTP = 4000
PORT_ADMIN = 9090
PORT_CONTROL = 9091
PORT_PEERS = 9092
PORT_LIMITS = 6379

PEER_TOKEN_KEY = "token"  # noqa: S105 - the name of a key
LIMITS_PASSWORD_KEY = "limits-password"  # noqa: S105 - the name of a key
"""Keys in the Secret of the peers."""
CONTROL_TOKEN_KEY = "token"  # noqa: S105 - the name of a key
"""Key in the Secret of the control port."""


def deployment(proxy: str) -> str:
    """Name of the Deployment of *proxy*."""
    return proxy


def service(proxy: str) -> str:
    """Name of the Service that trainers call."""
    return proxy


def config(proxy: str, document_hash: str) -> str:
    """Name of the immutable ConfigMap that holds one contract document."""
    return f"{proxy}-config-{document_hash}"


def endpoint(proxy: str) -> str:
    """Name of the ConfigMap with the environment for pods of trainers."""
    return f"{proxy}-endpoint"


def revision(proxy: str, request_hash: str) -> str:
    """Name of the ControllerRevision that holds the pods' template."""
    return f"{proxy}-{request_hash}"


def policy(proxy: str) -> str:
    """Name of the NetworkPolicy of the pods."""
    return proxy


def monitor(proxy: str) -> str:
    """Name of the PodMonitor."""
    return proxy


def control(proxy: str) -> str:
    """Name of the Secret with the token of the control port, for trainers."""
    return f"{proxy}-control"


def peers(proxy: str) -> str:
    """Name of the headless Service by which pods find each other, and of the Secret with their token."""
    return f"{proxy}-peers"


def limits(proxy: str) -> str:
    """Name of every object of the store of shared limits."""
    return f"{proxy}-limits"


def autoscaler(proxy: str) -> str:
    """Name of the HorizontalPodAutoscaler."""
    return proxy


def budget(proxy: str) -> str:
    """Name of the PodDisruptionBudget."""
    return proxy


def host(service_name: str, namespace: str) -> str:
    """DNS name of a Service, as pods of any namespace resolve it."""
    return f"{service_name}.{namespace}.svc"


def endpoint_url(proxy: str, namespace: str) -> str:
    """URL of *proxy*, without `/v1`."""
    return f"http://{host(service(proxy), namespace)}:{PORT_HTTP}"


def labels(proxy: str, component: str) -> dict[str, str]:
    """Labels of a child of *proxy*. None is copied from it: GitOps tools would take the child for theirs."""
    return {
        LABEL_NAME: proxy,
        LABEL_COMPONENT: component,
        "app.kubernetes.io/name": "llmproxy",
        "app.kubernetes.io/instance": proxy,
        "app.kubernetes.io/component": component,
        LABEL_MANAGED_BY: FIELD_MANAGER,
    }


def selector_labels(proxy: str) -> dict[str, str]:
    """Selector of the pods of *proxy*; immutable in a Deployment."""
    return {LABEL_NAME: proxy, LABEL_COMPONENT: GATEWAY}


def limits_selector_labels(proxy: str) -> dict[str, str]:
    """Selector of the pod of the store of shared limits."""
    return {LABEL_NAME: proxy, LABEL_COMPONENT: LIMITS}


def selector(match_labels: Mapping[str, str]) -> str:
    """Return *match_labels* as a label selector in text."""
    return ",".join(f"{key}={value}" for key, value in sorted(match_labels.items()))
