"""Snapshot of the counters for a crash of the container: a file that outlives the process, written once a second.

The folder must be one that a restarted container finds again (an emptyDir) and a new pod does not. On the same kernel
the monotonic clock goes on, so ages are exact; after a reboot the wall clock says how old the file is, and one that
seems to be from the future is taken as written just now. What was admitted after the last write is unknown: a limit
per second counts as full when the process did not end in order; of the longer ones, at most what it admitted in
`WRITE_S` is missing.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from llmproxy.gateway.limits.limiter import Limiter
from llmproxy.gateway.limits.local.history import History
from llmproxy.gateway.limits.local.transfer import export, take_over

WRITE_S = 1.0
MAX_BYTES = 8 << 20
VERSION = 2
log = logging.getLogger(__name__)


class _SnapshotFile(msgspec.Struct, array_like=True, frozen=True):
    version: int
    boot: str
    """Empty where it cannot be known."""
    monotonic_s: float
    wall_s: float
    ended: bool
    """The process ended in order: nothing came after this."""
    history: History


class Snapshot:
    """The file of one pod's counters."""

    def __init__(
        self, limiter: Limiter, path: Path, *, boot: str | None = None, wall: Callable[[], float] = time.time
    ) -> None:
        """*boot* names the running kernel; by default it is asked."""
        self._limiter = limiter
        self._path = path
        self._boot = _boot_id() if boot is None else boot
        self._wall = wall
        self._last: bytes = b""
        self._task: asyncio.Task[None] | None = None

    def restore(self) -> bool:
        """Go on with what the file says; False when there is none that helps. Before `Peers.take_over`."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return False
        except OSError as exc:
            log.warning("limits_snapshot_unusable", extra={"reason": str(exc)})
            return False
        try:
            file = msgspec.msgpack.decode(data[:MAX_BYTES], type=_SnapshotFile)
        except msgspec.MsgspecError as exc:
            log.warning("limits_snapshot_unusable", extra={"reason": str(exc)})
            return False
        age_s = self._age_s(file)
        if file.version != VERSION or age_s > 2 * self._limiter.counters.tickers[-1].window_s:
            return False
        history = msgspec.structs.replace(file.history, now_s=file.history.now_s + age_s)
        counters = self._limiter.counters
        take_over(counters, history)
        if not file.ended:
            for window in counters.windows():
                if window.kind.window_s <= WRITE_S:
                    window.charge(window.at, max(0, window.limit - window.used))
        log.info("limits_restored", extra={"age_s": round(age_s, 3), "ended": file.ended})
        return True

    def write(self, *, ended: bool = False) -> None:
        """Write the file, whole or not at all; an error is logged."""
        counters = self._limiter.counters
        history = export(counters)
        counted = msgspec.msgpack.encode(history.windows)
        if counted == self._last and not ended:
            return
        snapshot = _SnapshotFile(VERSION, self._boot, counters.clock(), self._wall(), ended, history)
        other = self._path.with_suffix(".new")
        try:
            other.write_bytes(msgspec.msgpack.encode(snapshot))
            other.replace(self._path)
        except OSError as exc:
            log.warning("limits_snapshot_failed", extra={"reason": str(exc)})
            return
        self._last = counted

    def start(self) -> None:
        """Write every `WRITE_S` what has changed."""
        self._task = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Write once more, as the end."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self.write(ended=True)

    def _age_s(self, file: _SnapshotFile) -> float:
        if self._boot and file.boot == self._boot:
            return max(0.0, self._limiter.counters.clock() - file.monotonic_s)
        return max(0.0, self._wall() - file.wall_s)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(WRITE_S)
            self.write()


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
