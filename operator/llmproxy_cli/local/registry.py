"""Registry of the runs of `llmproxy local` of one user: a file for each in `$XDG_STATE_HOME/llmproxy/local`.

A killed run leaves its file. Readers check the process id, and the next run removes the file.
"""

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class LocalRun:
    """One `llmproxy local`."""

    pid: int
    namespace: str
    name: str
    url: str
    """URL of the proxy."""
    admin: tuple[str, ...]
    """Admin URL of each pod; while one drains there are two."""


def folder() -> Path:
    """Return the folder of the files."""
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    return Path(home) / "llmproxy/local"


def register(run: LocalRun) -> None:
    """Replace the file of *run* atomically. Raise OSError."""
    place = folder()
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    for path, other in _files():
        if other is None or not _is_alive(other.pid):
            path.unlink(missing_ok=True)
    beside = place / f"{run.pid}.new"
    beside.write_text(json.dumps(asdict(run)))
    beside.replace(place / f"{run.pid}.json")


def unregister(pid: int) -> None:
    """Remove the file of a run."""
    with contextlib.suppress(OSError):
        (folder() / f"{pid}.json").unlink(missing_ok=True)


def running() -> list[LocalRun]:
    """Return the runs whose process is alive."""
    return [run for _, run in _files() if run is not None and _is_alive(run.pid)]


def _files() -> Sequence[tuple[Path, LocalRun | None]]:
    return [(path, _read(path)) for path in sorted(folder().glob("*.json"))]


def _read(path: Path) -> LocalRun | None:
    try:
        raw = json.loads(path.read_text())
        return LocalRun(int(raw["pid"]), raw["namespace"], raw["name"], raw["url"], tuple(raw["admin"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
