"""The class in a cluster: what it applies, what it waits for, what it says when it does not come, and how it leaves."""

import asyncio
import atexit
import base64
import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from fakes.apiserver import READY, ApiServer, serving, stalled
from llmproxy_agl import LLMProxy, ProxyError, kube_client
from sdkrig import models

pytestmark = [pytest.mark.agl, pytest.mark.timeout(60), pytest.mark.filterwarnings("default")]
STORE = "http://lightning-store:4747"
VLLM = "http://vllm:8000/v1"


@dataclass
class Rig:
    """A cluster, and how a trainer outside of it gets there."""

    cluster: ApiServer
    kubeconfig: Path
    endpoint: str
    made: list[LLMProxy] = field(default_factory=list)

    def proxy(self, settings: dict[str, Any] | None = None, **more: Any) -> LLMProxy:
        given: dict[str, Any] = {
            "model_list": models(VLLM, api_key="sk-1"),
            "litellm_config": {"litellm_settings": settings or {}},
            "store_url": STORE,
            "kubeconfig": str(self.kubeconfig),
            "endpoint": self.endpoint,
            "name": "mine",
            "ready_timeout_s": 20,
        }
        made = LLMProxy(**{**given, **more})
        self.made.append(made)
        return made


@pytest.fixture
def rig(echo: str, tmp_path: Path) -> Iterator[Rig]:
    cluster = ApiServer()
    with serving(cluster) as url:
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(
            json.dumps(
                {
                    "current-context": "c",
                    "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "train"}}],
                    "clusters": [{"name": "k", "cluster": {"server": url}}],
                    "users": [{"name": "u", "user": {"token": cluster.token}}],
                }
            )
        )
        rig = Rig(cluster, kubeconfig, echo.removesuffix("/v1"))
        yield rig
    for proxy in rig.made:
        atexit.unregister(proxy._at_exit)  # its cluster is gone


