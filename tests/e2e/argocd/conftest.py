"""One Argo CD, and one Git repository and one namespace for three Applications, beside these tests' operator."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.argocd.rig import Application, Repository, a_repository, application, argo_cd
from e2e.kube import Kube, Object
from e2e.proxies import an_llmproxy


@dataclass(frozen=True)
class World:
    """What the tests share. Each waits for what it needs, so that it can be run alone."""

    target: Kube
    repository: Repository
    applications: dict[str, Application]


def keyed(name: str) -> Object:
    """Return a proxy whose model needs a key from the Secret `provider`."""
    key = {"secretKeyRef": {"name": "provider", "key": "api-key"}}
    deployment = {"model": "hosted_vllm/echo", "apiBase": "http://echo:8000/v1", "apiKey": key}
    return an_llmproxy(name, models=[{"name": "echo", "deployments": [deployment]}])


@pytest.fixture(scope="session")
def argocd(operator: Kube) -> Iterator[Kube]:
    program = os.environ.get("LLMPROXY_E2E_ARGOCD", "")
    if not program:
        pytest.skip("LLMPROXY_E2E_ARGOCD names no Argo CD; `make test-argocd` builds it")
    # Not pytest's folder: the address of a unix socket lies in this one, and must be short.
    with tempfile.TemporaryDirectory(prefix="argocd-") as folder, argo_cd(Path(program), Path(folder)) as kube:
        yield kube


@pytest.fixture(scope="session")
def target(operator: Kube) -> Iterator[Kube]:
    """The namespace that the Applications write to."""
    kube = Kube("gitops")
    kube.run("delete", "namespace", kube.namespace, "--ignore-not-found", "--timeout=120s", timeout_s=130)
    kube.run("create", "namespace", kube.namespace)
    yield kube
    kube.run("delete", "namespace", kube.namespace, "--wait=false")


@pytest.fixture(scope="session")
def world(argocd: Kube, target: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Three Applications: of Argo CD's two ways to apply and compare, and one whose LLMProxy lacks its Secret."""
    repository = a_repository(tmp_path_factory.mktemp("git") / "repository")
    for name in ("plain", "server-side"):
        repository.commit(name, an_llmproxy(name, rateLimits={"rpm": 5}))
    repository.commit("keyless", keyed("keyless"))
    with ExitStack() as stack:
        applications = {
            name: stack.enter_context(
                application(argocd, name, repository, target.namespace, server_side=name == "server-side")
            )
            for name in ("plain", "server-side", "keyless")
        }
        yield World(target, repository, applications)
