"""The store of shared limits: the proxy's own, the user's, or none."""

import base64
import json
from typing import Any

import pytest

from fakes.cluster import FakeCluster
from fakes.reconciling import PROXY, Operator, a_proxy, a_secret, serve
from llmproxy_api import parse
from llmproxy_operator.conditions import condition
from llmproxy_operator.manifest import Ref
from llmproxy_operator.render import store

Manifest = dict[str, Any]
LIMITED: Manifest = {"rateLimits": {"rpm": 60}}
STORE = ["Deployment/p-limits", "NetworkPolicy/p-limits", "Service/p-limits"]


def of_store(cluster: FakeCluster) -> list[str]:
    return [name for name in cluster.kinds() if name.endswith("/p-limits")]


def limits(cluster: FakeCluster) -> Manifest:
    found: Manifest = cluster.objects[PROXY]["status"]["limits"]
    return found


def gateway(cluster: FakeCluster) -> Manifest:
    [found] = cluster.one("Deployment", "p")["spec"]["template"]["spec"]["containers"]
    made: Manifest = found
    return made


def variables(container: Manifest) -> Manifest:
    return {item["name"]: item.get("value") or item.get("valueFrom") for item in container["env"]}


async def served(cluster: FakeCluster, operator: Operator, **spec: Any) -> None:
    cluster.put(a_proxy(**spec))
    await operator.reconcile()
    serve(cluster)
    if "Deployment/p-limits" in cluster.kinds():
        serve(cluster, "p-limits")
    await operator.reconcile()


@pytest.mark.parametrize(
    ("spec", "mode"),
    [
        ({}, "Local"),
        (LIMITED, "Local"),
        ({"replicas": 2}, "Local"),
        ({"replicas": 2, **LIMITED}, "Managed"),
        ({"autoscaling": {"maxReplicas": 2}, **LIMITED}, "Managed"),
        ({"rateLimits": {"rpm": 60, "shared": {"mode": "Managed"}}}, "Managed"),
        ({"rateLimits": {"shared": {"mode": "Managed"}}}, "Local"),
        ({"replicas": 2, "models": [{**a_proxy()["spec"]["models"][0], "rateLimits": {"tpm": 9}}]}, "Managed"),
    ],
)
async def test_pods_count_together_where_more_than_one_may_serve(
    cluster: FakeCluster, operator: Operator, spec: Manifest, mode: str
) -> None:
    await served(cluster, operator, **spec)

    assert limits(cluster)["mode"] == mode
    assert of_store(cluster) == (STORE if mode == "Managed" else [])
    assert ("LIMITS_URL" in variables(gateway(cluster))) is (mode == "Managed")
    assert operator.condition("Ready") == ("True", "AllReplicasReady")
    before = cluster.writes.copy()
    await operator.reconcile()
    await Operator(cluster).reconcile()
    assert cluster.writes == before


