"""Desired state: pure functions from an LLMProxy to its children, a module per kind.

Begin with `render` here and with `config` (the contract document). May import: `llmproxy_api`, the contract, `names`,
`manifest`. Nothing here reads a clock, an environment variable or the cluster. The same proxy and inputs give the same
objects, in the form the API server stores them, so that a second reconcile finds nothing to write.
"""

from llmproxy_api import LLMProxy
from llmproxy_operator.manifest import Manifest
from llmproxy_operator.render import store
from llmproxy_operator.render.config import (
    SecretRef,
    client_secret,
    config_hash,
    digested,
    document,
    secret_digest,
    secret_references,
)
from llmproxy_operator.render.configmaps import config_map, endpoint_config_map, stale_configs
from llmproxy_operator.render.deployment import deployment
from llmproxy_operator.render.inheritance import inherit
from llmproxy_operator.render.inputs import ChildOptions, Inputs
from llmproxy_operator.render.monitoring import pod_monitor
from llmproxy_operator.render.network import network_policy, with_pod_owners
from llmproxy_operator.render.revisions import Revision, controller_revision, latest, revision
from llmproxy_operator.render.scaling import autoscaler, disruption_budget
from llmproxy_operator.render.secrets import control_secret, peers_secret
from llmproxy_operator.render.services import peers_service, service

__all__ = [
    "ChildOptions",
    "Inputs",
    "Revision",
    "SecretRef",
    "client_secret",
    "config_hash",
    "control_secret",
    "digested",
    "document",
    "inherit",
    "latest",
    "peers_secret",
    "render",
    "revision",
    "secret_digest",
    "secret_references",
    "stale_configs",
    "with_pod_owners",
]


def render(proxy: LLMProxy, pods: Revision, options: ChildOptions | None = None) -> tuple[Manifest, ...]:
    """Return every child of *proxy* with the pods of the revision *pods*, in the order to apply them."""
    scrapers = options.metrics_namespaces if options is not None else ()
    children = (
        controller_revision(proxy, pods),
        config_map(proxy, pods.document),
        endpoint_config_map(proxy),
        network_policy(proxy, scrapers),  # before the pods, so that none is open for a moment
        service(proxy),
        peers_service(proxy),
        *(store.objects(proxy, pods.store) if pods.store is not None else ()),
        disruption_budget(proxy),
        deployment(proxy, pods.template),
        autoscaler(proxy),
        pod_monitor(proxy),
    )
    return tuple(item for item in children if item is not None)
