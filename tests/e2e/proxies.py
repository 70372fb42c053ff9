"""LLMProxies for end-to-end tests, and what a test asks of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from e2e.kube import Kube, Object, eventually

ECHO = "http://echo:8000/v1"
STORE = "http://lightning-store:4747"


def an_llmproxy(name: str, **spec: Any) -> Object:
    """Return an LLMProxy with one model, `echo`, on the echo server; *spec* adds and overrides fields.

    It asks for little: four pods must find room on a node of two cores.
    """
    base: Object = {
        "models": [{"name": "echo", "deployments": [{"model": "hosted_vllm/echo", "apiBase": ECHO}]}],
        "resources": {"requests": {"cpu": "50m"}},
    }
    if "spans" in spec:
        spec["spans"] = {"resources": {"requests": {"cpu": "20m"}}, **spec["spans"]}
    return {"apiVersion": "llmproxy.dev/v1alpha1", "kind": "LLMProxy", "metadata": {"name": name}, "spec": base | spec}


@contextmanager
def running(kube: Kube, manifest: Object, *, timeout_s: float = 90) -> Iterator[str]:
    """Apply an LLMProxy, wait until it is Ready, and delete it and its pods in the end; yield its name."""
    name: str = manifest["metadata"]["name"]
    kube.apply(manifest)
    try:
        kube.wait(f"llmproxy/{name}", "condition=Ready", timeout_s)
        yield name
    finally:
        kube.run("delete", "llmproxy", name, "--ignore-not-found")


def gateway_pods(kube: Kube, name: str) -> list[Object]:
    """Return the gateway pods of a proxy, also those that are ending."""
    return kube.list("pods", f"llmproxy.dev/name={name},llmproxy.dev/component=gateway")


def wait_rolled(kube: Kube, name: str, timeout_s: float = 90) -> Object:
    """Wait until the proxy is Ready at its newest generation; return it."""

    def probe() -> Object:
        return kube.get("llmproxy", name)

    def done(proxy: Object) -> bool:
        status = proxy.get("status", {})
        ready: Object = next((c for c in status.get("conditions", []) if c["type"] == "Ready"), {})
        return status.get("observedGeneration") == proxy["metadata"]["generation"] and ready.get("status") == "True"

    return eventually(probe, done, timeout_s, f"llmproxy/{name} Ready at its newest generation")


def echo_calls(kube: Kube) -> int:
    """How many model calls the echo server has seen since it was reset."""
    seen: int = kube.service("echo", 8000, "/stats")["calls"]
    return seen


def reset_echo(kube: Kube) -> None:
    """Set the echo server's counters to zero."""
    kube.service("echo", 8000, "/stats/reset", post={})


def start_rollout(kube: Kube, store: str = "lightning-store") -> tuple[str, str]:
    """Begin a rollout in the LightningStore behind a Service; return its id and its attempt's."""
    made = kube.service(store, 4747, "/v1/agl/rollouts", post={"input": {"task": "e2e"}, "mode": "train"})
    return made["rollout_id"], made["attempt"]["attempt_id"]


def spans(kube: Kube, rollout: str, attempt: str, name: str, store: str = "lightning-store") -> list[Object]:
    """Return the spans of one name that the store holds for an attempt, in the order of sequence ids."""
    query = f"rollout_id={rollout}&attempt_id={attempt}&name={name}&limit=-1&sort_by=sequence_id"
    items: list[Object] = kube.service(store, 4747, f"/v1/agl/spans?{query}")["items"]
    return items
