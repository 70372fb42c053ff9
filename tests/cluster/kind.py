"""kind, where a Docker engine runs: create, delete, load. kind's own defaults otherwise."""

import shutil
from pathlib import Path

from .places import Places
from .progress import Step, output, run

NAME = "llmproxy-tests"


def _exists() -> bool:
    return NAME in (output(["kind", "get", "clusters"]) or "").split()


def trouble(places: Places) -> str | None:
    """Why the cluster cannot be used right now; None if it can."""
    if not _exists() or not places.kubeconfig.exists():
        return "it is not up"
    # The node's own kubectl: the host need not have one.
    words = ["docker", "exec", f"{NAME}-control-plane", "kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf"]
    ready = output([*words, "get", "--raw", "/readyz"])
    return None if ready else "its API server does not answer"


def create(places: Places) -> None:
    """Create the cluster and wait until its node is ready."""
    places.state.mkdir(parents=True, exist_ok=True)
    with Step("Creating a kind cluster") as step:
        words = ["kind", "create", "cluster", "--name", NAME, "--wait", "180s"]
        run([*words, "--kubeconfig", places.kubeconfig], on_line=step.note)


def remove(places: Places) -> None:
    """Delete the cluster if there is one."""
    if shutil.which("kind") and _exists():
        with Step("Deleting the kind cluster"):
            run(["kind", "delete", "cluster", "--name", NAME, "--kubeconfig", places.kubeconfig])
    places.kubeconfig.unlink(missing_ok=True)


def load_archive(archive: Path) -> None:
    """Copy an image archive into the node."""
    run(["kind", "load", "image-archive", str(archive), "--name", NAME])
