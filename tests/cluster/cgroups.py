"""The control group that holds a node's pods: make it, and take it away with all below it."""

import time
from pathlib import Path

from .errors import ClusterError


def _mounts() -> list[tuple[str, Path]]:
    """File system type and place of each control group hierarchy that has controllers."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, after = line.split(" - ", 1)
        kind = after.split()[0]
        if kind in {"cgroup", "cgroup2"}:
            found.append((kind, Path(before.split()[4])))
    return found


def hierarchies() -> list[Path]:
    """The roots below which a group must exist: all of version 1, or the one of version 2."""
    mounts = _mounts()
    first = [place for kind, place in mounts if kind == "cgroup"]
    return first or [place for kind, place in mounts if kind == "cgroup2"]


def create(name: str) -> None:
    """Make the group in every hierarchy, with every controller handed down to it."""
    for root in hierarchies():
        (root / name).mkdir(exist_ok=True)
        controllers = root / "cgroup.controllers"
        if controllers.exists():
            _delegate(root, controllers.read_text().split())


def _delegate(root: Path, controllers: list[str]) -> None:
    for controller in controllers:
        try:
            (root / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError as exc:
            raise ClusterError(f"{root}: cannot hand down the controller {controller}: {exc}") from exc


def remove(name: str, *, timeout_s: float = 10) -> None:
    """Remove the group and all below it from every hierarchy; its processes must have ended."""
    deadline_s = time.monotonic() + timeout_s
    for _, root in _mounts():
        while (root / name).exists():
            stuck = _remove_tree(root / name)
            if stuck and time.monotonic() > deadline_s:
                raise ClusterError(f"control group {stuck} cannot be removed: it is in use")
            if stuck:
                time.sleep(0.1)


def _remove_tree(group: Path) -> Path | None:
    """Remove what can be removed, deepest first; return one that could not be."""
    stuck = None
    folders = sorted((p for p in group.rglob("*") if p.is_dir()), key=lambda p: -len(p.parts))
    for folder in [*folders, group]:
        try:
            folder.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            stuck = folder
    return stuck
