"""runc for a machine whose root lacks capabilities: asks for none that this process cannot give.

Docker's `--privileged` asks for every capability; where one is missing (CAP_SYS_RESOURCE in many virtual machines),
runc refuses the container. Limits and scores that take that capability go with it. Started in place of runc.
"""

import json
import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

# Debian's and containers' words for the bits of a capability mask, in the kernel's order.
NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
BUNDLE, PROCESS = ("--bundle", "-b"), ("--process", "-p")


def held(status: str) -> set[str]:
    """The capabilities of a process, from its /proc/PID/status."""
    line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    mask = int(line.split()[1], 16)
    return {f"CAP_{name}" for bit, name in enumerate(NAMES.split()) if mask >> bit & 1}


def lessen(process: dict[str, Any], mine: set[str]) -> None:
    """Take from the process of a container what it cannot be given."""
    wanted = process.get("capabilities") or {}
    process["capabilities"] = {name: [c for c in caps if c in mine] for name, caps in wanted.items()}
    if "CAP_SYS_RESOURCE" not in mine:
        process["oomScoreAdj"] = max(0, process.get("oomScoreAdj") or 0)
        process["rlimits"] = []


def file_of(words: list[str]) -> Path | None:
    """The file that describes the process which runc is about to start, if it is about to."""
    for flag, value in pairwise(words):
        if flag in BUNDLE:
            return Path(value, "config.json")
        if flag in PROCESS:
            return Path(value)
    return None


def main() -> None:
    """Rewrite the description, then become runc."""
    words = sys.argv[1:]
    file = file_of(words)
    if file and file.exists():
        described = json.loads(file.read_text())
        lessen(described.get("process", described), held(Path("/proc/self/status").read_text()))
        file.write_text(json.dumps(described))
    os.execvp("runc", ["runc", *words])  # noqa: S606 - the engine's own words


if __name__ == "__main__":
    main()
