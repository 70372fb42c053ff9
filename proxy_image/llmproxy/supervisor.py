"""First process of a sidecar: `python -m llmproxy.supervisor ARGUMENTS` runs `python ARGUMENTS` and restarts it.

The kubelet counts native sidecars for a pod's readiness: one that ends takes the pod out of its Service, for longer
with each restart. So this process stays, and the container ends only with the pod. A part that never ran for
`STARTUP_S` is not restarted: a configuration that it refuses shows as a crash loop of the new pod, and stops its roll.
Uses the standard library alone, to stay small.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from llmproxy import logs

log = logging.getLogger("llmproxy.supervisor")

STARTUP_S = 10.0
"""Runtime from which a part counts as started; until then its exit ends the container."""
FIRST_DELAY_S = 0.2
MAX_DELAY_S = 10.0
"""Delays of restarts: doubled each time, from the first again after a run of `STEADY_S`."""
STEADY_S = 60.0
TICK_S = 0.2
MEMORY_SHARE = 0.95
"""Share of the container's memory limit at which the part is killed: the kernel would kill this process with it, as the
kubelet sets memory.oom.group."""
CGROUP = Path("/sys/fs/cgroup")
SIGNAL_BASE = 128
"""Exit code of a process that a signal ended, in shells and Kubernetes: this plus the number."""


class Supervisor:
    """Runs one command until SIGTERM."""

    def __init__(self, command: Sequence[str], *, limit: int | None) -> None:
        """*limit* is the memory limit of the container in bytes, None if it has none."""
        self._command = list(command)
        self._limit = limit
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._restarts = 0

    def run(self) -> int:
        """Run and restart the command; return its exit code after SIGTERM, or if it did not start."""
        started, delay_s = False, FIRST_DELAY_S
        while True:
            start_s = time.monotonic()
            code, cause = self._run_once()
            ran_s = time.monotonic() - start_s
            started = started or ran_s >= STARTUP_S
            if self._stopping or not started:
                return code
            delay_s = FIRST_DELAY_S if ran_s >= STEADY_S else delay_s
            self._restarts += 1
            log.error(
                "sidecar_restarted",
                extra={
                    "command": self._command[1:3],
                    "exit_code": code,
                    "cause": cause,
                    "ran_s": round(ran_s, 1),
                    "restarts": self._restarts,
                },
            )
            self._wait(delay_s)
            if self._stopping:
                return code
            delay_s = min(MAX_DELAY_S, 2 * delay_s)

    def stop(self, number: int, _frame: object = None) -> None:
        """Pass a signal on to the command and end with it."""
        self._stopping = True
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _run_once(self) -> tuple[int, str]:
        """Run the command once; return its exit code and why it ended."""
        process = self._process = subprocess.Popen(self._command)  # noqa: S603 - the container's own arguments
        if self._stopping:  # the signal came before there was a process to pass it to
            process.send_signal(signal.SIGTERM)
        cause = "exit"
        while True:
            try:
                code = process.wait(TICK_S)
                break
            except subprocess.TimeoutExpired:
                if self._limit is not None and _resident(process.pid) >= MEMORY_SHARE * self._limit:
                    cause = "memory"
                    process.kill()
                _reap(process.pid)
        return (code if code >= 0 else SIGNAL_BASE - code), cause

    def _wait(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while not self._stopping and (remaining_s := end_s - time.monotonic()) > 0:
            time.sleep(min(TICK_S, remaining_s))


def memory_limit(cgroup: Path = CGROUP) -> int | None:
    """Return the memory limit of this container in bytes, None if there is none."""
    try:
        text = (cgroup / "memory.max").read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _reap(child: int) -> None:
    """Collect orphans, which the first process of a container inherits; *child* is waited for elsewhere."""
    if os.getpid() != 1:
        return
    with contextlib.suppress(ChildProcessError):
        while True:
            info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if info is None or info.si_pid == child:
                return
            os.waitpid(info.si_pid, os.WNOHANG)


def main(arguments: Sequence[str]) -> int:
    """Run the command line."""
    if not arguments:
        print("usage: python -m llmproxy.supervisor -m MODULE [ARGUMENTS]", file=sys.stderr)  # noqa: T201 - a person waits
        return 2
    logs.to_stderr()
    supervisor = Supervisor([sys.executable, *arguments], limit=memory_limit())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, supervisor.stop)
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
