"""A real API server with the CRD under a group of its own, so that nothing installed there is touched."""

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from llmproxy_api.crd import crd
from llmproxy_api.models import API_VERSION, GROUP, VERSION

CHECK_GROUP = f"check.{GROUP}"
PLURAL = "checkedllmproxies"
NAMESPACE = "llmproxy-crd-check"


@dataclass(frozen=True)
class ApiServer:
    """kubectl against the cluster that LLMPROXY_E2E_KUBECONFIG names, and no other."""

    kubeconfig: str
    kubectl: str

    def run(self, *args: str, stdin: object = None) -> subprocess.CompletedProcess[str]:
        """Run kubectl in the namespace of these tests; *stdin* is a manifest or several."""
        documents = stdin if isinstance(stdin, list) else [stdin]
        return subprocess.run(
            [self.kubectl, "--kubeconfig", self.kubeconfig, "--namespace", NAMESPACE, *args],
            input=None if stdin is None else yaml.safe_dump_all(documents),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def verdict(self, manifest: dict[str, Any]) -> str:
        """Return what the API server says against an LLMProxy, empty if it would take it."""
        moved = manifest | {"apiVersion": f"{CHECK_GROUP}/{VERSION}"} if "apiVersion" in manifest else manifest
        done = self.run("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=moved)
        return "" if done.returncode == 0 else done.stderr.replace(f"{CHECK_GROUP}/{VERSION}", API_VERSION)


def moved_crd() -> dict[str, Any]:
    """Return the CRD in the group of these tests, without the names by which kubectl would take it for the real one."""
    made = crd()
    made["metadata"]["name"] = f"{PLURAL}.{CHECK_GROUP}"
    made["spec"]["group"] = CHECK_GROUP
    made["spec"]["names"] = {"kind": made["spec"]["names"]["kind"], "plural": PLURAL, "singular": "checkedllmproxy"}
    return made


@pytest.fixture(scope="session")
def api_server() -> Iterator[ApiServer]:
    kubeconfig = os.environ.get("LLMPROXY_E2E_KUBECONFIG", "")
    if not kubeconfig:
        pytest.skip("LLMPROXY_E2E_KUBECONFIG names no cluster; `make test-e2e` starts one")
    server = ApiServer(kubeconfig, os.environ.get("LLMPROXY_E2E_KUBECTL", "kubectl"))
    crd_made = moved_crd()
    applied = server.run("apply", "--server-side", "-f", "-", stdin=crd_made)
    assert applied.returncode == 0, applied.stderr
    name = crd_made["metadata"]["name"]
    server.run("wait", "--for=condition=Established", f"crd/{name}", "--timeout=30s")
    server.run("create", "namespace", NAMESPACE)
    server.run("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/warn=restricted", "--overwrite")
    _wait_served(server)
    yield server
    server.run("delete", "crd", name, "--wait=false")
    server.run("delete", "namespace", NAMESPACE, "--wait=false")


def _wait_served(server: ApiServer) -> None:
    deadline = time.monotonic() + 30
    while server.run("get", f"{PLURAL}.{CHECK_GROUP}").returncode != 0:
        assert time.monotonic() < deadline, "the API server does not serve the CRD"
        time.sleep(0.2)
