"""What the pods of a proxy were last made from, kept in a ControllerRevision.

A newer operator may write templates and documents in another way, or have another default image. That alone rolls
nothing: while a proxy asks for the same, its pods stay what they are, and the first real change renders all anew.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmproxy_api import LLMProxy
from llmproxy_operator import names
from llmproxy_operator.manifest import Manifest, owned, owner_uid
from llmproxy_operator.render import store
from llmproxy_operator.render.config import client_secret, digested, document, max_pods
from llmproxy_operator.render.deployment import template
from llmproxy_operator.render.inputs import Inputs

API_VERSION, KIND = "apps/v1", "ControllerRevision"

_NOT_OF_PODS = {"replicas", "autoscaling", "disruption_budget", "access", "monitoring"}
"""Fields that change other objects, or how many pods there are, and no pod."""
_HASH_CHARS = 10
FORM = 1
"""Of what is kept: a release that keeps it in another form makes revisions of other names, for none can be changed."""


@dataclass(frozen=True)
class Revision:
    """One template with the document that its pods read."""

    name: str
    number: int
    template: Mapping[str, Any]
    document: str
    restart: str | None
    """What the annotation that restarts said: a roll that it made is not undone when it is taken away."""
    store: Mapping[str, Any] | None = None
    """The template of the store of shared limits, if it is ours to run."""

    @property
    def config_hash(self) -> str:
        """What the pods carry."""
        found: str = self.template["metadata"]["annotations"][names.ANNOTATION_CONFIG_HASH]
        return found


def revision(proxy: LLMProxy, inputs: Inputs, found: Iterable[Manifest] = ()) -> Revision:
    """Return what to make the pods of *proxy* from: the newest of *found*, if the proxy still asks for the same."""
    last = _newest(proxy, found)
    restart = proxy.metadata.annotations.get(names.ANNOTATION_RESTART) or (last.restart if last is not None else None)
    name = names.revision(proxy.metadata.name, _asked(proxy, inputs, restart))
    if last is not None and last.name == name:
        return last
    made = template(proxy, replace(inputs, restart=restart))
    number = 1 if last is None else last.number + 1
    beside = store.template(proxy, inputs) if proxy.spec.sharing == "Managed" else None
    return Revision(name, number, made, document(proxy).to_json(), restart, beside)


def controller_revision(proxy: LLMProxy, made: Revision) -> Manifest:
    """Return the object that keeps *made*."""
    labels = names.labels(proxy.metadata.name, names.REVISION)
    data = {"template": made.template, "document": made.document, "restart": made.restart, "store": made.store}
    return {
        **owned(proxy, API_VERSION, KIND, made.name, labels),
        "revision": made.number,
        "data": {key: value for key, value in data.items() if value is not None},
    }


def _asked(proxy: LLMProxy, inputs: Inputs, restart: str | None) -> str:
    """Return a hash of all that the author of *proxy* and its Secrets say about its pods, and of nothing else."""
    spec = proxy.spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=_NOT_OF_PODS)
    digests = [[*ref, inputs.secret_digests[ref]] for ref in digested(proxy)]
    # How many pods there are is nothing to them, but for where they count and what they take while the store is away.
    shared = [] if proxy.spec.sharing == "Local" else [proxy.spec.sharing, max_pods(proxy.spec)]
    keys = client_secret(proxy)
    opened = [] if keys is None else [{"apiKeys": keys}]
    text = json.dumps([FORM, spec, digests, restart, *shared, *opened], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_CHARS]


def _newest(proxy: LLMProxy, found: Iterable[Manifest]) -> Revision | None:
    ours = [item for item in found if owner_uid(item) == proxy.metadata.uid]
    read = [made for item in ours if (made := _read(item)) is not None]
    return max(read, key=lambda made: made.number, default=None)


def _read(item: Manifest) -> Revision | None:
    """Return what *item* keeps, None if an operator of another release wrote it in another form."""
    data = item.get("data") or {}
    kept, text = data.get("template"), data.get("document")
    if not isinstance(kept, dict) or not isinstance(text, str):
        return None
    return Revision(
        item["metadata"]["name"], int(item.get("revision") or 0), kept, text, data.get("restart"), data.get("store")
    )
