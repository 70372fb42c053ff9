"""Find and end the processes of a node, without ever trusting a number written down earlier.

Each process of a node carries the node's folder in its environment, so the kernel is asked who
belongs to it. Signals go through a pidfd: a number that was reused meanwhile is never hit.
"""

import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from .errors import ClusterError

MARK = "LLMPROXY_TEST_NODE"


@dataclass(frozen=True, slots=True)
class Process:
    """A process seen in /proc."""

    pid: int
    command: str


def _carries(pid: int, mark: bytes) -> bool:
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it ended, or it is not ours to read
        return False


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return b" ".join(words).decode(errors="replace").strip()


def _mark(node: Path) -> bytes:
    return f"{MARK}={node}".encode()


def of_node(node: Path) -> list[Process]:
    """Every living process that was started for the node in this folder."""
    mark = _mark(node)
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [Process(pid, _command(pid)) for pid in sorted(pids) if _carries(pid, mark)]


def _kill(pid: int, mark: bytes) -> int | None:
    """Send SIGKILL if the process still carries the mark; return its pidfd to wait on."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if not _carries(pid, mark):
        os.close(pidfd)
        return None
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    return pidfd


def end_all(node: Path, *, timeout_s: float = 20) -> int:
    """Kill every process of the node and wait until they are gone. Returns how many there were.

    The first process of the node's process namespace is among them; with it the kernel ends
    everything inside, containers too, which carry no mark.
    """
    mark = _mark(node)
    deadline_s = time.monotonic() + timeout_s
    ended = 0
    while found := of_node(node):
        for process in found:
            pidfd = _kill(process.pid, mark)
            if pidfd is None:
                continue
            ended += 1
            left_s = max(0.1, deadline_s - time.monotonic())
            gone = select.select([pidfd], [], [], left_s)[0]
            os.close(pidfd)
            if not gone:
                raise ClusterError(f"process {process.pid} ({process.command}) will not end")
    return ended
