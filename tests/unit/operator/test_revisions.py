"""An upgrade of the operator rolls nothing by itself: two releases, one with another template, document and image."""

from typing import Any

import pytest

from fakes.cluster import FakeCluster
from fakes.reconciling import PROXY, Operator, a_proxy, a_secret, serve
from llmproxy_operator.manifest import Ref
from llmproxy_operator.render import config, containers
from llmproxy_operator.render import revisions as keeping

Manifest = dict[str, Any]


async def served(cluster: FakeCluster, raw: Manifest) -> None:
    operator = Operator(cluster)
    cluster.put(raw)
    await operator.reconcile()
    serve(cluster)
    await operator.reconcile()


def upgraded(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> Operator:
    """Return an operator of a release that writes templates and documents in another way and has another image."""
    monkeypatch.setattr(containers, "PRE_STOP_S", 7)
    monkeypatch.setattr(config, "drain_timeout_s", lambda _: 301.0)
    return Operator(cluster, image="img:2")


def template(cluster: FakeCluster) -> Manifest:
    found: Manifest = cluster.one("Deployment", "p")["spec"]["template"]
    return found


def revisions(cluster: FakeCluster) -> list[str]:
    return [name for name in cluster.kinds() if name.startswith("ControllerRevision/")]


async def test_an_upgrade_alone_writes_nothing(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    await served(cluster, a_proxy(rateLimits={"rpm": 5}))
    before = cluster.writes.copy()

    operator = upgraded(cluster, monkeypatch)
    await operator.reconcile()

    assert cluster.writes == before
    assert operator.condition("Ready") == ("True", "AllReplicasReady")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(a_proxy(rateLimits={"rpm": 6}), id="the limits"),
        pytest.param(a_proxy("provider", rateLimits={"rpm": 5}), id="a Secret"),
        pytest.param(a_proxy(rateLimits={"rpm": 5}, pod={"labels": {"a": "b"}}), id="the pod"),
    ],
)
async def test_the_first_real_change_renders_all_anew(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, change: Manifest
) -> None:
    await served(cluster, a_proxy(rateLimits={"rpm": 5}))
    old = revisions(cluster)
    cluster.put(a_secret("key"))

    operator = upgraded(cluster, monkeypatch)
    cluster.put(change)
    await operator.reconcile()

    [gateway] = template(cluster)["spec"]["containers"]
    assert gateway["image"] == "img:2"
    assert gateway["lifecycle"]["preStop"]["sleep"]["seconds"] == 7
    assert '"drain_timeout_s":301' in newest_document(cluster).replace(" ", "")
    assert len(revisions(cluster)) == 1
    assert revisions(cluster) != old


def newest_document(cluster: FakeCluster) -> str:
    [volume] = [v for v in template(cluster)["spec"]["volumes"] if v["name"] == "config"]
    text: str = cluster.one("ConfigMap", volume["configMap"]["name"])["data"]["config.json"]
    return text


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"replicas": 0}, id="replicas"),
        pytest.param({"access": {"namespaces": ["a"]}}, id="who may call"),
        pytest.param({"monitoring": {"podMonitor": True}}, id="monitoring"),
    ],
)
async def test_a_change_of_no_pod_keeps_the_template(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, change: Manifest
) -> None:
    await served(cluster, a_proxy())
    before, kept = template(cluster), revisions(cluster)

    operator = upgraded(cluster, monkeypatch)
    cluster.put(a_proxy(**change))
    await operator.reconcile()

    assert template(cluster) == before
    assert revisions(cluster) == kept


async def test_a_way_back_is_a_change_too(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    await served(cluster, a_proxy(rateLimits={"rpm": 5}))
    operator = upgraded(cluster, monkeypatch)

    for rpm in (6, 5):
        cluster.put(a_proxy(rateLimits={"rpm": rpm}))
        await operator.reconcile()

    assert template(cluster)["spec"]["containers"][0]["image"] == "img:2"


async def test_the_annotation_adopts_the_new_release_and_its_removal_rolls_nothing(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await served(cluster, a_proxy())
    operator = upgraded(cluster, monkeypatch)
    raw = a_proxy()

    cluster.put({**raw, "metadata": {**raw["metadata"], "annotations": {"llmproxy.dev/restart": "now"}}})
    await operator.reconcile()
    adopted = template(cluster)
    assert adopted["spec"]["containers"][0]["image"] == "img:2"

    cluster.put(raw)
    await operator.reconcile()
    assert template(cluster) == adopted


async def test_a_document_that_somebody_deleted_comes_back_as_its_pods_know_it(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await served(cluster, a_proxy())
    text = newest_document(cluster)
    [volume] = [v for v in template(cluster)["spec"]["volumes"] if v["name"] == "config"]
    cluster.remove(Ref("v1", "ConfigMap", "n", volume["configMap"]["name"]))

    await upgraded(cluster, monkeypatch).reconcile()

    assert newest_document(cluster) == text


async def test_a_revision_in_the_form_of_another_release_is_left_behind(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await served(cluster, a_proxy())
    before = revisions(cluster)
    monkeypatch.setattr(keeping, "FORM", 2)
    cluster.one("ControllerRevision", before[0].split("/")[1])["data"] = {"form": 1}

    await Operator(cluster).reconcile()

    assert len(revisions(cluster)) == 1
    assert revisions(cluster) != before  # a ControllerRevision's data can never be changed


async def test_a_revision_of_somebody_else_is_not_believed(cluster: FakeCluster) -> None:
    await served(cluster, a_proxy())
    [name] = revisions(cluster)
    theirs = cluster.one("ControllerRevision", name.split("/")[1])
    metadata = {"name": "p-theirs", "namespace": "n", "labels": theirs["metadata"]["labels"]}
    planted = {**theirs["data"], "template": {"metadata": {"annotations": {}}, "spec": {"containers": []}}}
    cluster.put({**theirs, "metadata": metadata, "revision": 99, "data": planted})

    await Operator(cluster).reconcile()

    assert template(cluster)["spec"]["containers"]
    assert cluster.objects[PROXY]["status"]["configHash"]
