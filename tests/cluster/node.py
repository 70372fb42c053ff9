"""The node built from Go modules: start it, say whether it lives, and remove every trace of it."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from . import build, cgroups, network, oci, packages, pki, processes, settings
from .errors import ClusterError
from .places import SOURCES, Places
from .progress import Step, output, run, wait_until

START_TIMEOUT_S = 180.0
COREDNS_IMAGE = "localhost/llmproxy-coredns:1"
NAMESPACES = ("--mount", "--net", "--pid", "--uts", "--ipc")


def _kubectl(places: Places, *words: str) -> list[str]:
    kubectl = build.program(places, build.KUBERNETES, "kubectl")
    return [str(kubectl), "--kubeconfig", str(places.node / "admin.conf"), *words]


def _status(places: Places) -> dict[str, Any]:
    """What the supervisor last reported; empty before it did."""
    try:
        found: dict[str, Any] = json.loads((places.node / "status.json").read_text())
    except (OSError, ValueError):
        return {}
    return found


def fingerprint() -> str:
    """Changes whenever a node would be set up differently."""
    keys = [part.key for part in (build.KUBERNETES, build.CONTAINERD, build.COREDNS)]
    sources = [SOURCES / name for name in ("settings.py", "supervisor.py", "pki.py", "node.py")]
    texts = [path.read_text() for path in [*sources, SOURCES / "manifests" / "dns.yaml"]]
    return hashlib.sha256("\0".join([*keys, *texts]).encode()).hexdigest()[:12]


def exists(places: Places) -> bool:
    """Whether anything of a node is there, alive or not."""
    return bool(places.node.exists() or processes.of_node(places.node))


def trouble(places: Places) -> str | None:
    """Why the node in the state folder cannot be used as it is; None if it can."""
    if not processes.of_node(places.node):
        return "its processes are gone"
    made = places.node / "made"
    if not made.exists():
        return "it was never finished"
    if made.read_text() != fingerprint():
        return "it was made by another version of the sources"
    down = [name for name, part in _status(places).get("parts", {}).items() if not part["up"]]
    if down:
        return f"{', '.join(down)} is down"
    if output(_kubectl(places, "get", "--raw", "/readyz"), timeout_s=10) is None:
        return "its API server does not answer"
    return None


def remove(places: Places) -> None:
    """End the node and remove what it left, whatever state it is in. Safe to repeat.

    Mounts, network namespaces and addresses are the kernel's to remove: they belong to namespaces
    that end with their last process.
    """
    processes.end_all(places.node)
    network.detach(places.link)
    cgroups.remove(places.cgroup)
    places.kubeconfig.unlink(missing_ok=True)
    if places.node.exists():
        # Never remove files through a mount: there should be none, but it would be the user's loss.
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        below = [line.split()[4] for line in mounts if line.split()[4].startswith(f"{places.node}/")]
        if below:
            raise ClusterError(f"unexpected mounts below {places.node}: {', '.join(below)}; unmount them")
        shutil.rmtree(places.node)


def create(places: Places) -> None:
    """Start a new node and wait until it and its name service are ready."""
    packages.ensure(packages.NODE)
    build.ensure(places, build.KUBERNETES, build.CONTAINERD, build.COREDNS)
    places.node.mkdir(parents=True, mode=0o700)
    with Step("Starting etcd, Kubernetes and containerd") as step:
        _start(places, step)
    with Step("Loading the images of the node"):
        _load_own_images(places)
    with Step("Waiting for the node and its name service"):
        run(_kubectl(places, "apply", "--server-side", "-f", str(SOURCES / "manifests" / "dns.yaml")))
        wait_until("the node registered itself", lambda: _node_seen(places), timeout_s=60, every_s=0.3)
        run(_kubectl(places, "wait", "--for=condition=Ready", "node/node", "--timeout=90s"))
        dns = ("-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=90s")
        run(_kubectl(places, *dns))
        account = ("get", "serviceaccount", "default")
        wait_until(
            "the default service account exists",
            lambda: output(_kubectl(places, *account)) is not None,
            timeout_s=30,
            every_s=0.3,
        )
    (places.node / "made").write_text(fingerprint())
    places.kubeconfig.write_text((places.node / "admin.conf").read_text())
    places.kubeconfig.chmod(0o600)


def _node_seen(places: Places) -> bool:
    return output(_kubectl(places, "get", "node", "node")) is not None


def _start(places: Places, step: Step) -> None:
    cable = network.Cable(places.link, network.free_subnet(network.used_networks()))
    keys = pki.make(places.node / "pki", cable.node)
    node = settings.Node(places, cable, keys)
    settings.write_files(node, snapshotter=_snapshotter(places))
    plan = places.node / "plan.json"
    plan.write_text(json.dumps(settings.plan(node), indent=1))
    cgroups.create(places.cgroup)
    process = _spawn(places, plan)
    deadline_s = time.monotonic() + START_TIMEOUT_S
    laid = False
    while _status(places).get("waiting_for") != "":
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise ClusterError(_why_not(places))
        if not laid:
            laid = network.lay(cable, process.pid)
        step.note(f"waiting for {_status(places).get('waiting_for') or 'the network'}")
        time.sleep(0.1)


def _spawn(places: Places, plan: Path) -> "subprocess.Popen[bytes]":
    isolate = ["unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc", "--propagation", "slave"]
    with (places.node / "log" / "supervisor.log").open("ab") as log:
        return subprocess.Popen(
            [*isolate, sys.executable, "-I", str(SOURCES / "supervisor.py"), str(plan)],
            env=os.environ | {processes.MARK: str(places.node)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )


def _why_not(places: Places) -> str:
    waiting = _status(places).get("waiting_for") or "the network"
    logs = [places.node / "log" / "supervisor.log", places.node / "log" / f"{waiting}.log"]
    tails = [f"{log}:\n{log.read_text(errors='replace')[-1500:]}" for log in logs if log.exists()]
    return "\n".join([f"the node did not start; it was waiting for {waiting}", *tails])


def _snapshotter(places: Places) -> str:
    """overlayfs, but for a state folder that lies on an overlay itself."""
    kind = output(["stat", "--file-system", "--format=%T", str(places.state)]) or ""
    return "native" if "overlay" in kind else "overlayfs"


def _load_own_images(places: Places) -> None:
    pause = places.node / "pause"
    run(["cc", "-Os", "-static", "-s", "-o", pause, SOURCES / "images" / "pause.c"])
    coredns = build.program(places, build.COREDNS, "coredns")
    for image, program in ((settings.PAUSE, pause), (COREDNS_IMAGE, coredns)):
        archive = places.node / f"{program.name}.tar"
        oci.write_archive(archive, image=image, program=program)
        load_archive(places, archive)
        archive.unlink()


def load_archive(places: Places, archive: Path) -> None:
    """Import an image archive into the node's container runtime."""
    ctr = build.program(places, build.CONTAINERD, "ctr")
    where = ["--address", str(places.containerd_socket), "--namespace", "k8s.io"]
    run([ctr, *where, "images", "import", str(archive)])
