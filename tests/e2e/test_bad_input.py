"""Bad input and faults: each gets a message that names the thing, and nobody else is disturbed."""

import json
from typing import Any

import pytest

from e2e.kube import Kube, Object, eventually, trainer_job
from e2e.proxies import STORE, an_llmproxy, gateway_pods, running, wait_rolled

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def model(**more: Any) -> Object:
    """Return a model on the echo server; *more* goes into its deployment."""
    return {
        "name": "echo",
        "deployments": [{"model": "hosted_vllm/echo", "apiBase": "http://echo:8000/v1", **more}],
    }


def keyed(name: str, secret: str, key: str = "api-key") -> Object:
    """Return a proxy whose model needs a key from a Secret."""
    deployment = {
        "model": "hosted_vllm/echo",
        "apiBase": "http://echo:8000/v1",
        "apiKey": {"secretKeyRef": {"name": secret, "key": key}},
    }
    return an_llmproxy(name, models=[{"name": "echo", "deployments": [deployment]}])


def test_a_missing_secret_is_named_and_heals_by_itself(team: Kube) -> None:
    team.apply(keyed("keyless", "provider"))
    try:
        waiting = eventually(
            lambda: team.condition("llmproxy", "keyless", "Reconciling"), bool, 20, "the first condition"
        )
        assert "provider" in waiting["message"]
        stalled = eventually(
            lambda: team.condition("llmproxy", "keyless", "Stalled"), lambda c: c.get("status") == "True", 90, "Stalled"
        )
        assert stalled["reason"] == "SecretNotFound"
        assert "provider" in stalled["message"]
        assert gateway_pods(team, "keyless") == []

        team.run("create", "secret", "generic", "provider", "--from-literal=api-key=planted-key-0815")

        team.wait("llmproxy/keyless", "condition=Ready", 90)
        everything = team.run("get", "llmproxies,configmaps,deployments,events,pods", "-o", "yaml")
        assert "planted-key-0815" not in everything
    finally:
        team.run("delete", "llmproxy", "keyless")
        team.run("delete", "secret", "provider", "--ignore-not-found")


WRONG: list[tuple[str, Object, str]] = [
    ("unknown field", {"rateLimit": {"rpm": 5}}, 'unknown field "spec.rateLimit"'),
    ("no models", {"models": []}, "spec.models"),
    ("a limit of 0", {"rateLimits": {"rpm": 0}}, "spec.rateLimits.rpm"),
    ("sixty-five replicas", {"replicas": 65}, "spec.replicas"),
    ("replicas and autoscaling", {"replicas": 1, "autoscaling": {"maxReplicas": 3}}, "spec.replicas"),
    ("a literal key", {"models": [model(apiKey="sk-literal")]}, "spec.models[0].deployments[0].apiKey"),
    ("a duplicate model", {"models": [model(), model()]}, "spec.models[1]"),
]


@pytest.mark.parametrize(("spec", "field"), [(spec, field) for _, spec, field in WRONG], ids=[w[0] for w in WRONG])
def test_a_wrong_proxy_is_refused_with_the_name_of_the_field(team: Kube, spec: Object, field: str) -> None:
    assert field in team.refused(an_llmproxy("wrong", **spec))


def test_a_bad_request_gets_an_error_in_the_shape_of_openai(team: Kube) -> None:
    dead = {"model": "hosted_vllm/echo", "apiBase": "http://no-such-server.e2e:8000/v1"}
    models = [model(), {"name": "dead", "deployments": [dead]}]
    retries = {"max": 1, "initialDelay": "50ms", "maxDelay": "100ms"}
    with running(team, an_llmproxy("faulty", models=models, retries=retries)):

        def answer(body: bytes) -> tuple[int, Object]:
            status, said = team.answer("faulty", 4000, "/v1/chat/completions", body)
            assert set(said["error"]) >= {"message", "type", "code", "param"}, said
            return status, said["error"]

        def asked(name: str) -> bytes:
            return json.dumps({"model": name, "messages": [{"role": "user", "content": "hello"}]}).encode()

        assert answer(b"{not json")[0] == 400
        assert answer(b"[]")[0] == 400
        status, error = answer(asked("nobody"))
        assert (status, error["code"]) == (404, "model_not_found")
        assert "echo" in error["message"]
        status, error = answer(asked("dead"))
        assert status in {502, 504}, error
        assert "dead" in error["message"] or "no-such-server" in error["message"]


