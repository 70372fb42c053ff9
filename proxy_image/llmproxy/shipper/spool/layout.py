"""Layout of the spool's folder, sizes of its parts, and its lock: one process at a time."""

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from llmproxy.shipper.spool.segments import SEGMENT_BYTES

LOCK = "lock"
RUN_LOCK = "shipper.lock"
"""Lock of the folder of sockets: a second shipper must not take the first one's socket."""


class SpoolInUseError(Exception):
    """Another process holds the folder's lock."""


@dataclass(frozen=True)
class SpoolLayout:
    """Folders and files of a spool."""

    root: Path

    @property
    def waiting(self) -> Path:
        """Segments of calls that wait for their first delivery."""
        return self.root / "waiting"

    @property
    def retry(self) -> Path:
        """Segments of the retry queue."""
        return self.root / "retry"

    @property
    def dead(self) -> Path:
        """Segments of the dead-letter queue."""
        return self.root / "dead"

    @property
    def otlp(self) -> "SpoolLayout":
        """Layout of the collector's folder; the folders above are the store's."""
        return SpoolLayout(self.root / "otlp")

    @property
    def registration_marker(self) -> Path:
        """File that identifies the last registration in the store."""
        return self.root / "registered"

    @property
    def journal(self) -> Path:
        """Journal of the calls in flight."""
        return self.root / "in_flight.jsonl"


def segment_bytes(spool_bytes: int) -> int:
    """Return the size of a segment: small against the whole, since room is only given back by the segment."""
    return min(SEGMENT_BYTES, max(64 << 10, spool_bytes // 16))


def retry_bytes(spool_bytes: int) -> int:
    """Return the share of the spool that the retry queue may take before its oldest calls become dead letters."""
    return spool_bytes // 2


def rollout_retry_bytes(spool_bytes: int) -> int:
    """Return the share of the spool that one rollout may take in the retry queue."""
    return spool_bytes // 8


def dead_letter_bytes(spool_bytes: int) -> int:
    """Return the share of the spool that dead letters may take before the oldest are evicted."""
    return spool_bytes // 4


def lock(folder: Path, name: str = LOCK) -> int:
    """Return a file descriptor that holds *folder* for this process; raise SpoolInUseError if another holds it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(fd)
        raise SpoolInUseError(f"{folder} is in use by another process: end that shipper first") from exc
    return fd
