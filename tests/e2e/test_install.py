"""The operator put on a cluster, upgraded under traffic and taken away; each test leaves it installed again."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.conftest import OPERATOR_NAMESPACE, install
from e2e.kube import HERE, Kube, Object, eventually, helm, trainer_job
from e2e.proxies import STORE, an_llmproxy, gateway_pods, running, spans, start_rollout, wait_rolled
from e2e.typed import type_page
from procs import ROOT

# Nothing else can run meanwhile, so all of it is left to `make test-long`; that an upgrade of the operator alone rolls
# nothing is held in each run, on a real API server (tests/integration/operator).
pytestmark = [pytest.mark.e2e, pytest.mark.alone, pytest.mark.long, pytest.mark.timeout(400)]
CHART = ROOT / "charts/llmproxy-operator"
CRD = "llmproxies.llmproxy.dev"
OLDER = "0.0.9"
# What an older release could have been: another template of pods, another document, an API with a field less.
OLDER_CODE = """
from llmproxy_operator.render import config, containers
containers.PRE_STOP_S = 4
config.drain_timeout_s = lambda _: 301.0
"""
LATER_FIELD = "monitoring"


@pytest.fixture
def installed(operator: Kube, kubeconfig: str) -> Iterator[Kube]:
    """The operator, which is there again afterwards."""
    yield operator
    install(operator, kubeconfig)


def older_chart(folder: Path) -> Path:
    """Make of this tree's chart one of a release before it, whose operator makes other pods."""
    chart = folder / "older"
    shutil.copytree(CHART, chart)
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    (chart / "Chart.yaml").write_text(yaml.safe_dump({**about, "version": OLDER, "appVersion": OLDER}))
    code: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "older"}}
    code["data"] = {"sitecustomize.py": OLDER_CODE}
    (chart / "templates/older.yaml").write_text(yaml.safe_dump(code))
    put(chart / "templates/deployment.yaml", "        env:\n", "        - {name: PYTHONPATH, value: '/older:/app'}\n")
    put(chart / "templates/deployment.yaml", "        volumeMounts:\n", "        - {name: older, mountPath: /older}\n")
    put(chart / "templates/deployment.yaml", "      volumes:\n", "      - {name: older, configMap: {name: older}}\n")
    before = (chart / "templates/crd.yaml").read_text()
    (chart / "templates/crd.yaml").write_text(without(before, LATER_FIELD))
    return chart


def put(file: Path, after: str, line: str) -> None:
    """Put a line into a template."""
    text = file.read_text()
    assert text.count(after) == 1, (file, after)
    file.write_text(text.replace(after, after + line))


def without(crd: str, field: str) -> str:
    """Take a field of the spec out of the CRD's template, with the lines that are indented below it."""
    lines, kept, indent = crd.splitlines(keepends=True), list[str](), None
    for line in lines:
        depth = len(line) - len(line.lstrip())
        if indent is not None and depth > indent:
            continue
        indent = depth if line.strip() == f"{field}:" else None
        if indent is None:
            kept.append(line)
    assert len(kept) < len(lines)
    return "".join(kept)


