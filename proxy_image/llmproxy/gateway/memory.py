"""Memory limit of the process, and the part of it that requests, responses and records may take."""

import contextlib
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
BASE_BYTES = 128 << 20
"""Memory of the process without requests: 55 MB, and the heap's fragments."""
COPIES = 3
"""Copies of a body: as it came, as it goes to the upstream, and in the buffers of the sockets or in the record."""
MIN_BUDGET = 34 << 20
"""One body of the largest size, whatever the limit."""
MAX_BUDGET = 4 << 30
_UNLIMITED = 1 << 50
"""cgroup v1 has no word for it but a number near 2^63."""


def byte_budget() -> int:
    """Return the bytes that requests, responses and records may take together."""
    return max(MIN_BUDGET, min(MAX_BUDGET, (memory_limit() - BASE_BYTES) // COPIES))


def memory_limit(cgroup: Path = CGROUP) -> int:
    """Return the memory limit of the container in bytes; without one the machine's memory."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _limit_files(cgroup):
        with contextlib.suppress(OSError, ValueError):  # v2 says "max" for no limit
            limits.append(int(path.read_text()))
    return min(limit for limit in limits if 0 < limit < _UNLIMITED)


def _limit_files(cgroup: Path) -> list[Path]:
    """Return the files with limits: of a container's own root, and of the group of a process outside one."""
    files = [cgroup / "memory.max", cgroup / "memory/memory.limit_in_bytes"]
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            group = path.strip("/")
            if not controllers:
                parents = [cgroup / group, *(cgroup / group).parents]
                files += [parent / "memory.max" for parent in parents if parent.is_relative_to(cgroup)]
            elif "memory" in controllers.split(","):
                files.append(cgroup / "memory" / group / "memory.limit_in_bytes")
    return files
