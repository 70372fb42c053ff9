"""No field does nothing: each one that the CRD has changes what is rendered, or what the status says.

The fields are read from the CRD itself, so a new one without an effect fails here before anybody can set it.
"""

import copy
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from crds.every_field import AUTOSCALED, BASE, Object
from llmproxy_api import LLMProxy, parse
from llmproxy_api.crd import crd
from llmproxy_api.model_params import DENIED
from llmproxy_operator.conditions import Observation, status
from llmproxy_operator.policy import Policy
from llmproxy_operator.render import Inputs, digested, peers_secret, render, revision
from llmproxy_operator.rollout_status import Rollout

Path = tuple[str | int, ...]

CHANGED: dict[str, Any] = {
    "models[].name": "other",
    "models[].deployments[].model": "vllm/other",
    "models[].deployments[].apiBase": "https://other:8000/v1",
    "models[].deployments[].tokenIds": True,
    "models[].deployments[].params": {"top_p": 0.5},
    "models[].deployments[].apiKey.secretKeyRef.name": "other",
    "models[].deployments[].apiKey.secretKeyRef.key": "other",
    "models[].deployments[].tls.ca.secretKeyRef.name": "other",
    "models[].deployments[].tls.ca.secretKeyRef.key": "other",
    "models[].deployments[].tls.serverName": "other.corp",
    "models[].deployments[].headers[].name": "x-other",
    "models[].deployments[].headers[].value.secretKeyRef.name": "other",
    "models[].deployments[].headers[].value.secretKeyRef.key": "other",
    "fallbacks[].model": "echo",
    "fallbacks[].to": ["echo"],
    "rateLimits.overflow": None,
    "rateLimits.shared.mode": "Managed",
    "rateLimits.shared.url.secretKeyRef.name": "other",
    "rateLimits.shared.url.secretKeyRef.key": "other",
    "rateLimits.shared.ca.secretKeyRef.name": "other",
    "rateLimits.shared.ca.secretKeyRef.key": "other",
    "access.egress[].cidr": "fd00::/8",
    "access.egress[].ports": [8443],
    "access.metricsNamespaces": ["other"],
    "forwardHeaders": ["x-other"],
    "spans.store": "http://other:4747",
    "spans.otlp.endpoint": "http://other:4318",
    "spans.otlp.headers[].name": "x-other",
    "spans.otlp.headers[].value.secretKeyRef.name": "other",
    "spans.otlp.headers[].value.secretKeyRef.key": "other",
    "spans.registerResource": "other_llm",
    "spans.content": "TokensOnly",
    "pod.env[].secretKeyRef.name": "other",
    "pod.env[].secretKeyRef.key": "other",
    "pod.tolerations[].key": "other",
    "pod.tolerations[].operator": None,
    "pod.tolerations[].effect": None,
}
"""Fields that cannot be changed by rule; with None the field is taken away, and what makes no sense without it."""
GOES_TOO = {
    "monitoring.podMonitor": ["monitoring.labels"],
    "rateLimits.overflow": ["rateLimits.maxQueueTime"],
    "rateLimits.shared.mode": ["rateLimits.shared.url", "rateLimits.shared.ca"],
    "pod.tolerations[].effect": ["pod.tolerations[].tolerationSeconds"],
    "pod.tolerations[].operator": [],
}


def leaves(schema: Object, path: str = "") -> Iterator[tuple[str, Object]]:
    """Yield every field that holds a value."""
    for name, child in schema.get("properties", {}).items():
        if name in DENIED and path.endswith("params"):
            continue
        here = f"{path}.{name}" if path else name
        if child.get("type") == "array" and "properties" in child["items"]:
            yield from leaves(child["items"], f"{here}[]")
        elif child.get("type") == "object" and "properties" in child and not here.endswith("params"):
            yield from leaves(child, here)
        else:
            yield here, child


SPEC = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
FIELDS = dict(leaves(SPEC))


