"""The files of unix sockets: what an ended process left is in the way, and the gateway's group may connect."""

import stat
from pathlib import Path


def make_way(path: Path) -> None:
    """Remove a socket at *path*; anything else there is left, and listening fails."""
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        path.unlink()


def open_to_group(path: Path) -> None:
    """Let the owner and its group connect, nobody else."""
    path.chmod(0o660)
