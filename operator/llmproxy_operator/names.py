"""Every name, label and annotation that the operator writes; nobody builds one anywhere else."""

from collections.abc import Mapping

FIELD_MANAGER = "llmproxy-operator"

LABEL_NAME = "llmproxy.dev/name"
LABEL_COMPONENT = "llmproxy.dev/component"
ANNOTATION_CONFIG_HASH = "llmproxy.dev/config-hash"
ANNOTATION_TEMPLATE_HASH = "llmproxy.dev/template-hash"
"""On pods: stands for the whole template, so that pods of an older one can be told apart."""
ANNOTATION_PAUSED = "llmproxy.dev/paused"
ANNOTATION_RESTART = "llmproxy.dev/restart"
"""On an LLMProxy, for people: the first stops the operator's hands, another text in the second rolls the pods once."""

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
    """Name of the Deployment that runs *proxy*."""
    return proxy


def service(proxy: str) -> str:
    """Name of the Service that trainers call."""
    return proxy


def config(proxy: str, document_hash: str) -> str:
    """Name of the immutable ConfigMap that holds one contract document."""
    return f"{proxy}-config-{document_hash}"


def endpoint(proxy: str) -> str:
    """Name of the ConfigMap that trainers' pods take their environment from."""
    return f"{proxy}-endpoint"


def revision(proxy: str, asked: str) -> str:
    """Name of the ControllerRevision that keeps what the pods are made from."""
    return f"{proxy}-{asked}"


def policy(proxy: str) -> str:
    """Name of the NetworkPolicy that says who may call, and what the pods may call."""
    return proxy


def monitor(proxy: str) -> str:
    """Name of the PodMonitor."""
    return proxy


def control(proxy: str) -> str:
    """Name of the Secret with the token of the control port, for the proxy's trainers."""
    return f"{proxy}-control"


def peers(proxy: str) -> str:
    """Name of the headless Service by which pods find each other, and of the Secret with their token."""
    return f"{proxy}-peers"


def limits(proxy: str) -> str:
    """Name of everything that belongs to the store of shared limits."""
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
    """Where *proxy* serves, without `/v1`."""
    return f"http://{host(service(proxy), namespace)}:{PORT_HTTP}"


def labels(proxy: str, component: str) -> dict[str, str]:
    """Labels of a child of *proxy*. None is copied from it: GitOps tools would take the child for theirs."""
    return {
        LABEL_NAME: proxy,
        LABEL_COMPONENT: component,
        "app.kubernetes.io/name": "llmproxy",
        "app.kubernetes.io/instance": proxy,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/managed-by": FIELD_MANAGER,
    }


def selector_labels(proxy: str) -> dict[str, str]:
    """What picks the pods of *proxy*; a Deployment can never change it."""
    return {LABEL_NAME: proxy, LABEL_COMPONENT: GATEWAY}


def limits_selector_labels(proxy: str) -> dict[str, str]:
    """What picks the one pod of the store of shared limits."""
    return {LABEL_NAME: proxy, LABEL_COMPONENT: LIMITS}


def selector(labels_wanted: Mapping[str, str]) -> str:
    """Return *labels_wanted* as a label selector in text."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels_wanted.items()))
