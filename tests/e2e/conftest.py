"""One cluster, one operator, one namespace with an echo model server and a LightningStore."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.kube import HERE, Kube

ROOT = HERE.parent.parent
OPERATOR_NAMESPACE = "llmproxy-system"


@pytest.fixture(scope="session")
def kubeconfig() -> str:
    path = os.environ.get("LLMPROXY_E2E_KUBECONFIG", "")
    if not path:
        pytest.skip("LLMPROXY_E2E_KUBECONFIG names no cluster; `make test-e2e` starts one")
    return path


@pytest.fixture(scope="session")
def operator(kubeconfig: str) -> Kube:
    """The operator, installed with Helm as its README says."""
    helm = os.environ.get("LLMPROXY_E2E_HELM", "helm")
    command = [
        *(helm, "--kubeconfig", kubeconfig, "upgrade", "--install", "llmproxy-operator"),
        *(str(ROOT / "charts/llmproxy-operator"), "--namespace", OPERATOR_NAMESPACE, "--create-namespace"),
        *("--values", str(HERE / "values.yaml"), "--wait", "--timeout", "120s"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    kube = Kube(OPERATOR_NAMESPACE)
    # An image made anew has the same name here: on a cluster of an earlier run the old one would go on.
    kube.run("rollout", "restart", "deployment/llmproxy-operator")
    kube.run("rollout", "status", "deployment/llmproxy-operator", "--timeout=90s")
    return kube


@pytest.fixture(scope="session")
def team(operator: Kube, kubeconfig: str) -> Iterator[Kube]:
    """A namespace of people who train: an echo model server, a LightningStore, and the proxies that tests make."""
    kube = Kube("e2e")
    kube.run("delete", "namespace", "e2e", "--ignore-not-found", "--timeout=120s", timeout_s=130)
    kube.run("create", "namespace", "e2e")
    kube.run("label", "namespace", "e2e", "pod-security.kubernetes.io/enforce=restricted")
    kube.apply(ROOT / "examples/quickstart/echo.yaml", ROOT / "examples/quickstart/lightning-store.yaml")
    kube.wait("deployment/echo", "condition=Available")
    kube.wait("deployment/lightning-store", "condition=Available", timeout_s=120)
    yield kube
    _keep_logs(kube, operator)


def _keep_logs(*namespaces: Kube) -> None:
    """Leave what pods said where CI's output can show it: `build/e2e-logs`."""
    folder = Path(ROOT / "build/e2e-logs")
    folder.mkdir(parents=True, exist_ok=True)
    for kube in namespaces:
        for pod in kube.list("pods"):
            name = pod["metadata"]["name"]
            text = kube.run("logs", name, "--all-containers", "--prefix", check=False)
            (folder / f"{kube.namespace}.{name}.log").write_text(text)
