"""One cell of the table: a load against a running proxy, and what that cost."""

import json
import resource
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import machine
from bench.peers.base import Running
from bench.places import Cores
from bench.shapes import Shape

WARM_S = 0.7
FAILED_SHARE = 0.01
"""More errors than this, and the numbers say nothing."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What was measured. Times in ms, CPU in us; None where a thing does not apply."""

    rps: float
    p50_ms: float
    p99_ms: float
    cpu_us: float | None
    """The proxy's, for each request."""
    core_share: float | None
    """How much of its core the proxy used; below 0.9 under full load it was the rig that was full."""
    first_byte_p50_ms: float
    first_byte_p99_ms: float
    lag_p50_ms: float | None
    lag_p99_ms: float | None
    chunk_cpu_us: float | None
    chunks_per_s: float | None
    helper_cpu_us: float | None
    """What the proxy hands over to: CPU for each request while it was answered."""
    unrecorded: int | None
    """Calls whose record found no room, where records are made: the helper was slower."""
    outside_cores: float
    """Cores that something else on this machine used meanwhile."""
    requests: int
    errors: int
    failed: str
    """Empty, or why the numbers say nothing."""

    def as_json(self) -> dict[str, Any]:
        """Return it for the result file."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Rig:
    """The programs that stay the same whatever is measured."""

    load: Path
    folder: Path
    cores: Cores
    upstream_pid: int

    def measure(self, running: Running, shape: Shape) -> Cell:
        """Warm up, then measure *shape*."""
        request = self.folder / "request"
        request.write_bytes(shape.request(running.path, running.headers))
        self._run(running.port, request, shape, WARM_S)
        before = _Meter.read(running, self.upstream_pid)
        found = self._run(running.port, request, shape, shape.seconds)
        return _cell(found, before, _Meter.read(running, self.upstream_pid), shape)

    def _run(self, port: int, request: Path, shape: Shape, seconds: float) -> dict[str, Any]:
        command = (str(self.load), str(port), str(request), str(shape.connections), f"{seconds:g}")
        done = subprocess.run(
            ("taskset", "-c", str(self.cores.load), *command), capture_output=True, text=True, check=False, timeout=120
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@dataclass(frozen=True, slots=True)
class _Meter:
    at_s: float
    proxy_s: float
    helpers_s: float
    rig_s: float
    all_s: float
    unrecorded: int | None

    @classmethod
    def read(cls, running: Running, upstream_pid: int) -> "_Meter":
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        rig_s = machine.cpu_s([upstream_pid]) + ended.ru_utime + ended.ru_stime
        proxy_s, helpers_s = machine.cpu_s(running.pids), machine.cpu_s(running.helpers)
        unrecorded = None if running.unrecorded is None else running.unrecorded()
        return cls(time.monotonic(), proxy_s, helpers_s, rig_s, machine.busy_s(), unrecorded)


def _cell(found: dict[str, Any], before: _Meter, after: _Meter, shape: Shape) -> Cell:
    requests = found["requests"] or 1
    chunks = found["lag_us"]["count"]
    elapsed_s = after.at_s - before.at_s
    proxy_s, helpers_s = after.proxy_s - before.proxy_s, after.helpers_s - before.helpers_s
    outside_s = (after.all_s - before.all_s) - proxy_s - helpers_s - (after.rig_s - before.rig_s)
    failed = found["errors"] > FAILED_SHARE * requests or not found["requests"]
    return Cell(
        rps=found["in_time"] / found["seconds"],
        p50_ms=found["latency_us"]["p50"] / 1000,
        p99_ms=found["latency_us"]["p99"] / 1000,
        cpu_us=proxy_s / requests * 1e6 if proxy_s else None,
        core_share=proxy_s / elapsed_s if proxy_s else None,
        first_byte_p50_ms=found["first_byte_us"]["p50"] / 1000,
        first_byte_p99_ms=found["first_byte_us"]["p99"] / 1000,
        lag_p50_ms=found["lag_us"]["p50"] / 1000 if chunks else None,
        lag_p99_ms=found["lag_us"]["p99"] / 1000 if chunks else None,
        chunk_cpu_us=proxy_s / chunks * 1e6 if chunks and proxy_s else None,
        chunks_per_s=chunks / found["seconds"] if chunks else None,
        helper_cpu_us=helpers_s / requests * 1e6 if helpers_s else None,
        unrecorded=None if after.unrecorded is None else after.unrecorded - (before.unrecorded or 0),
        outside_cores=max(0.0, outside_s / elapsed_s),
        requests=found["requests"],
        errors=found["errors"],
        failed=found["first_error"] if failed else "",
    )
