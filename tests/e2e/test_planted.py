"""Random keys, put wherever a proxy takes one, and looked for in all that a cluster shows: they are in Secrets only."""

import base64
import json
import secrets
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from e2e.kube import HERE, Kube, Object, eventually
from e2e.proxies import STORE, an_llmproxy, gateway_pods, running, start_rollout

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
FAKE = Path(__file__).parents[1] / "fakes"
NAMES = ("provider", "translated", "caller", "stranger", "collector", "limits", "account", "header")
FILES = """
import json, pathlib, sys
needles = [word.encode() for word in json.loads(sys.stdin.readline())]
for folder in ("/var/spool/llmproxy", "/run/llmproxy", "/etc/llmproxy", "/tmp"):
    for file in pathlib.Path(folder).rglob("*"):
        try:
            data = file.read_bytes() if file.is_file() else b""
        except OSError:
            continue
        print(json.dumps({"file": str(file), "bytes": len(data), "found": any(needle in data for needle in needles)}))
"""
CRASH = """
import os, resource
from pathlib import Path
for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
    if pid != 1 and b"llmproxy.translator" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\\0"):
        resource.prlimit(pid, resource.RLIMIT_CPU, (1, 1))
"""
"""The kernel kills the translator when it uses more processor time than it may; its supervisor starts it again."""


def written(key: str) -> set[str]:
    """Return a key as it is and as base64 has it at each of the three places of a longer text."""
    inner = {base64.b64encode(b"\0" * shift + key.encode()).decode().rstrip("=")[4:-4] for shift in range(3)}
    return {key, base64.b64encode(key.encode()).decode()} | inner


@pytest.fixture
def keys() -> dict[str, str]:
    return {name: f"sk-{secrets.token_hex(20)}" for name in NAMES}


@pytest.fixture
def planted(team: Kube, keys: dict[str, str]) -> Iterator[str]:
    """A proxy that was given every key that it takes. Its collector is away, so that records wait in its spool, and so
    is its store of shared limits, which is told of and changes no outcome: a pod's share is far more than is called."""
    files = {name: (FAKE / name).read_text() for name in ("gemini.py", "asgi.py")}
    gemini = (HERE / "manifests/gemini.yaml").read_text().replace(", --key, planted-key-of-google", "")
    source: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "gemini"}}
    held = {
        "provider": keys["provider"],
        "translated": keys["translated"],
        "collector": f"Bearer {keys['collector']}",
        "limits": f"redis://limits:{keys['limits']}@no-such-store:6379/0",
        "account": keys["account"],
        "header": keys["header"],
    }
    of_proxy: Object = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "planted"}, "stringData": held}
    of_callers = {**of_proxy, "metadata": {"name": "callers"}, "stringData": {"ann": keys["caller"]}}
    team.apply(source | {"data": files}, gemini, of_proxy, of_callers)

    def model(name: str, model: str, base: str, key: str) -> Object:
        ref = {"secretKeyRef": {"name": "planted", "key": key}}
        return {"name": name, "deployments": [{"model": model, "apiBase": base, "apiKey": ref}]}

    models = [
        model("echo", "hosted_vllm/echo", "http://echo:8000/v1", "provider"),
        model("dead", "openai/dead", "http://no-such-server:8000/v1", "provider"),
        model("flash", "gemini/gemini-2.0-flash", "http://gemini:8000/v1beta", "translated"),
        model("nothing", "gemini/no-such-model", "http://gemini:8000/v1beta", "translated"),
    ]
    models[0]["deployments"][0]["headers"] = [
        {"name": "x-org", "value": {"secretKeyRef": {"name": "planted", "key": "header"}}}
    ]
    headers = [{"name": "authorization", "value": {"secretKeyRef": {"name": "planted", "key": "collector"}}}]
    proxy = an_llmproxy(
        "planted",
        models=models,
        spans={"store": STORE, "otlp": {"endpoint": "http://no-such-collector:4318", "headers": headers}},
        access={"apiKeys": {"secretRef": {"name": "callers"}}},
        rateLimits={
            "rpm": 10_000,
            "shared": {"mode": "Redis", "url": {"secretKeyRef": {"name": "planted", "key": "limits"}}},
        },
        pod={"env": [{"name": "AWS_SECRET_ACCESS_KEY", "secretKeyRef": {"name": "planted", "key": "account"}}]},
        retries={"max": 1, "initialDelay": "50ms", "maxDelay": "100ms"},
    )
    team.wait("deployment/gemini", "condition=Available")
    with running(team, proxy, timeout_s=150) as name:
        yield name
    team.run("delete", "service/gemini", "deployment/gemini", "configmap/gemini", "secret/planted", "secret/callers")


def in_container(kube: Kube, container: str, code: str, stdin: str, python: str = "python") -> str:
    """Run Python in a container of the proxy; what it must not be seen with goes to its standard input."""
    command = ("exec", "-i", "deployment/planted", "-c", container, "--", python, "-c", code)
    return kube.run(*command, stdin=stdin)


