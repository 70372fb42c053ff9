"""kind, on the Docker engine that answers: create, delete, load.

kind's own defaults, but for what the caller adds: see `kind_image` for a node image made here.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from .places import Places
from .progress import Step, output, run

NAME = "llmproxy-tests"
NODE = f"{NAME}-control-plane"

Env = Mapping[str, str] | None


def exists(env: Env = None) -> bool:
    """Whether kind knows the cluster."""
    return NAME in (output(["kind", "get", "clusters"], env=env) or "").split()


def trouble(places: Places, env: Env = None) -> str | None:
    """Why the cluster cannot be used right now; None if it can."""
    if not exists(env) or not places.kubeconfig.exists():
        return "it is not up"
    # The node's own kubectl: the host need not have one.
    words = ["docker", "exec", NODE, "kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf"]
    ready = output([*words, "get", "--raw", "/readyz"], env=env)
    return None if ready else "its API server does not answer"


def create(places: Places, env: Env = None, *more: str | Path) -> None:
    """Create the cluster and wait until its node is ready; `more` are further words for kind."""
    places.state.mkdir(parents=True, exist_ok=True)
    with Step("Creating a kind cluster") as step:
        words = ["kind", "create", "cluster", "--name", NAME, "--wait", "180s"]
        run([*words, "--kubeconfig", places.kubeconfig, *more], env=env, on_line=step.note)


def remove(places: Places, env: Env = None) -> None:
    """Delete the cluster if there is one."""
    if shutil.which("kind", path=(env or os.environ).get("PATH")) and exists(env):
        with Step("Deleting the kind cluster"):
            run(["kind", "delete", "cluster", "--name", NAME, "--kubeconfig", places.kubeconfig], env=env)
    places.kubeconfig.unlink(missing_ok=True)


def load_archive(archive: Path, env: Env = None) -> None:
    """Copy an image archive into the node."""
    run(["kind", "load", "image-archive", str(archive), "--name", NAME], env=env)
