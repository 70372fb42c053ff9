"""The cluster does what the end-to-end tests build on. Needs `make cluster-up images`."""

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.places import SOURCES

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def kubectl(*words: str) -> str:
    """Call kubectl on the cluster of the tests and return what it printed."""
    command = [sys.executable, "-m", "cluster", "kubectl", *words]
    done = subprocess.run(command, cwd=SOURCES.parent, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, f"kubectl {' '.join(words)}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"smoke-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


def test_a_job_reaches_a_service_whose_pods_have_a_sidecar_and_roll(namespace: str) -> None:
    here = ("--namespace", namespace)
    kubectl(*here, "apply", "--server-side", "-f", str(Path(SOURCES, "manifests", "smoke.yaml")))

    kubectl(*here, "rollout", "status", "deployment/smoke", "--timeout=120s")
    kubectl(*here, "wait", "--for=condition=Complete", "job/caller", "--timeout=120s")

    assert "hello from the sidecar, version 1" in kubectl(*here, "logs", "job/caller")
    assert "serving" in kubectl(*here, "logs", "deployment/smoke", "--container=server")

    kubectl(*here, "set", "env", "deployment/smoke", "--containers=server", "VERSION=2")
    kubectl(*here, "rollout", "status", "deployment/smoke", "--timeout=120s")
    # Whoever calls meets the old pod or the new one, never none; in the end the new one alone.
    ask = (
        "import time, urllib.request as u\n"
        "for _ in range(40):\n"
        "    print(u.urlopen('http://smoke:4000/', timeout=5).read().decode(), flush=True)\n"
        "    time.sleep(0.1)\n"
    )
    answers = kubectl(*here, "exec", "deployment/smoke", "-c", "server", "--", "python", "-c", ask).splitlines()

    assert set(answers) <= {f"hello from the sidecar, version {n}" for n in (1, 2)}
    assert answers[-1] == "hello from the sidecar, version 2"
