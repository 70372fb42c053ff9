"""A real API server, a namespace for each test, and operators as processes beside it.

A quota allows no pods there: these tests are about objects and statuses, and pods have tests of their own (e2e).
"""

import os
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from e2e.kube import Kube, Object
from procs import ROOT, Process, free_port, running

CRD = ROOT / "crds/llmproxies.llmproxy.dev.yaml"
IMAGE = "localhost/llmproxy-of-tests:1"


@dataclass
class Operator:
    """One operator process."""

    process: Process
    port: int

    def ask(self, path: str) -> str:
        """Return what its own port answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
            text: str = answer.read().decode()
            return text

    def counted(self, name: str) -> float:
        """Return the sum over the samples of one counter."""
        lines = self.ask("/metrics").splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def said(self, event: str) -> int:
        """How often it logged an event."""
        return self.process.output.count(f'"event": "{event}"')


@contextmanager
def an_operator(namespace: str, *flags: str, env: dict[str, str] | None = None) -> Iterator[Operator]:
    """Run an operator for one namespace until the block ends."""
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
    with running(*command, env=environment, ready="operator_started") as process:
        yield Operator(process, port)


@pytest.fixture(scope="session")
def api_server() -> Iterator[Kube]:
    if not os.environ.get("LLMPROXY_E2E_KUBECONFIG"):
        pytest.skip("LLMPROXY_E2E_KUBECONFIG names no cluster; `make test-e2e` starts one")
    kube = Kube("default")
    installed = kube.run("get", "crd", "llmproxies.llmproxy.dev", check=False)
    kube.run("apply", "--server-side", "--force-conflicts", "-f", str(CRD))
    kube.run("wait", "--for=condition=Established", "crd/llmproxies.llmproxy.dev", "--timeout=30s")
    yield kube
    if "NotFound" in installed:  # it is left as it was found: the chart installs it too, and wants it for itself
        kube.run("delete", "crd", "llmproxies.llmproxy.dev", "--timeout=60s")


@pytest.fixture
def team(api_server: Kube) -> Iterator[Kube]:
    """A namespace of its own, without pods."""
    kube = Kube(f"op-{uuid.uuid4().hex[:8]}")
    kube.run("create", "namespace", kube.namespace)
    quota: Object = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "no-pods"},
        "spec": {"hard": {"pods": "0"}},
    }
    kube.apply(quota)
    yield kube
    kube.run("delete", "namespace", kube.namespace, "--wait=false")


@pytest.fixture
def operator(team: Kube) -> Iterator[Operator]:
    with an_operator(team.namespace, "--no-leader-elect") as started:
        yield started


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
