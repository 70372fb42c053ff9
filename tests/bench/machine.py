"""What processes cost, read from /proc."""

import os
import platform
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def tree(pids: Iterable[int]) -> set[int]:
    """Return *pids* and all that they started and that still lives."""
    found: set[int] = set()
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        if pid in found:
            continue
        found.add(pid)
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            waiting.extend(int(word) for word in _read(children).split())
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """Return the seconds of CPU that *pids* and their children have used, user and system."""
    total = 0
    for pid in tree(pids):
        fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
        if fields:
            total += int(fields[11]) + int(fields[12])
    return total * TICK_S


def memory_mb(pids: Iterable[int]) -> float:
    """Return the memory of *pids* and their children; what they share is counted once (PSS)."""
    total_kb = 0
    for pid in tree(pids):
        for line in _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines():
            if line.startswith("Pss:"):
                total_kb += int(line.split()[1])
    return total_kb / 1024


def busy_s() -> float:
    """Return the seconds that all cores together have worked since boot."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, _read(Path("/proc/stat")).split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + softirq) * TICK_S


def describe() -> dict[str, str | int]:
    """Return what a reader of the numbers must know of the machine."""
    models = [
        line.partition(":")[2].strip() for line in _read(Path("/proc/cpuinfo")).splitlines() if "model name" in line
    ]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version() + ("" if is_optimised() else ", built without optimisations"),
    }


def is_optimised() -> bool:
    """Whether this Python was built to be fast, as the one in images; distributions do it without the option."""
    return sys.base_prefix == "/usr" or "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended
        return ""
