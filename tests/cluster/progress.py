"""Tell what is going on: one line a step, alive while it runs, with its seconds when it ends."""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from .errors import ClusterError

QUIET_S = 2.0  # a step shorter than this leaves only its closing line
REMINDER_S = 10.0  # between lines where there is no terminal to redraw
TAIL_LINES = 40


def say(text: str) -> None:
    """Print one line at once, also into a pipe."""
    print(f"  {text}", flush=True)


class Step:
    """A titled piece of work. `note` says how far it is; leaving it prints the seconds."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._note = ""
        self._started_s = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._remind, daemon=True)
        self._terminal = sys.stdout.isatty()

    def note(self, text: str) -> None:
        """Replace what is shown beside the title."""
        self._note = text

    def _line(self) -> str:
        note = f": {self._note}" if self._note else ""
        return f"{self._title} ... {time.monotonic() - self._started_s:.0f} s{note}"

    def _remind(self) -> None:
        wait_s = QUIET_S
        while not self._over.wait(wait_s):
            if self._terminal:
                wait_s = 0.5
                print(f"\r\033[K  {self._line()[:100]}", end="", flush=True)
            else:
                wait_s = REMINDER_S
                say(self._line())

    def __enter__(self) -> "Step":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._terminal:
            print("\r\033[K", end="")
        verdict = "done in" if kind is None else "FAILED after"
        say(f"{self._title}: {verdict} {time.monotonic() - self._started_s:.1f} s")


def run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes | None = None,
    on_line: Callable[[str], None] | None = None,
) -> None:
    """Run a command to its end; its output is shown only if it fails.

    `on_line` sees each line of output as it comes. Raises ClusterError with the last lines.
    """
    words = [str(word) for word in argv]
    with tempfile.TemporaryFile() as given:
        given.write(stdin or b"")
        given.seek(0)
        process = subprocess.Popen(
            words, env=env, cwd=cwd, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        lines: list[str] = []
        with process:
            assert process.stdout is not None
            for raw in process.stdout:
                line = raw.decode(errors="replace").rstrip()
                lines = [*lines[1 - TAIL_LINES :], line]
                if on_line:
                    on_line(line)
    if process.returncode:
        tail = "\n    ".join(lines)
        raise ClusterError(f"`{' '.join(words)[:300]}` ended with {process.returncode}:\n    {tail}")


def output(argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, timeout_s: float = 30) -> str | None:
    """What a short command printed, or None if it failed, is missing or took too long."""
    try:
        done = subprocess.run(
            [str(word) for word in argv],
            env=env,
            capture_output=True,
            timeout=timeout_s,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


def wait_until(what: str, check: Callable[[], bool], *, timeout_s: float, every_s: float) -> None:
    """Ask `check` until it says yes. Raises ClusterError naming `what` when time is up."""
    deadline_s = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > deadline_s:
            raise ClusterError(f"{what}: not so after {timeout_s:.0f} s")
        time.sleep(every_s)
