"""Files of unix sockets: removal of a stale one, access for the gateway's group."""

import stat
from pathlib import Path


def remove_stale(path: Path) -> None:
    """Remove a socket at *path*; anything else there stays, and listening fails."""
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        path.unlink()


def allow_group(path: Path) -> None:
    """Let the owner and its group connect, nobody else."""
    path.chmod(0o660)
