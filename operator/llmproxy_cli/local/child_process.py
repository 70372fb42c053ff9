"""One child process: started in a group of its own, what it prints passed on, ended by its id.

A group of its own, because a terminal's Ctrl-C goes to the whole group: gateway, shipper and translator must end one
after the other.
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

Show = Callable[[str, str], None]
"""Takes the name of a child and a line that it printed."""


class Child:
    """A process that has been started."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, show: Show, *, verbose: bool) -> None:
        self.name = name
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._process = process
        self._show = show
        self._verbose = verbose
        self._pumping = asyncio.ensure_future(self._pump())

    @classmethod
    async def start(
        cls,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        fds: Sequence[int] = (),
        show: Show,
        verbose: bool = False,
    ) -> "Child":
        """Start *command* with the variables of *env* added to ours."""
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, **env},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_MAX_LINE,
            pass_fds=fds,
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        return cls(name, process, show, verbose=verbose)

    @property
    def pid(self) -> int:
        """Its id."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for its end and return its exit code."""
        code = await self._process.wait()
        await self._pumping
        return code

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def end(self, grace_s: float) -> int:
        """Ask it to end, kill it when it has not within *grace_s*, and return its exit code."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                return await self.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return await self.wait()

    async def _pump(self) -> None:
        stream = self._process.stdout
        while stream is not None:
            try:
                line = await stream.readline()
            except ValueError:  # a line above _MAX_LINE: the reader has dropped it
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            self.tail.append(text)
            if self._verbose or not _is_quiet(text):
                self._show(self.name, text)


def _is_quiet(line: str) -> bool:
    """Whether *line* is a structured event that says no more than that all is well."""
    if not line.startswith("{"):
        return False
    try:
        event = json.loads(line)
    except ValueError:
        return False
    return isinstance(event, dict) and str(event.get("level", "")).lower() in _QUIET


def _end_with_parent() -> None:
    """Have the kernel end this process when its parent is killed: nothing is left behind then either."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
