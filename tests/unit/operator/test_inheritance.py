"""Labels and annotations that children inherit from their LLMProxy."""

from dataclasses import replace
from typing import Any

import pytest

from fakes.cluster import FakeCluster
from fakes.reconciling import PROXY, Operator, a_proxy, serve
from llmproxy_operator.render import ChildOptions

Manifest = dict[str, Any]
METADATA: Manifest = {
    "name": "p",
    "namespace": "n",
    "labels": {"team": "rl", "cost.example.com/center": "7", "app.kubernetes.io/managed-by": "me", "other": "x"},
    "annotations": {
        "cost.example.com/owner": "me",
        "argocd.argoproj.io/tracking-id": "app:p",
        "kubectl.kubernetes.io/last-applied-configuration": "{}",
    },
}


def children(cluster: FakeCluster) -> list[Manifest]:
    return [item for target, item in cluster.objects.items() if target not in {PROXY} and target.kind != "Event"]


async def test_allowed_keys_are_on_every_child_and_roll_nothing(cluster: FakeCluster) -> None:
    cluster.put({**a_proxy(access={"namespaces": []}, replicas=2, rateLimits={"rpm": 5}), "metadata": METADATA})
    plain = Operator(cluster)
    await plain.reconcile()
    template = cluster.one("Deployment", "p")["spec"]["template"]

    options = ChildOptions(("team", "cost.example.com/*", "app.kubernetes.io/*"), ("*",))
    operator = Operator(cluster, options=options)
    await operator.reconcile()

    for child in children(cluster):
        metadata = child["metadata"]
        assert metadata["labels"]["team"] == "rl", metadata
        assert metadata["labels"]["cost.example.com/center"] == "7"
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "llmproxy-operator"  # ours win
        assert "other" not in metadata["labels"]
        assert metadata["annotations"] == {"cost.example.com/owner": "me"}  # those of GitOps tools never
    assert cluster.one("Deployment", "p")["spec"]["template"] == template
    before = cluster.writes.copy()
    serve(cluster)
    serve(cluster, "p-limits")
    await operator.reconcile()
    assert set(cluster.writes - before) == {"apply_status LLMProxy", "create Event"}

    cluster.put({**a_proxy(access={"namespaces": []}, replicas=2, rateLimits={"rpm": 5})})
    await operator.reconcile()
    assert not any("team" in child["metadata"]["labels"] for child in children(cluster))


@pytest.mark.parametrize("options", [ChildOptions(), replace(ChildOptions(), inherited_labels=("x",))])
async def test_without_a_pattern_nothing_is_inherited(cluster: FakeCluster, options: ChildOptions) -> None:
    cluster.put({**a_proxy(), "metadata": METADATA})

    await Operator(cluster, options=options).reconcile()

    assert not any("team" in child["metadata"]["labels"] for child in children(cluster))
    assert not any(child["metadata"].get("annotations") for child in children(cluster))
