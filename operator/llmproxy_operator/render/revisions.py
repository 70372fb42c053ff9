"""Template and document of a proxy's pods, stored in a ControllerRevision.

A newer operator may render templates and documents in another way, or have another default image. That alone rolls
nothing: while the spec and its Secrets are unchanged, the stored revision is used; the first change renders anew.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmproxy import contract
from llmproxy_api import LLMProxy
from llmproxy_operator import names
from llmproxy_operator.manifest import Manifest, owned, owner_uid
from llmproxy_operator.render import store
from llmproxy_operator.render.config import MAX_SURGE, client_secret, digested, document, max_pods
from llmproxy_operator.render.deployment import template
from llmproxy_operator.render.inputs import Inputs

API_VERSION, KIND = "apps/v1", "ControllerRevision"

_NOT_OF_PODS = {"replicas", "autoscaling", "disruption_budget", "access", "monitoring"}
"""Fields that change other objects, or the number of pods, but no pod."""
_HASH_CHARS = 10
FORM = 1
"""Version of the stored form: a release with another form uses other names, for a ControllerRevision is immutable."""


@dataclass(frozen=True)
class Revision:
    """One template with the document that its pods read."""

    name: str
    number: int
    template: Mapping[str, Any]
    document: str
    restart: str | None
    """Value of the annotation that restarts: removing it does not undo the roll."""
    store: Mapping[str, Any] | None = None
    """Template of the store of shared limits, if the operator runs it."""

    @property
    def config_hash(self) -> str:
        """Config hash of the pods."""
        annotations: dict[str, str] = self.template["metadata"]["annotations"]
        return annotations[names.ANNOTATION_CONFIG_HASH]

    @property
    def image(self) -> str:
        """Image of the gateway."""
        [container] = self.template["spec"]["containers"]
        return str(container["image"])


def revision(proxy: LLMProxy, inputs: Inputs, revisions: Iterable[Manifest] = ()) -> Revision:
    """Return the revision for the pods of *proxy*: the newest of *revisions*, if the proxy is unchanged since."""
    last = _newest(proxy, revisions)
    restart = proxy.metadata.annotations.get(names.ANNOTATION_RESTART) or (last.restart if last is not None else None)
    name = names.revision(proxy.metadata.name, _request_hash(proxy, inputs, restart))
    if last is not None and last.name == name:
        return last
    pod = template(proxy, replace(inputs, restart=restart))
    number = 1 if last is None else last.number + 1
    store_pod = store.template(proxy, inputs) if proxy.spec.sharing == "Managed" else None
    return Revision(name, number, pod, document(proxy).to_json(), restart, store_pod)


def latest(proxy: LLMProxy, revisions: Iterable[Manifest]) -> Revision | None:
    """Return the newest of *revisions* if the pods of *proxy* may keep it while its spec cannot be rendered, or None.

    The other objects follow the spec then. So the number of pods must be one that the revision counts limits for, and
    who may call must not change apart from the keys that callers need.
    """
    last = _newest(proxy, revisions)
    if last is None:
        return None
    try:
        document = contract.parse(last.document)
    except contract.ContractError:
        return None
    spec = proxy.spec
    pods = (
        spec.autoscaling.max_replicas if spec.autoscaling is not None else 1 if spec.replicas is None else spec.replicas
    )
    if document.shared_limits is not None:
        fits = pods + MAX_SURGE <= document.shared_limits.max_pods
    else:
        limited = document.rate_limits.any() or any(model.rate_limits.any() for model in document.models)
        fits = pods <= 1 or not limited
    same_access = document.require_api_key == (client_secret(proxy) is not None)
    return last if fits and same_access else None


def controller_revision(proxy: LLMProxy, content: Revision) -> Manifest:
    """Return the object that keeps *content*."""
    labels = names.labels(proxy.metadata.name, names.REVISION)
    data = {
        "template": content.template,
        "document": content.document,
        "restart": content.restart,
        "store": content.store,
    }
    return {
        **owned(proxy, API_VERSION, KIND, content.name, labels),
        "revision": content.number,
        "data": {key: value for key, value in data.items() if value is not None},
    }


def _request_hash(proxy: LLMProxy, inputs: Inputs, restart: str | None) -> str:
    """Return a hash of everything in *proxy* and its Secrets that its pods depend on, and of nothing else."""
    spec = proxy.spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=_NOT_OF_PODS)
    digests = [[*ref, inputs.secret_digests[ref]] for ref in digested(proxy)]
    # Pods depend on their number only by where they count, and by their quota while the store is away.
    shared = [] if proxy.spec.sharing == "Local" else [proxy.spec.sharing, max_pods(proxy.spec)]
    keys = client_secret(proxy)
    opened = [] if keys is None else [{"apiKeys": keys}]
    text = json.dumps([FORM, spec, digests, restart, *shared, *opened], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_CHARS]


def _newest(proxy: LLMProxy, revisions: Iterable[Manifest]) -> Revision | None:
    ours = [item for item in revisions if owner_uid(item) == proxy.metadata.uid]
    readable = [parsed for item in ours if (parsed := _read(item)) is not None]
    return max(readable, key=lambda item: item.number, default=None)


def _read(item: Manifest) -> Revision | None:
    """Return the content of *item*, None if an operator of another release wrote it in another form."""
    data = item.get("data") or {}
    pod, text = data.get("template"), data.get("document")
    if not isinstance(pod, dict) or not isinstance(text, str):
        return None
    return Revision(
        item["metadata"]["name"], int(item.get("revision") or 0), pod, text, data.get("restart"), data.get("store")
    )