@pytest.mark.long
def test_an_edited_secret_rolls_the_pods(team: Kube) -> None:
    team.run("create", "secret", "generic", "rotated", "--from-literal=api-key=first")
    try:
        with running(team, keyed("rotating", "rotated")):
            before = team.get("llmproxy", "rotating")["status"]["configHash"]

            team.run("patch", "secret", "rotated", "-p", '{"stringData": {"api-key": "second"}}')

            eventually(
                lambda: team.get("llmproxy", "rotating")["status"]["configHash"],
                lambda now: now != before,
                60,
                "another config hash",
            )
            wait_rolled(team, "rotating")
            after = team.get("deployment", "rotating")["spec"]["template"]["metadata"]["annotations"]
            assert after["llmproxy.dev/config-hash"] != before
    finally:
        team.run("delete", "secret", "rotated")


def test_a_dead_store_is_not_noticed_by_callers(team: Kube) -> None:
    spans = {"store": "http://no-such-store.e2e:4747"}
    with (
        running(team, an_llmproxy("storeless", spans=spans)),
        trainer_job(
            team, "burst-storeless", "burst", "10", "echo", "ro-1", "at-1", endpoint="storeless-endpoint"
        ) as job,
    ):
        lines = job.result()

        assert [line["status"] for line in lines] == [200] * 10
        # None waits for the store beyond ackWait (50 ms); the rest is a busy machine.
        assert sorted(line["took"] for line in lines)[5] < 3.0


