"""A child process in its own process group, with its output forwarded.

A terminal's Ctrl-C goes to the whole group; gateway, shipper and translator must terminate one after the other.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence

TAIL_LINES = 30
KILL_AFTER_S = 5.0
_MAX_LINE = 1 << 20
_PR_SET_PDEATHSIG = 1
_QUIET = {"debug", "info"}

LineHandler = Callable[[str, str], None]
"""Receives the name of a child and a line of its output."""


class ChildProcess:
    """A running child process."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, show: LineHandler, *, verbose: bool) -> None:
        self.name = name
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._process = process
        self._show = show
        self._verbose = verbose
        self._forwarding = asyncio.ensure_future(self._forward_output())

    @classmethod
    async def start(
        cls,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        fds: Sequence[int] = (),
        show: LineHandler,
        verbose: bool = False,
    ) -> "ChildProcess":
        """Start *command* with our environment and the variables of *env*."""
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, **env},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_MAX_LINE,
            pass_fds=fds,
            start_new_session=True,
            preexec_fn=_terminate_with_parent if sys.platform == "linux" else None,
        )
        return cls(name, process, show, verbose=verbose)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Exit code; None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for its exit and return the exit code."""
        code = await self._process.wait()
        await self._forwarding
        return code

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def terminate(self, grace_s: float) -> int:
        """Send SIGTERM, SIGKILL after *grace_s*, and return the exit code."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                return await self.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return await self.wait()

    async def _forward_output(self) -> None:
        stream = self._process.stdout
        while stream is not None:
            try:
                line = await stream.readline()
            except ValueError:  # a line above _MAX_LINE: the reader drops it
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            self.tail.append(text)
            if self._verbose or not _is_routine(text):
                self._show(self.name, text)


def _is_routine(line: str) -> bool:
    """Return whether *line* is a structured log event of level debug or info."""
    if not line.startswith("{"):
        return False
    try:
        event = json.loads(line)
    except ValueError:
        return False
    return isinstance(event, dict) and str(event.get("level", "")).lower() in _QUIET


def _terminate_with_parent() -> None:
    """Have the kernel terminate this process when its parent is killed: no orphans remain."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
