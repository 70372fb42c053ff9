"""One cluster, one operator, and a namespace for each worker with an echo model server and a LightningStore."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.kube import HERE, Kube, helm

ROOT = HERE.parent.parent
OPERATOR_NAMESPACE = "llmproxy-system"


@pytest.fixture(scope="session")
def kubeconfig() -> str:
    path = os.environ.get("LLMPROXY_E2E_KUBECONFIG", "")
    if not path:
        pytest.skip("LLMPROXY_E2E_KUBECONFIG names no cluster; `make test-e2e` starts one")
    return path


@contextmanager
def locked(file: Path, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold a lock that all workers of this run know, exclusively or shared."""
    with file.open("a") as opened:
        fcntl.flock(opened, how)
        yield


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory, testrun_uid: str) -> Path:
    """A folder that all workers of this run share, and no other run."""
    folder = tmp_path_factory.getbasetemp().parent / f"e2e-{testrun_uid}"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(autouse=True)
def room(request: pytest.FixtureRequest, run_dir: Path) -> Iterator[None]:
    """Let tests of several workers run side by side, but those marked `alone` only when no other runs.

    Whoever waits for the room holds the door, so that those behind it cannot overtake.
    """
    alone = request.node.get_closest_marker("alone") is not None
    with (run_dir / "room").open("a") as opened:
        with locked(run_dir / "door"):
            fcntl.flock(opened, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


@pytest.fixture(scope="session")
def operator(kubeconfig: str, run_dir: Path) -> Kube:
    """The operator, installed with Helm as its README says, once for all workers."""
    kube, done = Kube(OPERATOR_NAMESPACE), run_dir / "installed"
    with locked(run_dir / "install"):
        if not done.exists():
            install(kube, kubeconfig)
            done.touch()
    return kube


def install(kube: Kube, kubeconfig: str) -> None:
    """Install the chart of this tree, or upgrade what is installed to it."""
    helm(
        *(kubeconfig, "upgrade", "--install", "llmproxy-operator", str(ROOT / "charts/llmproxy-operator")),
        *("--namespace", OPERATOR_NAMESPACE, "--create-namespace"),
        *("--values", str(HERE / "values.yaml"), "--wait", "--timeout", "120s"),
    )
    # An image made anew has the same name here: on a cluster of an earlier run the old one would go on.
    kube.run("rollout", "restart", "deployment/llmproxy-operator")
    kube.run("rollout", "status", "deployment/llmproxy-operator", "--timeout=90s")


@pytest.fixture(scope="session")
def team(operator: Kube, worker_id: str) -> Iterator[Kube]:
    """A namespace of people who train: an echo model server, a LightningStore, and the proxies that tests make."""
    kube = Kube("e2e" if worker_id == "master" else f"e2e-{worker_id}")
    kube.run("delete", "namespace", kube.namespace, "--ignore-not-found", "--timeout=120s", timeout_s=130)
    kube.run("create", "namespace", kube.namespace)
    kube.run("label", "namespace", kube.namespace, "pod-security.kubernetes.io/enforce=restricted")
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