def test_an_object_of_the_same_name_is_reported_and_left_alone(team: Kube) -> None:
    foreign = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "taken"},
        "spec": {"selector": {"app": "somebody-else"}, "ports": [{"port": 80}]},
    }
    team.apply(foreign)
    before = team.get("service", "taken")
    team.apply(an_llmproxy("taken"))
    try:
        stalled = eventually(
            lambda: team.condition("llmproxy", "taken", "Stalled"), lambda c: c.get("status") == "True", 60, "Stalled"
        )

        assert stalled["reason"] == "NameConflict"
        assert "Service" in stalled["message"]
        assert team.get("service", "taken")["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    finally:
        team.run("delete", "llmproxy", "taken")
        team.run("delete", "service", "taken")


def last_end(pod: Object) -> Object:
    """How the gateway container of a pod ended last; empty if it did not."""
    for container in pod.get("status", {}).get("containerStatuses", []):
        for state in (container["state"], container["lastState"]):
            if container["name"] == "gateway" and "terminated" in state:
                ended: Object = state["terminated"]
                return ended
    return {}


def replace_contract(team: Kube, name: str, **change: Any) -> None:
    """Put a document with *change* in the place of the one that the gateway reads; it is immutable, so by a new one."""
    volumes = team.get("deployment", name)["spec"]["template"]["spec"]["volumes"]
    config = next(volume["configMap"]["name"] for volume in volumes if "configMap" in volume)
    old = team.get("configmap", config)
    [(file, text)] = old["data"].items()
    metadata = {
        key: old["metadata"][key]
        for key in ("name", "labels", "annotations", "ownerReferences")
        if key in old["metadata"]
    }
    team.run("delete", "configmap", config)
    team.apply(old | {"metadata": metadata, "data": {file: json.dumps(json.loads(text) | change)}})


@pytest.mark.long
def test_a_contract_of_another_release_ends_the_gateway_with_code_2_and_its_field(team: Kube, operator: Kube) -> None:
    with running(team, an_llmproxy("foreign", drainTimeout="1s")):
        operator.run("scale", "deployment/llmproxy-operator", "--replicas=0")
        try:
            operator.run(
                "wait", "pod", "--for=delete", "-l", "app.kubernetes.io/name=llmproxy-operator", "--timeout=60s"
            )
            # A kubelet reads an immutable ConfigMap once for as long as a pod on its node uses it.
            team.run("scale", "deployment/foreign", "--replicas=0")
            team.run("wait", "pod", "--for=delete", "-l", "llmproxy.dev/name=foreign", "--timeout=90s")
            replace_contract(team, "foreign", version=2)
            team.run("scale", "deployment/foreign", "--replicas=1")

            ended = eventually(lambda: [last_end(pod) for pod in gateway_pods(team, "foreign")], any, 90, "an end")[0]
            assert ended["exitCode"] == 2
            assert "version: this image understands version 1, got 2" in ended["message"]
        finally:
            operator.run("scale", "deployment/llmproxy-operator", "--replicas=2")
            operator.run("rollout", "status", "deployment/llmproxy-operator", "--timeout=90s")

        stalled = eventually(
            lambda: team.condition("llmproxy", "foreign", "Stalled"),
            lambda c: c.get("status") == "True",
            120,
            "Stalled",
        )
        # The document is immutable: the operator says that it is not the one that it made, and whose it is.
        assert stalled["reason"] == "ObjectRefused", stalled
        assert "ConfigMap" in stalled["message"]
        assert "immutable" in stalled["message"]


def test_a_roll_that_cannot_get_ready_leaves_the_old_pod_serving(team: Kube) -> None:
    with running(team, an_llmproxy("broken", spans={"store": STORE})):
        [old] = gateway_pods(team, "broken")

        team.patch("llmproxy", "broken", {"spec": {"image": "localhost/no-such-image:1"}})

        stalled = eventually(
            lambda: team.condition("llmproxy", "broken", "Stalled"), lambda c: c.get("status") == "True", 90, "Stalled"
        )
        assert stalled["reason"] == "ImagePullFailed"
        assert "no-such-image" in stalled["message"]
        assert team.condition("llmproxy", "broken", "Ready")["status"] == "False"
        assert team.condition("llmproxy", "broken", "Available")["status"] == "True"
        assert old["metadata"]["uid"] in {p["metadata"]["uid"] for p in gateway_pods(team, "broken")}
        with trainer_job(team, "burst-broken", "burst", "3", "echo", endpoint="broken-endpoint") as job:
            assert [line["status"] for line in job.result()] == [200] * 3

        team.run("patch", "llmproxy", "broken", "--type=json", "-p", '[{"op": "remove", "path": "/spec/image"}]')
        wait_rolled(team, "broken")


def test_a_gateway_that_ends_again_and_again_is_told_in_its_own_words_and_heals(team: Kube) -> None:
    team.run("create", "secret", "generic", "counts", "--from-literal=url=http://planted-4711@valkey:6379")
    shared = {"mode": "Redis", "url": {"secretKeyRef": {"name": "counts", "key": "url"}}}
    team.apply(an_llmproxy("ending", rateLimits={"rpm": 5, "shared": shared}))
    try:
        stalled = eventually(
            lambda: team.condition("llmproxy", "ending", "Stalled"), lambda c: c.get("status") == "True", 120, "Stalled"
        )
        assert stalled["reason"] == "CrashLoop"
        assert "container gateway exits with code 2 repeatedly: " in stalled["message"]
        assert "shared_limits.url_env: " in stalled["message"]
        assert "planted-4711" not in str(team.get("llmproxy", "ending"))

        team.patch("llmproxy", "ending", {"spec": {"rateLimits": {"shared": None}}})
        wait_rolled(team, "ending")
        assert team.condition("llmproxy", "ending", "Stalled").get("status") != "True"
    finally:
        team.run("delete", "llmproxy", "ending")
        team.run("delete", "secret", "counts")
