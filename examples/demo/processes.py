"""The processes of the demo: started, waited for, and ended by their ids whatever happens. What they print is kept."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TAIL_LINES = 20


class DemoError(Exception):
    """Something was not as promised."""


class Process:
    """One process and the file with what it printed."""

    def __init__(self, name: str, popen: "subprocess.Popen[bytes]", log: Path) -> None:
        self.name = name
        self.log = log
        self._popen = popen

    def printed(self, text: str) -> int:
        """Return how many lines with *text* it has printed."""
        return sum(text in line for line in self.log.read_text(errors="replace").splitlines())

    def wait_for(self, what: str, holds: Callable[[], bool], timeout_s: float) -> None:
        """Wait until *holds*; raise DemoError if it ends before, or it takes too long."""
        deadline_s = time.monotonic() + timeout_s
        while not holds():
            if self._popen.poll() is not None:
                raise DemoError(f"{self.name} ended with code {self._popen.returncode} before {what}\n{self._tail()}")
            if time.monotonic() > deadline_s:
                raise DemoError(f"{self.name}: {what} took more than {timeout_s:g} s\n{self._tail()}")
            time.sleep(0.05)

    def end(self) -> int:
        """Ask it to end, wait, and return its exit code."""
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)
            try:
                self._popen.wait(20)
            except subprocess.TimeoutExpired:
                self._popen.kill()
        return self._popen.wait()

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])


@contextmanager
def running(name: str, command: list[str], folder: Path) -> Iterator[Process]:
    """Run *command* for a block."""
    log = folder / f"{name}.log"
    # A group of its own: a terminal's Ctrl-C goes to the demo, which ends them in order.
    with log.open("wb") as output:
        popen = subprocess.Popen(  # noqa: S603 - our own commands
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
            start_new_session=True,
        )
    process = Process(name, popen, log)
    try:
        yield process
    finally:
        process.end()
