"""Processes for tests: start one, wait until it says that it is ready, read what it printed, end it by its id.

with running("llmproxy.echo", "--port", "0", ready="ready on") as echo:
    port = echo.port
"""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
FAKES = {"PYTHONPATH": f"{ROOT}/tests:{ROOT}/tests/support"}
"""For `python -m fakes.NAME`."""
AGL_PYTHON = ROOT / ".venv-agl/bin/python"
"""The environment with litellm and agentlightning, which no test imports but some start."""
READY_S = 180.0


class ProcessError(AssertionError):
    """A process did not do what a test needs; the message has the end of its output."""


class Process:
    """One process and everything it printed. Use `started` or `running`."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None, cwd: Path | None) -> None:
        self.command = list(command)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        self.popen = subprocess.Popen(
            self.command,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            cwd=cwd or ROOT,
        )
        self.ready_line = ""

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def output(self) -> str:
        """Everything it printed so far, both streams."""
        if self._output.closed:
            return self._last
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode(errors="replace")

    @property
    def port(self) -> int:
        """The port in its ready line."""
        found = re.search(r":(\d+)", self.ready_line)
        assert found is not None, f"no port in {self.ready_line!r}"
        return int(found.group(1))

    @property
    def rss_bytes(self) -> int:
        """Memory that it holds now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def wait_for(self, text: str, timeout_s: float = READY_S, *, times: int = 1) -> str:
        """Wait until *text* was printed *times* times and return the last such line; ProcessError if it never is."""
        deadline = time.monotonic() + timeout_s
        while True:
            ended = self.popen.poll() is not None
            lines = [line for line in self.output.splitlines() if text in line]
            if len(lines) >= times:
                return lines[times - 1]
            if ended:
                raise ProcessError(f"{self._name} ended with {self.popen.returncode} before {text!r}:\n{self._tail}")
            if time.monotonic() > deadline:
                raise ProcessError(f"{self._name} did not print {text!r} in {timeout_s:g} s:\n{self._tail}")
            time.sleep(0.02)

    def wait(self, timeout_s: float = 30.0) -> int:
        """Wait for its end and return its exit code."""
        try:
            return self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ProcessError(f"{self._name} did not end in {timeout_s:g} s:\n{self._tail}") from None

    def signal(self, number: int) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(number)

    def end(self, timeout_s: float = 15.0) -> int:
        """Ask it to end, kill it if it does not, and return its exit code."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        if not self._output.closed:
            self._last = self.output
            self._output.close()
        return self.popen.returncode

    @property
    def _name(self) -> str:
        return " ".join(self.command[:4])

    @property
    def _tail(self) -> str:
        return self.output[-4000:]


def may_mount() -> bool:
    """Whether this user may mount a file system of their own."""
    line = ("unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt")
    try:
        return subprocess.run(line, capture_output=True, timeout=30, check=False).returncode == 0
    except OSError:
        return False


def started(*command: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Process:
    """Start *command*; a name with dots but without a slash is a module of this environment's Python."""
    first = command[0]
    line = command if "/" in first or "." not in first else (sys.executable, "-m", *command)
    return Process(line, env, cwd)


@contextmanager
def running(
    *command: str,
    ready: str | None = None,
    port: int | None = None,
    socket_path: Path | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float = READY_S,
) -> Iterator[Process]:
    """Run *command* for a block: it begins when the ready text is printed, the port or the socket takes connections."""
    process = started(*command, env=env, cwd=cwd)
    try:
        if ready is not None:
            process.ready_line = process.wait_for(ready, timeout_s)
        if port is not None:
            _wait_connected(process, ("127.0.0.1", port), timeout_s)
        if socket_path is not None:
            _wait_connected(process, str(socket_path), timeout_s)
        yield process
    finally:
        process.end()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_connected(process: Process, address: str | tuple[str, int], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    while True:
        with socket.socket(family) as probe:
            try:
                probe.connect(address)
            except OSError:
                if process.popen.poll() is not None:
                    raise ProcessError(f"{process.command} ended:\n{process.output[-4000:]}") from None
                if time.monotonic() > deadline:
                    raise ProcessError(
                        f"{process.command} does not listen on {address}:\n{process.output[-4000:]}"
                    ) from None
                time.sleep(0.02)
            else:
                return