async def test_the_store_is_for_the_proxys_gateways_alone(cluster: FakeCluster, operator: Operator) -> None:
    await served(cluster, operator, replicas=2, **LIMITED)

    policy = cluster.one("NetworkPolicy", "p-limits")["spec"]
    pods = {"llmproxy.dev/name": "p", "llmproxy.dev/component": "limits"}
    assert policy["podSelector"] == {"matchLabels": pods}
    [rule] = policy["ingress"]
    callers = {"llmproxy.dev/name": "p", "llmproxy.dev/component": "gateway"}
    assert rule == {
        "from": [{"podSelector": {"matchLabels": callers}}],
        "ports": [{"port": 6379, "protocol": "TCP"}, {"port": 15008, "protocol": "TCP"}],
    }
    deployment = cluster.one("Deployment", "p-limits")["spec"]
    assert deployment["strategy"] == {"type": "Recreate"}  # two at a time would admit twice
    assert cluster.one("Service", "p-limits")["spec"]["selector"] == pods
    pod = deployment["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    [container] = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    arguments = " ".join(container["args"])
    assert "--maxmemory-policy noeviction" in arguments
    assert "--appendonly no" in arguments
    assert container["args"][container["args"].index("--save") + 1] == ""


async def test_the_password_is_in_its_secret_alone(cluster: FakeCluster, operator: Operator) -> None:
    await served(cluster, operator, replicas=2, **LIMITED)

    secret = cluster.one("Secret", "p-peers")["data"]
    token, password = (base64.b64decode(secret[key]).decode() for key in ("token", "limits-password"))
    assert password == store.password(token)
    assert token not in password
    others = json.dumps([item for item in cluster.objects.values() if item["kind"] != "Secret"])
    assert password not in others
    url = variables(gateway(cluster))["LIMITS_URL"]
    assert url == "redis://:$(LIMITS_PASSWORD)@p-limits.n.svc:6379/0"
    names = [item["name"] for item in gateway(cluster)["env"]]
    assert names.index("LIMITS_PASSWORD") < names.index("LIMITS_URL")  # Kubernetes fills in only what stands before


async def test_a_new_password_rolls_gateways_and_store(cluster: FakeCluster, operator: Operator) -> None:
    await served(cluster, operator, replicas=2, **LIMITED)
    before = [cluster.one("Deployment", name)["spec"]["template"] for name in ("p", "p-limits")]
    cluster.remove(Ref("v1", "Secret", "n", "p-peers"))

    operator.now_s += 31
    await operator.reconcile()

    after = [cluster.one("Deployment", name)["spec"]["template"] for name in ("p", "p-limits")]
    assert all(old["metadata"] != new["metadata"] for old, new in zip(before, after, strict=True))


async def test_a_lost_token_of_a_proxy_that_counts_alone_rolls_nothing(
    cluster: FakeCluster, operator: Operator
) -> None:
    await served(cluster, operator, **LIMITED)
    before = cluster.one("Deployment", "p")["spec"]["template"]
    cluster.remove(Ref("v1", "Secret", "n", "p-peers"))

    operator.now_s += 31
    await operator.reconcile()

    assert cluster.one("Deployment", "p")["spec"]["template"] == before


async def test_the_store_goes_when_no_pod_is_left_that_counts_in_it(cluster: FakeCluster, operator: Operator) -> None:
    await served(cluster, operator, replicas=2, **LIMITED)

    cluster.put(a_proxy(**LIMITED))
    await operator.reconcile()
    serve(cluster, replicas=2)  # one of the pods before still serves
    await operator.reconcile()
    assert of_store(cluster) == STORE
    assert limits(cluster)["mode"] == "Managed"

    serve(cluster)
    await operator.reconcile()
    assert of_store(cluster) == []
    assert limits(cluster) == {"mode": "Local", "rpm": 60}


async def test_an_upgrade_of_the_operator_alone_does_not_restart_the_store(
    cluster: FakeCluster, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await served(cluster, operator, replicas=2, **LIMITED)
    before = cluster.writes.copy()
    monkeypatch.setattr(store, "_ARGUMENTS", ("--something", "else"))

    await Operator(cluster, image="img:2").reconcile()
    assert cluster.writes == before

    cluster.put(a_proxy(replicas=2, rateLimits={"rpm": 61}))
    await Operator(cluster, image="img:2").reconcile()
    [container] = cluster.one("Deployment", "p-limits")["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["--something", "else"]


# The user's own store.


def in_redis(**more: Any) -> Manifest:
    shared = {"mode": "Redis", "url": {"secretKeyRef": {"name": "redis", "key": "url"}}}
    return {"rateLimits": {"rpm": 60, "shared": shared}, **more}


async def test_an_address_of_the_users_own_comes_from_its_secret(cluster: FakeCluster, operator: Operator) -> None:
    cluster.put(a_proxy(**in_redis(replicas=3)))
    await operator.reconcile()
    assert operator.condition("Reconciling") == ("True", "SecretNotFound")

    cluster.put(a_secret("redis://:planted@redis:6379", "url", "redis"))
    await operator.reconcile()
    serve(cluster)
    await operator.reconcile()

    assert of_store(cluster) == []
    assert limits(cluster) == {"mode": "Redis", "rpm": 60}
    assert variables(gateway(cluster))["LIMITS_URL"] == {"secretKeyRef": {"name": "redis", "key": "url"}}
    assert "planted" not in json.dumps([i for i in cluster.objects.values() if i["kind"] != "Secret"])


async def test_another_address_rolls_the_pods(cluster: FakeCluster, operator: Operator) -> None:
    cluster.put(a_secret("redis://one", "url", "redis"))
    await served(cluster, operator, **in_redis())
    before = cluster.one("Deployment", "p")["spec"]["template"]

    cluster.put(a_secret("redis://two", "url", "redis"))
    await operator.reconcile()

    assert cluster.one("Deployment", "p")["spec"]["template"] != before


# What the status says of the store.


async def test_a_proxy_is_ready_when_its_store_has_run_once(cluster: FakeCluster, operator: Operator) -> None:
    cluster.put(a_proxy(replicas=2, **LIMITED))
    await operator.reconcile()
    serve(cluster)
    await operator.reconcile()
    assert operator.condition("Reconciling") == ("True", "LimitsStoreNotReady")
    assert operator.condition("Available")[0] == "True"
    assert limits(cluster)["storeReady"] is False

    serve(cluster, "p-limits")
    await operator.reconcile()
    assert operator.condition("Ready") == ("True", "AllReplicasReady")
    assert limits(cluster) == {"mode": "Managed", "rpm": 60, "storeReady": True}

    serve(cluster, "p-limits", readyReplicas=0, availableReplicas=0)  # it starts anew: the pods go on with shares
    for _ in range(2):
        await operator.reconcile()
        assert operator.condition("Ready") == ("True", "AllReplicasReady")
        assert limits(cluster)["storeReady"] is False


async def test_a_store_that_cannot_run_needs_somebody(cluster: FakeCluster, operator: Operator) -> None:
    await served(cluster, operator, replicas=2, **LIMITED)
    serve(cluster, "p-limits", readyReplicas=0, availableReplicas=0)
    cluster.put(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "p-limits-1",
                "namespace": "n",
                "labels": {"llmproxy.dev/name": "p", "llmproxy.dev/component": "limits"},
                "creationTimestamp": "1970-01-01T00:00:00+00:00",
            },
        }
    )
    cluster.one("Pod", "p-limits-1")["metadata"]["creationTimestamp"] = "1970-01-01T00:00:00+00:00"
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    cluster.set_status("Pod", "p-limits-1", {"containerStatuses": [{"name": "limits", "image": "x", "state": waiting}]})

    await operator.reconcile()

    assert operator.condition("Stalled") == ("True", "LimitsStoreFailed")
    assert operator.condition("Available")[0] == "True"
    said = condition(cluster.objects[PROXY]["status"], "Stalled")["message"]
    assert "no such image" in said
    assert "offline quota of every limit" in said


def test_a_store_of_another_proxy_cannot_be_meant() -> None:
    with pytest.raises(Exception, match="-limits"):
        parse({**a_proxy(), "metadata": {"name": "p-limits", "namespace": "n"}})