def restarts(kube: Kube, container: str) -> int:
    [pod] = gateway_pods(kube, "planted")
    states = [*pod["status"]["containerStatuses"], *pod["status"].get("initContainerStatuses", [])]
    return sum(state["restartCount"] for state in states if state["name"] == container)


def crash_translator(kube: Kube, keys: dict[str, str]) -> None:
    """End the translator while it has calls: its supervisor starts it again, or ends too if it was young."""
    before = restarts(kube, "translator")
    in_container(kube, "translator", CRASH, "", python="/opt/translator/bin/python")

    def crashed() -> bool:
        in_container(kube, "gateway", (HERE / "pods/keyed.py").read_text(), json.dumps(keys) + "\n")
        log = kube.run("logs", "deployment/planted", "-c", "translator")
        return "sidecar_restarted" in log or restarts(kube, "translator") > before

    eventually(crashed, bool, 60, "the translator's end")


def objects(kube: Kube) -> str:
    """Return every object of the cluster as YAML, but Secrets."""
    kinds = set(kube.run("api-resources", "--verbs=list", "-o", "name").split()) - {"secrets"}
    return kube.run("get", ",".join(sorted(kinds)), "--all-namespaces", "-o", "yaml", "--ignore-not-found")


def logs(kube: Kube) -> dict[str, str]:
    """Return what every container of the cluster has said, also the one before it was started again."""
    found = {}
    for pod in json.loads(kube.run("get", "pods", "--all-namespaces", "-o", "json"))["items"]:
        where, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        command = ("logs", name, "-n", where, "--all-containers")
        found[f"log of {where}/{name}"] = kube.run(*command, check=False)
        states = [*pod["status"].get("containerStatuses", []), *pod["status"].get("initContainerStatuses", [])]
        for state in states:
            if state["restartCount"]:
                before = kube.run("logs", name, "-n", where, "-c", state["name"], "--previous", check=False)
                found[f"log of {where}/{name}/{state['name']} before"] = before
    return found


def test_keys_are_nowhere_but_in_secrets(team: Kube, operator: Kube, planted: str, keys: dict[str, str]) -> None:
    team.wait("deployment/lightning-store", "condition=Available")
    rollout, attempt = start_rollout(team)
    script = (HERE / "pods/keyed.py").read_text().replace("ro-1", rollout).replace("at-1", attempt)

    def calls() -> dict[str, int]:
        told: dict[str, int] = json.loads(in_container(team, "gateway", script, json.dumps(keys) + "\n"))
        return told

    outcomes = calls()
    served = {name for name, status in outcomes.items() if status == HTTPStatus.OK}
    assert served == {"answered", "streamed", "anthropic", "translated"}, outcomes
    assert (outcomes["unknown key"], outcomes["bad body"], outcomes["no such model"]) == (401, 400, 404)
    crash_translator(team, keys)
    # The Secret's own name and an unusable spec are told in statuses and events; what is in the Secret never.
    team.patch("llmproxy", planted, {"spec": {"image": "docker.io/library/busybox:1"}})
    team.wait(f"llmproxy/{planted}", "condition=Stalled")

    needles = sorted(word for key in keys.values() for word in written(key))
    [pod] = [p["metadata"]["name"] for p in gateway_pods(team, planted)]
    tokens = {
        f"token of {name}": base64.b64decode(value).decode()
        for name in (f"{planted}-control", f"{planted}-peers")
        for value in team.get("secret", name)["data"].values()
    }
    needles += sorted(word for token in tokens.values() for word in written(token))
    query = f"rollout_id={rollout}&attempt_id={attempt}&limit=-1"
    stored = json.dumps(team.service("lightning-store", 4747, f"/v1/agl/spans?{query}")["items"])
    shown = {
        "objects": objects(team),
        "spans": stored,
        **logs(team),
        **{f"{path} of the gateway": team.pod(pod, 9090, path) for path in ("/metrics", "/limits", "/readyz")},
        **{
            f"metrics of {p['metadata']['name']}": operator.pod(p["metadata"]["name"], 8080, "/metrics")
            for p in operator.list("pods", "app.kubernetes.io/name=llmproxy-operator")
        },
    }
    files = [
        json.loads(line)
        for container in ("gateway", "shipper")
        for line in in_container(team, container, FILES, json.dumps(needles) + "\n").splitlines()
    ]

    assert [where for where, text in shown.items() if any(needle in text for needle in needles)] == []
    assert [file["file"] for file in files if file["found"]] == []
    # All of it was there to be found.
    assert [
        kind for kind in ("LLMProxy", "Event", "ControllerRevision") if f"kind: {kind}\n" not in shown["objects"]
    ] == []
    assert stored.count("litellm_request") >= 4
    assert sum(file["bytes"] for file in files if file["file"].startswith("/var/spool/llmproxy")) > 1000
    assert any("sidecar_restarted" in text for text in shown.values()) or any(
        where.endswith("/translator before") for where in shown
    )
    assert any("limits_store_unreachable" in text for text in shown.values())