def base(path: str) -> Object:
    """Return an object that has the field."""
    return copy.deepcopy(AUTOSCALED if path.startswith("autoscaling.") else BASE)


def place(spec: Object, path: str) -> tuple[Any, str]:
    """Return what holds the field, the first item of every list that has it, and its name."""
    here: Any = spec
    *steps, last = path.split(".")
    for step, below in itertools.pairwise([*steps, last]):
        here = here[step.removesuffix("[]")]
        if step.endswith("[]"):
            here = next((item for item in here if below.removesuffix("[]") in item), here[0])
    return here, last


def changed(path: str, schema: Object, old: Any) -> Any:
    if path in CHANGED:
        return CHANGED[path]
    if isinstance(old, bool | int):
        return 0 if path == "replicas" else not old if isinstance(old, bool) else old + 1
    if isinstance(old, dict | list):
        return {**old, "new": "c"} if isinstance(old, dict) else [*old, "other"]
    if "x-kubernetes-int-or-string" in schema:
        return f"1{old}" if "limits" in path else "640Mi" if old.endswith("i") else "900m"
    return {"1m": "2m", "3s": "4s", "1s": "1500ms", "2s": "5s", "20ms": "30ms"}.get(old, f"{old}2")


def outcome(spec: Object) -> str:
    raw = {"apiVersion": "llmproxy.dev/v1alpha1", "kind": "LLMProxy", "spec": spec}
    proxy: LLMProxy = parse({**raw, "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 1}})
    assert Policy("img:1", images=("*",)).problems(proxy) == ()
    digests = {ref: f"digest of {ref}" for ref in digested(proxy)}
    made = [peers_secret(proxy, "t"), *render(proxy, revision(proxy, Inputs("img:1", digests)))]
    wanted = [item for item in made if item["kind"] != "ControllerRevision"]  # it hashes the whole spec, effect or not
    done = status(Observation(1, proxy, "h", Rollout(1, 1, 1, 1, 1, current=True)), {}, now="2026-01-01T00:00:00Z")
    return json.dumps([wanted, done], sort_keys=True)


def test_the_object_that_is_changed_has_every_field() -> None:
    def has(path: str) -> bool:
        holder, name = place(base(path), path)
        return name in holder

    assert [path for path in FIELDS if not has(path)] == []
    assert len(FIELDS) > 35


@pytest.mark.parametrize("path", FIELDS)
def test_a_field_changes_what_is_rendered_or_the_status(path: str) -> None:
    spec, before = base(path), base(path)
    holder, name = place(spec, path)
    holder[name] = changed(path, FIELDS[path], holder[name])
    for other in GOES_TOO.get(path, ()):
        holder, name = place(spec, other)
        del holder[name]

    if path == "rateLimits.overflow":  # alone, so that it is not the other field that makes the difference
        del before["rateLimits"]["maxQueueTime"]
    assert outcome(spec) != outcome(before)


@pytest.mark.parametrize("path", FIELDS)
def test_every_field_says_what_it_is_for(path: str) -> None:
    assert len(FIELDS[path].get("description", "")) > 10


def test_numbers_lists_maps_and_texts_have_bounds() -> None:
    """Without them a rule in CEL may cost more than the API server allows."""
    unbounded = []

    def look(schema: Object, path: str) -> None:
        kind = schema.get("type")
        bound = {"integer": "maximum", "array": "maxItems", "string": "maxLength"}.get(str(kind))
        if bound and bound not in schema and "enum" not in schema and path.rsplit(".", maxsplit=1)[-1] not in DENIED:
            unbounded.append(path)
        if isinstance(schema.get("additionalProperties"), dict):
            assert "maxProperties" in schema, path
            look(schema["additionalProperties"], f"{path}.*")
        for name, child in schema.get("properties", {}).items():
            look(child, f"{path}.{name}")
        if "items" in schema:
            look(schema["items"], f"{path}[]")

    look(SPEC, "spec")
    assert unbounded == []
