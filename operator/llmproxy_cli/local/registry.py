"""Where the runs of `llmproxy local` are told to other programs of the same user: a small file for each.

It is the user's own folder, `$XDG_STATE_HOME/llmproxy/local`. A run that was killed leaves its file; readers see by the
process' id that it is over, and the next run removes it.
"""

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """One `llmproxy local`."""

    pid: int
    namespace: str
    name: str
    url: str
    """Where it serves."""
    admin: tuple[str, ...]
    """Health and metrics of each pod that is there; while one drains there are two."""


def folder() -> Path:
    """Return where the files are."""
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    return Path(home) / "llmproxy/local"


def tell(run: Run) -> None:
    """Write the file of *run* anew, so that a reader sees all of it or what was before. Raise OSError."""
    place = folder()
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    for path, known in _files():
        if known is None or not _is_alive(known.pid):
            path.unlink(missing_ok=True)
    beside = place / f"{run.pid}.new"
    beside.write_text(json.dumps(asdict(run)))
    beside.replace(place / f"{run.pid}.json")


def forget(pid: int) -> None:
    """Remove the file of a run that ends."""
    with contextlib.suppress(OSError):
        (folder() / f"{pid}.json").unlink(missing_ok=True)


def alive() -> list[Run]:
    """Return the runs that are there."""
    return [run for _, run in _files() if run is not None and _is_alive(run.pid)]


def _files() -> Sequence[tuple[Path, Run | None]]:
    return [(path, _read(path)) for path in sorted(folder().glob("*.json"))]


def _read(path: Path) -> Run | None:
    try:
        said = json.loads(path.read_text())
        return Run(int(said["pid"]), said["namespace"], said["name"], said["url"], tuple(said["admin"]))
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
