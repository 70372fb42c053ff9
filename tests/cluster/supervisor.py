"""The first process inside a node: sets up its namespaces, starts its parts and keeps them up.

It is process 1 of a process namespace: when it ends, the kernel ends everything in the node, and
with the last process go the node's mounts, network and addresses. It takes one argument, the plan
(a JSON file), and reports in `status.json` beside it. It ends only by a signal or a broken plan.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CABLE_TIMEOUT_S = 30.0
RESTART_PAUSE_S = 1.0
TICK_S = 0.1
# How many restarts before the node first became ready mean that it never will.
MAX_EARLY_RESTARTS = 5


class Part:
    """One program of the node and its log."""

    def __init__(self, plan: dict[str, Any], logs: Path) -> None:
        self.name: str = plan["name"]
        self.ready: list[str] | None = plan["ready"]
        self.restarts = -1
        self.pid = 0
        self._argv: list[str] = plan["argv"]
        self._env: dict[str, str] = plan["env"]
        self._log = logs / f"{self.name}.log"
        self._ended_s = 0.0

    def start(self) -> None:
        """Start it, or start it again; it writes into its own log."""
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                self._argv,
                env=os.environ | self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pid, self.restarts = process.pid, self.restarts + 1
        process.returncode = 0  # its end is collected below, for all children alike

    def ended(self) -> None:
        """Remember that it is not running."""
        self.pid, self._ended_s = 0, time.monotonic()

    def due(self) -> bool:
        """Whether it ran, ended, and rested long enough to be started again."""
        rested = time.monotonic() - self._ended_s > RESTART_PAUSE_S
        return self.pid == 0 and self.restarts >= 0 and rested


def mount(*words: str) -> None:
    """Call mount(8): the same words that a person would type."""
    subprocess.run(["mount", *words], check=True)


def hide_host(plan: dict[str, Any]) -> None:
    """Give the node its own version of the folders and kernel settings that it would write to."""
    mount("--make-rshared", "/")
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    for target, source in plan["binds"].items():
        mount("--bind", source, target)


def join_network(network: dict[str, str]) -> None:
    """Wait for the cable from the host, then set the address and the way out."""
    deadline_s = time.monotonic() + CABLE_TIMEOUT_S
    link = ["ip", "link", "set", network["peer"], "up"]
    while subprocess.run(link, check=False, capture_output=True).returncode:
        if time.monotonic() > deadline_s:
            sys.exit("no cable was laid to this namespace: the command that started it is gone")
        time.sleep(TICK_S)
    for words in (
        ["link", "set", "lo", "up"],
        ["address", "add", f"{network['address']}/30", "dev", network["peer"]],
        ["route", "add", "default", "via", network["gateway"]],
    ):
        subprocess.run(["ip", *words], check=True)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def collect(parts: list[Part]) -> None:
    """Take the exit codes of all children that ended, also of those left by others."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        for part in parts:
            if part.pid == pid:
                part.ended()


def report(file: Path, parts: list[Part], waiting_for: str) -> None:
    """Write the state of the node for `up` and `status` to read."""
    state = {
        "waiting_for": waiting_for,
        "parts": {p.name: {"up": p.pid != 0, "restarts": max(0, p.restarts)} for p in parts},
    }
    text = json.dumps(state)
    if file.exists() and file.read_text() == text:
        return
    fresh = file.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(file)


def main() -> None:
    """Run the plan for ever."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    file = Path(sys.argv[1])
    plan = json.loads(file.read_text())
    status = file.with_name("status.json")
    hide_host(plan)
    join_network(plan["network"])
    parts = [Part(part, file.with_name("log")) for part in plan["parts"]]
    waiting = list(parts)
    while True:
        collect(parts)
        for part in parts:
            if part.due():
                part.start()
        waiting = advance(waiting)
        report(status, parts, waiting[0].name if waiting else "")
        if waiting and waiting[0].restarts >= MAX_EARLY_RESTARTS:
            sys.exit(f"{waiting[0].name} ended {MAX_EARLY_RESTARTS} times")
        time.sleep(TICK_S)


def advance(waiting: list[Part]) -> list[Part]:
    """Start the first part that has not become ready; return the parts still to wait for."""
    if not waiting:
        return waiting
    part = waiting[0]
    if part.restarts < 0:
        part.start()
        return waiting
    if part.ready is None:
        return waiting[1:]
    answered = subprocess.run(part.ready, check=False, capture_output=True).returncode == 0
    return waiting[1:] if answered else waiting


if __name__ == "__main__":
    main()
