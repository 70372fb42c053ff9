"""The two annotations for people: one stops the operator's hands, the other rolls the pods once."""

from typing import Any

import pytest

from fakes.cluster import FakeCluster
from fakes.reconciling import PROXY, Operator, a_proxy, a_secret, serve
from llmproxy_operator import names
from llmproxy_operator.conditions import condition
from llmproxy_operator.manifest import Ref

Manifest = dict[str, Any]


def annotated(raw: Manifest, **annotations: str) -> Manifest:
    marks = {f"llmproxy.dev/{name}": text for name, text in annotations.items()}
    return {**raw, "metadata": {**raw["metadata"], "annotations": marks}}


async def served(cluster: FakeCluster, **spec: Any) -> Operator:
    operator = Operator(cluster)
    cluster.put(a_proxy(**spec))
    await operator.reconcile()
    serve(cluster)
    await operator.reconcile()
    return operator


def but_events(cluster: FakeCluster) -> dict[str, int]:
    return {k: n for k, n in cluster.writes.items() if not k.endswith(" Event") and k != "apply_status LLMProxy"}


async def test_while_paused_nothing_is_applied_and_the_edit_reads_as_not_seen() -> None:
    cluster = FakeCluster()
    operator = await served(cluster, rateLimits={"rpm": 5})
    before = but_events(cluster)
    seen = cluster.objects[PROXY]["status"]["observedGeneration"]

    cluster.put(annotated(a_proxy(rateLimits={"rpm": 6}), paused="true"))
    cluster.remove(Ref("v1", "Service", "n", "p"))
    await operator.reconcile()

    status = cluster.objects[PROXY]["status"]
    assert but_events(cluster) == before
    assert operator.condition("Paused") == ("True", "Paused")
    assert status["observedGeneration"] == seen < cluster.objects[PROXY]["metadata"]["generation"]
    assert {item["observedGeneration"] for item in status["conditions"]} == {seen}
    assert operator.condition("Ready") == ("True", "AllReplicasReady")
    assert status["limits"]["rpm"] == 5

    cluster.put(a_proxy(rateLimits={"rpm": 6}))
    await operator.reconcile()
    assert operator.condition("Paused") == ("False", "NotPaused")
    assert operator.condition("Reconciling")[0] == "True"
    assert "Service/p" in cluster.kinds()


async def test_a_pause_goes_on_telling_of_the_pods() -> None:
    cluster = FakeCluster()
    operator = await served(cluster)
    cluster.put(annotated(a_proxy(), paused="true"))
    serve(cluster, readyReplicas=0, availableReplicas=0)

    await operator.reconcile()

    assert operator.condition("Available") == ("False", "NoPodAvailable")
    assert operator.condition("Ready") == ("False", "ReplicasNotReady")


async def test_a_second_reconcile_while_paused_writes_nothing() -> None:
    cluster = FakeCluster()
    operator = await served(cluster)
    cluster.put(annotated(a_proxy(), paused="true"))
    await operator.reconcile()
    before = cluster.writes.copy()

    await operator.reconcile()
    await Operator(cluster).reconcile()

    assert cluster.writes == before


async def test_a_proxy_that_is_paused_from_the_start_has_no_children_and_no_generation() -> None:
    cluster = FakeCluster()
    operator = Operator(cluster)
    cluster.put(annotated(a_proxy(), paused="true"))

    await operator.reconcile()

    assert operator.children() == ["LLMProxy/p"]
    assert "observedGeneration" not in cluster.objects[PROXY]["status"]
    assert operator.condition("Ready") == ("Unknown", "Paused")

    cluster.put(a_proxy())
    await operator.reconcile()
    assert "Deployment/p" in cluster.kinds()
    assert operator.condition("Ready") == ("False", "RollingOut")


async def test_a_pause_does_not_make_a_stalled_proxy_ready() -> None:
    cluster = FakeCluster()
    operator = await served(cluster)
    cluster.put(a_proxy("provider"))
    await operator.reconcile()
    operator.now_s += 61
    await operator.reconcile()
    assert operator.condition("Stalled") == ("True", "SecretNotFound")

    cluster.put(annotated(a_proxy("provider"), paused="true"))
    cluster.put(a_secret("it came"))
    await operator.reconcile()

    assert operator.condition("Stalled") == ("True", "SecretNotFound")
    assert operator.condition("Ready")[0] == "False"
    assert operator.condition("Paused") == ("True", "Paused")


@pytest.mark.parametrize("value", ["True", "yes", "1"])
async def test_what_is_not_true_pauses_nothing_and_is_told(value: str) -> None:
    cluster = FakeCluster()
    operator = Operator(cluster)
    cluster.put(annotated(a_proxy(), paused=value))

    await operator.reconcile()

    assert "Deployment/p" in cluster.kinds()
    assert 'only if it is "true"' in condition(cluster.objects[PROXY]["status"], "Paused")["message"]


async def test_another_text_to_restart_rolls_the_pods_once() -> None:
    cluster = FakeCluster()
    operator = await served(cluster)
    templates = [cluster.one("Deployment", "p")["spec"]["template"]]

    for text in ("one", "one", "two"):
        cluster.put(annotated(a_proxy(), restart=text))
        await operator.reconcile()
        templates.append(cluster.one("Deployment", "p")["spec"]["template"])

    first, second, third, fourth = templates
    assert first != second == third != fourth
    assert fourth["metadata"]["annotations"][names.ANNOTATION_RESTART] == "two"
    assert operator.condition("Reconciling") == ("True", "RollingOut")


async def test_no_other_annotation_or_label_of_the_proxy_reaches_its_children() -> None:
    cluster = FakeCluster()
    raw = a_proxy()
    marks = {"argocd.argoproj.io/tracking-id": "planted", "helm.sh/resource-policy": "planted"}
    labels = {"app.kubernetes.io/instance": "planted", "kustomize.toolkit.fluxcd.io/name": "planted"}
    cluster.put({**raw, "metadata": {**raw["metadata"], "annotations": marks, "labels": labels}})

    await Operator(cluster).reconcile()

    children = {target: item for target, item in cluster.objects.items() if target != PROXY}
    assert len(children) > 5
    assert "planted" not in str(children)
