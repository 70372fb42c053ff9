"""Where in the spool's folder everything is, and whose it is: one process at a time."""

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from llmproxy.shipper.spool.segments import SEGMENT_BYTES

LOCK = "lock"


class InUseError(Exception):
    """Another process has the folder."""


@dataclass(frozen=True)
class Folders:
    """The parts of a spool."""

    root: Path

    @property
    def waiting(self) -> Path:
        """Calls that wait for their first delivery."""
        return self.root / "waiting"

    @property
    def parked(self) -> Path:
        """Calls that were refused and are tried again."""
        return self.root / "parked"

    @property
    def dead(self) -> Path:
        """Calls that were given up."""
        return self.root / "dead"

    @property
    def otlp(self) -> "Folders":
        """The same of the collector; the folders above are the store's."""
        return Folders(self.root / "otlp")

    @property
    def registered(self) -> Path:
        """What was last registered in the store."""
        return self.root / "registered"

    @property
    def journal(self) -> Path:
        """Calls that have begun."""
        return self.root / "begun.jsonl"


def segment_bytes(spool_bytes: int) -> int:
    """Return the size of a segment: small against the whole, since room is only given back by the segment."""
    return min(SEGMENT_BYTES, max(64 << 10, spool_bytes // 16))


def letters_bytes(spool_bytes: int) -> int:
    """Return how much of the spool dead letters may take before the oldest of them go."""
    return spool_bytes // 4


def lock(folder: Path) -> int:
    """Return a file descriptor that holds *folder* for this process; raise InUseError if another has it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(fd)
        raise InUseError(f"{folder} is in use by another process: end that shipper first") from exc
    return fd