def fields(kube: Kube) -> set[str]:
    """Return the fields of spec that the API server knows."""
    [version] = kube.get("crd", CRD)["spec"]["versions"]
    return set(version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"])


def running_pods(kube: Kube, name: str) -> dict[str, list[Any]]:
    """Return each pod of a proxy with what would change if it was restarted."""
    return {
        pod["metadata"]["uid"]: [
            (status["name"], status["restartCount"], status["containerID"])
            for status in [*pod["status"]["containerStatuses"], *pod["status"].get("initContainerStatuses", [])]
        ]
        for pod in gateway_pods(kube, name)
    }


def pre_stop_s(kube: Kube, name: str) -> int:
    """Return how long the gateway sleeps before it ends: what tells the two releases' templates apart."""
    [container] = kube.get("deployment", name)["spec"]["template"]["spec"]["containers"]
    seconds: int = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    return seconds


def test_an_upgrade_from_an_older_release_is_not_noticed(
    team: Kube, installed: Kube, kubeconfig: str, tmp_path: Path
) -> None:
    values = ("--values", str(HERE / "values.yaml"), "--namespace", OPERATOR_NAMESPACE, "--wait", "--timeout", "120s")
    helm(kubeconfig, "upgrade", "--install", "llmproxy-operator", str(older_chart(tmp_path)), *values)
    assert LATER_FIELD not in fields(team)
    with running(team, an_llmproxy("upgraded", rateLimits={"rpm": 6000}, spans={"store": STORE}, drainTimeout="5s")):
        before = running_pods(team, "upgraded")
        generation = team.get("deployment", "upgraded")["metadata"]["generation"]
        assert pre_stop_s(team, "upgraded") == 4, "not made by the older release"

        with trainer_job(
            team, "traffic-upgraded", "traffic", "12", "echo", "4", "ro-1", "at-1", endpoint="upgraded-endpoint"
        ) as job:
            job.wait_started()
            helm(kubeconfig, "upgrade", "llmproxy-operator", str(CHART), *values)
            team.run("label", "llmproxy", "upgraded", "looked-at=again")
            lines = job.result(180)

        assert LATER_FIELD in fields(team)
        assert OLDER not in installed.run("get", "deployments,pods", "-l", "app.kubernetes.io/name=llmproxy-operator")
        calls = [line for line in lines if "done" not in line]
        assert len(calls) > 10
        assert [line for line in calls if line["status"] != 200 or line.get("finish", "stop") != "stop"] == []
        assert (running_pods(team, "upgraded"), pre_stop_s(team, "upgraded")) == (before, 4)
        assert team.get("deployment", "upgraded")["metadata"]["generation"] == generation

        # The new operator is the one that works: it adopts the new template when it is told to.
        team.run("annotate", "llmproxy", "upgraded", "llmproxy.dev/restart=1")
        eventually(lambda: pre_stop_s(team, "upgraded"), lambda seconds: seconds != 4, 60, "the new template")
        wait_rolled(team, "upgraded")

        helm(kubeconfig, "uninstall", "llmproxy-operator", "--namespace", OPERATOR_NAMESPACE, "--wait")
        assert team.condition("llmproxy", "upgraded", "Ready")["status"] == "True"
        with trainer_job(team, "burst-upgraded", "burst", "2", "echo", endpoint="upgraded-endpoint") as job:
            assert [line["status"] for line in job.result()] == [200] * 2


def test_install_upgrade_and_uninstall_as_the_page_says(team: Kube, installed: Kube, tmp_path: Path) -> None:
    for page in ("README.md", "docs/install.md"):
        folder = tmp_path / Path(page).stem
        folder.mkdir()
        type_page(team, page, folder)

    assert "NotFound" in team.run("get", "crd", CRD, check=False)


def test_the_charts_own_store_is_told_of_a_call(team: Kube, installed: Kube, kubeconfig: str) -> None:
    with_store = {"lightningStore.create": "true", "lightningStore.image": "localhost/llmproxy-testkit:dev"}
    flags = [word for name, value in with_store.items() for word in ("--set", f"{name}={value}")]
    where = ("--namespace", OPERATOR_NAMESPACE, "--wait", "--timeout", "150s")
    helm(kubeconfig, "upgrade", "llmproxy-operator", str(CHART), "--values", str(HERE / "values.yaml"), *flags, *where)
    store = "llmproxy-operator-store"
    address = f"http://{store}.{OPERATOR_NAMESPACE}:4747"

    with running(team, an_llmproxy("recorded", spans={"store": address})):
        rollout, attempt = start_rollout(installed, store)
        body = {"model": "echo", "messages": [{"role": "user", "content": "to be kept"}]}
        path = f"/rollout/{rollout}/attempt/{attempt}/v1/chat/completions"
        answer = team.service("recorded", 4000, path, post=body)
        found = spans(installed, rollout, attempt, "litellm_request", store)

    assert [span["attributes"]["gen_ai.response.id"] for span in found] == [answer["id"]]
    assert "to be kept" in str(found[0]["attributes"])


def test_kustomize_installs_it_too(team: Kube, installed: Kube, kubeconfig: str) -> None:
    helm(kubeconfig, "uninstall", "llmproxy-operator", "--namespace", OPERATOR_NAMESPACE, "--wait")
    base = str(ROOT / "gitops/kustomize")
    try:
        installed.run("apply", "--server-side", "-k", base)
        # Its images are those of a release; here there are only those of this tree.
        images = ("deployment/llmproxy-operator", "operator=localhost/llmproxy-operator:dev")
        installed.run("set", "image", *images)
        installed.run("set", "env", "deployment/llmproxy-operator", "OPERATOR_PROXY_IMAGE=localhost/llmproxy:dev")
        installed.run("rollout", "status", "deployment/llmproxy-operator", "--timeout=120s", timeout_s=130)
        with running(team, an_llmproxy("kustomized"), timeout_s=150):
            pass
    finally:
        installed.run("delete", "-k", base, "--ignore-not-found", "--timeout=120s", timeout_s=130)