@pytest.fixture
def in_a_pod(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """The trainer is a pod of the cluster, of a Job."""
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text(rig.cluster.token)
    (account / "namespace").write_text("train")
    access = kube_client.access_of_kubeconfig(str(rig.kubeconfig), None)
    monkeypatch.setattr(kube_client, "ACCOUNT", account)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("HOSTNAME", "trainer-abc")
    monkeypatch.setattr(kube_client, "access_of_pod", lambda: access)  # its TLS is the real cluster's to prove
    job = {"apiVersion": "batch/v1", "kind": "Job", "name": "trainer", "uid": "job-1", "controller": True}
    rig.cluster.put("pods", "trainer-abc", {"metadata": {"ownerReferences": [job]}})
    return rig


def test_start_applies_waits_and_stop_drains_before_it_deletes(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    proxy = rig.proxy({"max_requests_per_minute": 60}, num_retries=3)
    drained: list[bool] = []
    rig.cluster.on_drain = lambda: drained.append(rig.cluster.get("llmproxies", "mine") is not None)
    with caplog.at_level(logging.INFO, "llmproxy_agl"):
        asyncio.run(proxy.start())

    live = rig.cluster.get("llmproxies", "mine")
    secret = rig.cluster.get("secrets", "mine-keys")
    assert live is not None
    assert secret is not None
    assert live["spec"]["rateLimits"] == {"rpm": 60}
    assert live["spec"]["retries"] == {"max": 3}
    assert live["spec"]["spans"] == {"store": STORE, "ackWait": "2s"}
    assert live["spec"]["models"][0]["deployments"][0]["apiKey"]["secretKeyRef"]["name"] == "mine-keys"
    assert "sk-1" not in json.dumps(live)
    assert base64.b64decode(secret["data"]["hosted-vllm"]) == b"sk-1"
    assert [o["kind"] for o in secret["metadata"]["ownerReferences"]] == ["LLMProxy"]
    assert any("RollingOut" in message for message in caplog.messages)
    assert proxy.is_running()
    assert proxy.as_resource().endpoint == rig.endpoint

    asyncio.run(proxy.stop())

    assert drained == [True]  # the pods ended while the object was there, and before it was deleted
    assert rig.cluster.objects == {}
    assert not proxy.is_running()


def test_restart_patches_limits_and_returns_when_they_are_in_force(rig: Rig) -> None:
    proxy = rig.proxy({"rpm": 60})
    asyncio.run(proxy.start())
    before = rig.cluster.get("llmproxies", "mine")
    assert before is not None

    proxy.litellm_config["litellm_settings"]["rpm"] = 120
    asyncio.run(proxy.restart())

    live = rig.cluster.get("llmproxies", "mine")
    assert live is not None
    assert live["spec"]["rateLimits"] == {"rpm": 120}
    assert live["metadata"]["uid"] == before["metadata"]["uid"]
    assert live["status"]["observedGeneration"] == live["metadata"]["generation"] == 2
    assert {c["type"]: c["status"] for c in live["status"]["conditions"]}["Ready"] == "True"


def test_restart_without_a_change_changes_nothing_and_is_quick(rig: Rig) -> None:
    proxy = rig.proxy({"rpm": 60})
    asyncio.run(proxy.start())
    before = {key: item["metadata"]["resourceVersion"] for key, item in rig.cluster.objects.items()}
    took = []
    for _ in range(5):
        began = time.monotonic()
        asyncio.run(proxy.restart())
        took.append(time.monotonic() - began)

    assert {key: item["metadata"]["resourceVersion"] for key, item in rig.cluster.objects.items()} == before
    assert min(took) < 0.5


def test_a_change_is_waited_for_until_the_pods_before_take_no_call_any_more(rig: Rig) -> None:
    proxy = rig.proxy({"rpm": 60})
    asyncio.run(proxy.start())
    hook = {"preStop": {"sleep": {"seconds": 1}}}
    containers = [{"name": "gateway", "lifecycle": hook}, {"name": "other"}]
    ending = {"deletionTimestamp": "2026-01-01T00:00:00Z", "labels": {"llmproxy.dev/name": "mine"}}
    rig.cluster.put("pods", "mine-old", {"metadata": ending, "spec": {"containers": containers}})
    asyncio.run(proxy.restart())
    assert [request for request in rig.cluster.requests if request.endswith("/pods")] == []  # nothing ends for it

    proxy.litellm_config["litellm_settings"]["rpm"] = 120
    began = time.monotonic()
    asyncio.run(proxy.restart())

    assert time.monotonic() - began > 3  # its hook, and a moment for kept connections
    assert proxy.is_running()


def test_a_new_key_alone_is_waited_for(rig: Rig) -> None:
    proxy = rig.proxy()
    asyncio.run(proxy.start())
    old = (rig.cluster.get("llmproxies", "mine") or {})["status"]["configHash"]

    proxy.update_model_list(models(VLLM, api_key="sk-2"))
    asyncio.run(proxy.restart())

    live = rig.cluster.get("llmproxies", "mine")
    secret = rig.cluster.get("secrets", "mine-keys")
    assert live is not None
    assert secret is not None
    assert base64.b64decode(secret["data"]["hosted-vllm"]) == b"sk-2"
    assert live["status"]["configHash"] != old


def test_a_copy_elsewhere_attaches_by_name(rig: Rig) -> None:
    proxy = rig.proxy({"rpm": 60})
    asyncio.run(proxy.start())

    copy: LLMProxy = cloudpickle.loads(cloudpickle.dumps(proxy))
    assert copy.is_running()
    assert copy.as_resource() == proxy.as_resource()
    copy.litellm_config["litellm_settings"]["rpm"] = 70
    asyncio.run(copy.restart())
    assert (rig.cluster.get("llmproxies", "mine") or {})["spec"]["rateLimits"] == {"rpm": 70}
    asyncio.run(copy.stop())
    assert not proxy.is_running()


def test_kept_it_stands_without_pods_and_serves_again(rig: Rig) -> None:
    proxy = rig.proxy(keep=True)
    asyncio.run(proxy.start())
    asyncio.run(proxy.stop())
    live = rig.cluster.get("llmproxies", "mine")
    assert live is not None
    assert live["spec"]["replicas"] == 0
    assert not proxy.is_running()

    asyncio.run(proxy.start())
    assert (rig.cluster.get("llmproxies", "mine") or {})["spec"]["replicas"] == 1
    assert proxy.is_running()


@pytest.mark.parametrize(
    ("prepare", "more", "says"),
    [
        pytest.param({"phases": []}, {}, "is llmproxy-operator running", id="no operator"),
        pytest.param(
            {"phases": [stalled("SecretNotFound", "no Secret x")]}, {}, "SecretNotFound: no Secret x", id="stalled"
        ),
        pytest.param({"known": False}, {}, "install the operator", id="no CRD"),
        pytest.param({"forbidden": {"PATCH llmproxies"}}, {}, "rbac.yaml", id="not allowed"),
        pytest.param({"forbidden": {"PATCH secrets"}}, {}, "rbac.yaml", id="no Secrets"),
        pytest.param({"token": "another"}, {}, "Unauthorized", id="wrong token"),
        pytest.param({}, {"endpoint": "http://127.0.0.1:9"}, "does not respond", id="Ready, and not to be reached"),
        pytest.param({}, {"store_url": "http://localhost:4747"}, "AGL_SERVER_HOST", id="store on loopback"),
        pytest.param({}, {"store_url": "http://0.0.0.0:4747"}, "AGL_SERVER_HOST", id="store on no address"),
        pytest.param(
            {}, {"model_list": models("http://localhost:8000/v1")}, "this machine's own", id="model on loopback"
        ),
    ],
)
def test_what_does_not_come_is_told(rig: Rig, prepare: dict[str, Any], more: dict[str, Any], says: str) -> None:
    for name, value in prepare.items():
        setattr(rig.cluster, name, value)
    proxy = rig.proxy(**{"ready_timeout_s": 2, **more})

    with pytest.raises(ProxyError, match=says):
        asyncio.run(proxy.start())
    if "mode" in says or "store_url" in more or "model_list" in more:
        assert rig.cluster.requests == []  # nothing was created, nothing even asked


def test_a_refused_proxy_leaves_no_secret(rig: Rig) -> None:
    rig.cluster.forbidden = {"PATCH llmproxies"}

    with pytest.raises(ProxyError):
        asyncio.run(rig.proxy().start())
    assert rig.cluster.objects == {}


def test_an_api_server_that_is_away_for_a_moment_is_waited_for(rig: Rig) -> None:
    rig.cluster.phases = [*rig.cluster.phases[:1] * 5, READY]
    proxy = rig.proxy()
    away = threading.Timer(0.5, lambda: setattr(rig.cluster, "down", 2))
    away.start()

    asyncio.run(proxy.start())

    assert rig.cluster.down == 0
    assert proxy.is_running()


def test_an_object_of_somebody_else_is_left_alone(rig: Rig) -> None:
    theirs = rig.cluster.put("llmproxies", "mine", {"spec": {"models": []}, "metadata": {"labels": {}}})

    with pytest.raises(ProxyError, match="belongs to another owner"):
        asyncio.run(rig.proxy().start())
    assert rig.cluster.get("llmproxies", "mine") == theirs
    assert rig.cluster.get("secrets", "mine-keys") is None


@pytest.mark.parametrize(
    ("name", "owner"),
    [pytest.param(None, "Pod", id="a name of its own"), pytest.param("mine", "Job", id="a name that is found again")],
)
def test_in_a_pod_it_is_owned_by_who_trains(in_a_pod: Rig, name: str | None, owner: str) -> None:
    rig = in_a_pod
    proxy = rig.proxy(name=name, kubeconfig=None)
    asyncio.run(proxy.start())

    assert owners_of(rig, proxy) == [owner]
    proxy.litellm_config["litellm_settings"]["rpm"] = 5
    asyncio.run(proxy.restart())
    assert owners_of(rig, proxy) == [owner]
    rig.cluster._remove(rig.cluster.get("pods", "trainer-abc") or {})
    assert (rig.cluster.get("llmproxies", proxy.name) is None) is (owner == "Pod")
    assert LLMProxy(name="x").server_launcher.access_endpoint == "http://x.train.svc:4000"


def owners_of(rig: Rig, proxy: LLMProxy) -> list[str]:
    return [o["kind"] for o in (rig.cluster.get("llmproxies", proxy.name) or {})["metadata"]["ownerReferences"] or ()]


def test_in_a_pod_what_is_kept_outlives_the_run_and_belongs_to_the_next(in_a_pod: Rig) -> None:
    proxy = in_a_pod.proxy(kubeconfig=None, keep=True)
    asyncio.run(proxy.start())
    assert owners_of(in_a_pod, proxy) == ["Job"]

    asyncio.run(proxy.stop())
    assert owners_of(in_a_pod, proxy) == []

    asyncio.run(proxy.start())
    assert owners_of(in_a_pod, proxy) == ["Job"]


def test_a_start_that_nobody_waits_for_ends(rig: Rig) -> None:
    rig.cluster.phases = []
    proxy = rig.proxy(ready_timeout_s=600)

    async def impatient() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(proxy.start(), 1.0)

    asyncio.run(impatient())  # it returns only when the thread that waited has ended


def test_outside_of_a_cluster_the_way_to_the_api_server_must_be_said() -> None:
    proxy = LLMProxy(model_list=models(VLLM), store_url=STORE, mode="cluster", name="mine")

    with pytest.raises(ProxyError, match="LLMProxy default/mine: this is not a pod of a cluster: set kubeconfig="):
        asyncio.run(proxy.start())


def test_outside_of_a_cluster_the_way_to_the_proxy_must_be_said(rig: Rig) -> None:
    with pytest.raises(ValueError, match="endpoint= is required"):
        rig.proxy(endpoint=None)


def test_a_master_key_is_a_secret_of_callers(rig: Rig) -> None:
    config = {"litellm_settings": {}, "general_settings": {"master_key": "sk-callers"}}
    proxy = rig.proxy(litellm_config=config)

    asyncio.run(proxy.start())

    live, secret = rig.cluster.get("llmproxies", "mine"), rig.cluster.get("secrets", "mine-callers")
    assert live is not None
    assert live["spec"]["access"] == {"apiKeys": {"secretRef": {"name": "mine-callers"}}}
    assert base64.b64decode((secret or {})["data"]["master-key"]) == b"sk-callers"
    asyncio.run(proxy.restart())
    asyncio.run(proxy.stop())
