"""A real API server, a namespace for each test, and operators as processes beside it.

A quota allows no pods there: these tests are about objects and statuses, and pods have tests of their own (e2e).
"""

import fcntl
import json
import os
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.kube import Kube, Object
from procs import ROOT, Process, free_port, started

CRD = ROOT / "crds/llmproxies.llmproxy.dev.yaml"
OURS = "llmproxy.dev/installed-by=tests"
IMAGE = "localhost/llmproxy-of-tests:1"


@dataclass
class Operator:
    """One operator process."""

    process: Process
    port: int

    def get(self, path: str) -> str:
        """Return what its own port answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
            text: str = answer.read().decode()
            return text

    def metric(self, name: str) -> float:
        """Return the sum over the samples of one counter."""
        lines = self.get("/metrics").splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def log_count(self, event: str) -> int:
        """Return the number of log lines of an event."""
        return self.process.output.count(f'"event": "{event}"')


def start_operator(namespace: str, *flags: str, env: dict[str, str] | None = None) -> Operator:
    """Start an operator for one namespace; it is not up yet."""
    port = free_port()
    environment = {
        "KUBECONFIG": os.environ["LLMPROXY_E2E_KUBECONFIG"],
        "KUBERNETES_SERVICE_HOST": "",
        "OPERATOR_NAMESPACE": namespace,
        "OPERATOR_PROXY_IMAGE": IMAGE,
        "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT / 'proxy_image'}",
        **(env or {}),
    }
    command = ("llmproxy_operator.__main__", "--namespace", namespace, "--health-port", str(port), *flags)
    return Operator(started(*command, env=environment), port)


def kubeconfig_of(kube: Kube, account: str, file: Path) -> str:
    """Write a kubeconfig that has the token of a ServiceAccount and nothing else; return its path."""
    token = kube.run("create", "token", account).strip()
    view = json.loads(kube.run("config", "view", "--raw", "-o", "json"))
    view["users"] = [{"name": user["name"], "user": {"token": token}} for user in view["users"]]
    file.write_text(json.dumps(view))
    return str(file)


@contextmanager
def an_operator(namespace: str, *flags: str, env: dict[str, str] | None = None) -> Iterator[Operator]:
    """Run an operator for one namespace until the block ends."""
    operator = start_operator(namespace, *flags, env=env)
    try:
        operator.process.wait_for("operator_started")
        yield operator
    finally:
        operator.process.end()


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory, testrun_uid: str) -> Iterator[Kube]:
    """A cluster with the CRD. The last worker to end leaves it as it was found: the chart installs the CRD too."""
    if not os.environ.get("LLMPROXY_E2E_KUBECONFIG"):
        pytest.skip("LLMPROXY_E2E_KUBECONFIG names no cluster; `make test-e2e` starts one")
    kube = Kube("default")
    with (tmp_path_factory.getbasetemp().parent / f"crd-{testrun_uid}").open("a") as in_use:
        fcntl.flock(in_use, fcntl.LOCK_SH)
        installed = kube.run("get", "crd", "llmproxies.llmproxy.dev", check=False)
        kube.run("apply", "--server-side", "--force-conflicts", "-f", str(CRD))
        if "NotFound" in installed:
            kube.run("label", "crd", "llmproxies.llmproxy.dev", OURS)
        kube.run("wait", "--for=condition=Established", "crd/llmproxies.llmproxy.dev", "--timeout=30s")
        yield kube
        with suppress(BlockingIOError):
            fcntl.flock(in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            kube.run("delete", "crd", "--selector", OURS, "--timeout=60s")


def a_namespace() -> Kube:
    """Make a namespace without pods."""
    kube = Kube(f"op-{uuid.uuid4().hex[:8]}")
    kube.run("create", "namespace", kube.namespace)
    quota: Object = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "no-pods"},
        "spec": {"hard": {"pods": "0"}},
    }
    kube.apply(quota)
    return kube


class Ahead:
    """A namespace with an operator for the next test: it starts while the test before runs, and mostly waits."""

    def __init__(self) -> None:
        self._spare: tuple[Kube, Operator] | None = None

    def take(self) -> tuple[Kube, Operator]:
        """Return what was started ahead, up, and start the next."""
        kube, operator = self._spare or self._make()
        self._spare = self._make()
        operator.process.wait_for("operator_started")
        return kube, operator

    def close(self) -> None:
        """End what nobody took."""
        if self._spare is not None:
            end(*self._spare)

    def _make(self) -> tuple[Kube, Operator]:
        kube = a_namespace()
        return kube, start_operator(kube.namespace, "--no-leader-elect")


def end(kube: Kube, operator: Operator | None) -> None:
    """End an operator and have its namespace deleted."""
    if operator is not None:
        operator.process.end()
    kube.run("delete", "namespace", kube.namespace, "--wait=false")


@pytest.fixture(scope="session")
def ahead(api_server: Kube) -> Iterator[Ahead]:
    made = Ahead()
    yield made
    made.close()


@pytest.fixture
def place(ahead: Ahead, request: pytest.FixtureRequest) -> Iterator[tuple[Kube, Operator | None]]:
    """A namespace of the test's own, with an operator if the test asks for one."""
    taken = ahead.take() if "operator" in request.fixturenames else (a_namespace(), None)
    yield taken
    end(*taken)


@pytest.fixture
def team(place: tuple[Kube, Operator | None]) -> Kube:
    return place[0]


@pytest.fixture
def operator(place: tuple[Kube, Operator | None]) -> Operator:
    assert place[1] is not None
    return place[1]


def settled(value: Callable[[], object], *, quiet_s: float = 2.0, timeout_s: float = 60.0) -> object:
    """Wait until *value* has been the same for some seconds; return it."""
    deadline = time.monotonic() + timeout_s
    last, since = value(), time.monotonic()
    while time.monotonic() - since < quiet_s:
        assert time.monotonic() < deadline, f"does not come to rest: {last}"
        time.sleep(0.2)
        if (now := value()) != last:
            last, since = now, time.monotonic()
    return last
