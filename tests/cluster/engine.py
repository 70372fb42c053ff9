"""A Docker engine of our own where none runs: Debian's, in namespaces of its own, from a folder, installed nowhere.

It ends at a socket that answers; what runs on it is for `kind_image` and `kind`. Like the node, it is one
folder, one cable and one control group, and `remove` takes all three, whatever state it is in.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from . import cgroups, network, packages, processes
from .errors import ClusterError
from .places import SOURCES, Places
from .progress import Step, output, run

PACKAGES = ("docker.io", "containerd", "tini")
START_TIMEOUT_S = 60.0
NAMESPACES = ("--mount", "--net", "--pid")
# The engine's mounts and its network end with its last process; /run is its own, so two engines never meet.
SCRIPT = """
mount -t tmpfs -o mode=755 tmpfs /run
ip link set lo up
for _ in $(seq 300); do ip link set {peer} up 2>/dev/null && break; sleep 0.1; done
ip address add {address}/30 dev {peer}
exec dockerd --data-root "$STATE/data" --exec-root "$STATE/exec" --pidfile "$STATE/pid" --host "unix://$STATE/sock" \
  --cgroup-parent "/$GROUP" --add-runtime "limited=$STATE/runc" --default-runtime limited
"""


def _folder(places: Places) -> Path:
    return places.state / "engine"


def _link(places: Places) -> str:
    return f"llmk-{places.host_id}"


def _group(places: Places) -> str:
    return f"{places.cgroup}-engine"


def _programs(places: Places) -> Path:
    return places.cache / "docker"


def address(places: Places) -> str:
    """The engine's end of the cable: what it publishes is reached there."""
    return (_folder(places) / "address").read_text()


def env(places: Places, *more: Path) -> dict[str, str]:
    """The environment in which `docker` means this engine; `more` are folders of further programs."""
    programs = _programs(places)
    folders = [*more, programs / "usr/bin", programs / "usr/sbin", packages.SEARCH_PATH]
    own = {"PATH": os.pathsep.join(map(str, folders)), "DOCKER_HOST": f"unix://{_folder(places) / 'sock'}"}
    # The classic builder: the newer one is a plugin that Debian packs separately.
    return os.environ | own | {"DOCKER_BUILDKIT": "0", "DOCKER_CONFIG": str(_folder(places) / "config")}


def exists(places: Places) -> bool:
    """Whether anything of an engine is there, alive or not."""
    return bool(_folder(places).exists() or processes.of_node(_folder(places)))


def answers(places: Places) -> bool:
    """Whether the engine can be used."""
    return exists(places) and output(["docker", "info"], env=env(places)) is not None


def start(places: Places) -> None:
    """Start the engine anew."""
    remove(places)
    _fetch(places)
    folder = _folder(places)
    folder.mkdir(parents=True, mode=0o700)
    runtime = folder / "runc"
    runtime.write_text(f'#!/bin/sh\nexec {sys.executable} -I {SOURCES / "runc_limited.py"} "$@"\n')
    runtime.chmod(0o755)
    cable = network.Cable(_link(places), network.free_subnet(network.used_networks()))
    (folder / "address").write_text(cable.node)
    with Step("Starting a Docker engine"):
        process = _spawn(places, SCRIPT.format(peer=network.PEER, address=cable.node))
        deadline_s = time.monotonic() + START_TIMEOUT_S
        laid = False
        while not (laid and answers(places)):
            if process.poll() is not None or time.monotonic() > deadline_s:
                said = (folder / "log").read_text(errors="replace")[-1500:]
                raise ClusterError(f"the Docker engine did not start:\n{said}")
            laid = laid or network.lay(cable, process.pid)
            time.sleep(0.2)


def _spawn(places: Places, script: str) -> "subprocess.Popen[bytes]":
    folder = _folder(places)
    own = {processes.MARK: str(folder), "STATE": str(folder), "GROUP": _group(places)}
    isolate = ["unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc", "--propagation", "slave"]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [*isolate, "sh", "-euc", script],
            env=env(places) | own,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )


def _fetch(places: Places) -> None:
    """Unpack Debian's packages into the cache; to install them would start an engine on the host."""
    target = _programs(places)
    if target.exists():
        return
    fresh = target.with_name(f"{target.name}.fetching")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    with Step("Fetching Debian's Docker engine (70 MB)") as step:
        if output(["apt-get", "download", "--print-uris", *PACKAGES]) is None:
            run(["apt-get", "update"], on_line=step.note)
        # apt's own user may not write here, and need not.
        run(["apt-get", "-o", "APT::Sandbox::User=root", "download", *PACKAGES], cwd=fresh, on_line=step.note)
        for package in fresh.glob("*.deb"):
            run(["dpkg-deb", "--extract", package, fresh])
            package.unlink()
    fresh.rename(target)


def remove(places: Places) -> None:
    """End the engine and all that runs on it, and remove what it left. Safe to repeat."""
    folder = _folder(places)
    processes.end_all(folder)
    network.detach(_link(places))
    cgroups.remove(_group(places))
    if folder.exists():
        shutil.rmtree(folder)
