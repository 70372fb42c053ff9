"""One operator that reconciles one proxy on a cluster in memory, with a clock that tests move."""

import base64
import itertools
from datetime import UTC, datetime
from typing import Any

from fakes.cluster import FakeCluster
from llmproxy_operator.conditions import condition
from llmproxy_operator.event_recorder import EventRecorder
from llmproxy_operator.manifest import Ref
from llmproxy_operator.policy import Policy
from llmproxy_operator.reconcile import Dependencies, Reconciler
from llmproxy_operator.render import ChildOptions, Inputs
from llmproxy_operator.secret_watch import SecretWatch
from llmproxy_operator.workqueue import Key

Manifest = dict[str, Any]
KEY = Key("n", "p")
PROXY = Ref("llmproxy.dev/v1alpha1", "LLMProxy", "n", "p")
ECHO = {"model": "hosted_vllm/echo", "apiBase": "http://echo:8000/v1"}


def a_proxy(secret: str | None = None, **spec: Any) -> Manifest:
    key = {} if secret is None else {"apiKey": {"secretKeyRef": {"name": secret, "key": "api-key"}}}
    return {
        "apiVersion": PROXY.api_version,
        "kind": PROXY.kind,
        "metadata": {"name": "p", "namespace": "n"},
        "spec": {"models": [{"name": "echo", "deployments": [ECHO | key]}], **spec},
    }


def a_secret(content: str, key: str = "api-key", name: str = "provider") -> Manifest:
    data = {key: base64.b64encode(content.encode()).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "n"}, "data": data}


class Operator:
    """A reconciler with all its dependencies, and a clock that tests move."""

    def __init__(self, cluster: FakeCluster, image: str = "img:1", options: ChildOptions | None = None) -> None:
        self.cluster = cluster
        self.now_s = 1000.0
        self.woken: list[Key] = []
        tokens = itertools.count(1)
        self.secrets = SecretWatch(cluster, self.woken.append, clock=lambda: self.now_s, jitter=lambda: 1.0)
        dependencies = Dependencies(
            inputs=Inputs(image, {}, children=options or ChildOptions()),
            policy=Policy(image),
            clock=lambda: self.now_s,
            now=lambda: datetime.fromtimestamp(self.now_s, UTC),
            token=lambda: f"token-{next(tokens)}",
        )
        recorder = EventRecorder(cluster, instance="pod", now=dependencies.now)
        self.reconciler = Reconciler(cluster, dependencies, secrets=self.secrets, recorder=recorder)

    async def reconcile(self) -> float | None:
        return await self.reconciler(KEY)

    def condition(self, kind: str) -> tuple[str, str]:
        found = condition(self.cluster.objects[PROXY]["status"], kind)
        return found["status"], found["reason"]

    def children(self) -> list[str]:
        return [name for name in self.cluster.kinds() if name.split("/")[1].startswith("p-") or name.endswith("/p")]


def serve(cluster: FakeCluster, name: str = "p", **more: int) -> None:
    """Play the Deployment's controller: every pod runs the newest template and is ready."""
    deployment = cluster.one("Deployment", name)
    count = deployment["spec"]["replicas"]
    counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), count)
    cluster.set_status(
        "Deployment", name, {"observedGeneration": deployment["metadata"]["generation"], **counts, **more}
    )
