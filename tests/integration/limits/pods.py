"""Real processes with limits (`gateway.py`), what each of them wrote down, and the bounds it is held to."""

import json
import re
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from procs import ROOT, Process, free_port, started
from waiting import until
from windows import document, worst_window

PROGRAM = str(ROOT / "tests/integration/limits/gateway.py")
LIMITS = {"rps": 60, "rpm": 400, "max_parallel": 20}
ASKED = 180.0
"""Requests a second of each process: three times rps."""


@dataclass
class Pod:
    process: Process
    port: int
    record: Path
    rows: list[dict[str, float]] = field(default_factory=list)

    def wait_ready(self) -> None:
        self.process.ready_line = self.process.wait_for("ready on")

    @property
    def name(self) -> str:
        """What its record is called."""
        return self.record.name

    def end(self) -> int:
        """End it in order."""
        return self.process.end()

    def modes(self) -> list[tuple[float, str]]:
        """When it began to count how, by the machine's monotonic clock."""
        found = re.findall(r"^([\d.]+) mode (\w+)$", self.process.output, re.MULTILINE)
        return [(float(at), mode) for at, mode in found] or [(0.0, "")]

    def load_for(self, seconds: float) -> None:
        """Wait until it has decided on a request that came *seconds* from now."""
        end = time.monotonic() + seconds
        until(lambda: any(row.get("asked", 0.0) >= end for row in self.read()), f"{self.name} decides on nothing")

    def read(self) -> list[dict[str, float]]:
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def admitted(self) -> list[tuple[float, int]]:
        return [(row["begin"], 1) for row in self.read() if "begin" in row]

    def admitted_between(self) -> list[tuple[float, float]]:
        """From when to when each admission can have been: a process that stood still wrote it down later."""
        rows = self.read()
        stalls = [(row["stalled"], row["until"]) for row in rows if "stalled" in row]
        found = []
        for row in rows:
            if "begin" in row:
                asked, begin = row["asked"], row["begin"]
                stood = begin - asked > 0.005 and any(since < begin and asked < until for since, until in stalls)
                found.append((asked if stood else begin, begin))
        return found

    def waits(self) -> list[float]:
        """How long each answer took."""
        return [row.get("begin", row.get("rejected", 0.0)) - row["asked"] for row in self.read() if "asked" in row]

    def calls(self, until: float) -> list[tuple[float, float]]:
        """Begin and end of every call; one that has no end lasted until the process did."""
        ends = {row["began"]: row["end"] for row in self.read() if "end" in row}
        return [(at, ends.get(at, until)) for at, _ in self.admitted()]


class Pods:
    """The processes of one test."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.all: list[Pod] = []

    def start(self, *peers: Pod, limits: dict[str, int] | None = None, **options: object) -> Pod:
        """Start a process that knows *peers*; its load begins when it is ready."""
        port = int(str(options.pop("port", free_port())))
        number = len(self.all)
        record = self._folder / f"pod{number}"
        values = {
            "document": document(limits or LIMITS).to_json(),
            "record": record,
            "port": port,
            "peers": ",".join(f"127.0.0.1:{pod.port}" for pod in peers),
            "id": f"pod{number}",
            "load": ASKED,
            "lasts": 0.2,
            **options,
        }
        flags = [word for name, value in values.items() for word in (f"--{name}", str(value))]
        process = started(sys.executable, PROGRAM, *flags, env={"PYTHONPATH": f"{ROOT}/proxy_image"})
        self._stack.callback(process.end)
        pod = Pod(process, port, record)
        self.all.append(pod)
        return pod

    def admitted(self) -> list[tuple[float, int]]:
        return sorted(entry for pod in self.all for entry in pod.admitted())

    def check(self, label: str, *, rps: int, rpm: int, formula: str) -> None:
        """Hold every window to these bounds, and say so."""
        admitted = self.admitted()
        second, minute = worst_window(admitted, 1.0), worst_window(admitted, 60.0)
        print(f"{label}: worst second {second} <= {rps}, worst minute {minute} <= {rpm}   [{formula}]")
        assert second <= rps
        assert minute <= rpm

    def parallel(self, until: float) -> int:
        """The most calls at one time."""
        events = [event for pod in self.all for b, e in pod.calls(until) for event in ((b, 1), (e, -1))]
        worst = running = 0
        for _, change in sorted(events):
            running += change
            worst = max(worst, running)
        return worst
