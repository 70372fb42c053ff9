"""Service for trainers, and the headless Service by which the pods of a roll find each other."""

from llmproxy_api import LLMProxy
from llmproxy_operator import names
from llmproxy_operator.manifest import Manifest, owned


def service(proxy: LLMProxy) -> Manifest:
    """Return the Service with the proxy's own name."""
    name = proxy.metadata.name
    return {
        **owned(proxy, "v1", "Service", names.service(name), names.labels(name, names.GATEWAY)),
        "spec": {
            "type": "ClusterIP",
            "selector": names.selector_labels(name),
            "ports": [_port("http", names.PORT_HTTP)],
        },
    }


def peers_service(proxy: LLMProxy) -> Manifest:
    """Return the headless Service, with pods that are not ready too: those that start and those that terminate.

    Trainers that pause calls find every pod by it too.
    """
    name = proxy.metadata.name
    return {
        **owned(proxy, "v1", "Service", names.peers(name), names.labels(name, names.PEERS)),
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": names.selector_labels(name),
            "ports": [_port("control", names.PORT_CONTROL), _port("peers", names.PORT_PEERS)],
        },
    }


def _port(name: str, number: int) -> dict[str, object]:
    return {"name": name, "port": number, "protocol": "TCP", "targetPort": name}
