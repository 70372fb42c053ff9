"""`llmproxy top` on real pods of local mode, with a real store."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import threading
from pathlib import Path

import httpx2
import pytest

from integration.local.conftest import PYTHON, Local, local, manifest
from llmproxy_cli.top.metrics import METRICS
from procs import Process

pytestmark = pytest.mark.timeout(180)


def top(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run `llmproxy top` beside what runs in *folder*."""
    command = (PYTHON, "-m", "llmproxy_cli", "top", *flags)
    env = {"XDG_STATE_HOME": str(folder / "state"), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)


def while_called(here: Local, *flags: str) -> "subprocess.CompletedProcess[str]":
    """Run `llmproxy top` while calls are made all the time."""
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            here.chat("x")
            stop.wait(0.05)

    caller = threading.Thread(target=call)
    caller.start()
    try:
        return top(here.file.parent, *flags)
    finally:
        stop.set()
        caller.join()


def test_a_run_is_shown_with_its_limits_latency_and_429s(echo: Process, store: str, tmp_path: Path) -> None:
    spec = f"  rateLimits: {{rpm: 5, maxParallel: 8}}\n  spans: {{store: {store}}}"
    env = {"XDG_STATE_HOME": str(tmp_path / "state")}
    with local(tmp_path, manifest(echo.port, spec), env=env) as here:
        answered = while_called(here, "-o", "json", "--interval", "1")
        here.edit("rpm: 5", "rpm: 50000")
        here.wait_ready(2)
        rolled = while_called(here, "--once", "--interval", "1")
        admin = json.loads(next((tmp_path / "state/llmproxy/local").glob("*.json")).read_text())["admin"][-1]
        told = set(re.findall(r"^(\w+)", httpx2.get(f"{admin}/metrics").text, re.MULTILINE))
    after = top(tmp_path, "--local", "--once")

    said = json.loads(answered.stdout)
    [row] = said["proxies"]
    assert (answered.returncode, said["place"], said["problems"]) == (0, "llmproxy local", [])
    assert (row["namespace"], row["name"], row["pods"], row["mode"]) == ("default", "here", 1, "local")
    limits = {(use["model"], use["kind"]): (use["used"], use["limit"]) for use in row["limits"]}
    assert limits["", "rpm"] == (5, 5)
    assert limits["", "maxParallel"][1] == 8
    assert row["limited_per_s"] > 0
    assert row["backlog"]["waiting_bytes"] >= 0

    [head, *lines] = rolled.stdout.splitlines()
    assert head.startswith("NAMESPACE")
    assert len(lines) == 1
    assert re.search(r"default +here +[12] +local +[\d.]+ ", lines[0]), lines
    assert re.search(r"\d+ms +[\d.]+m?s ", lines[0]), lines
    assert re.search(r"rpm \d+/50000", lines[0]), lines
    assert "\x1b" not in rolled.stdout

    assert METRICS - told == set()
    assert (after.returncode, after.stdout) == (1, "")
    assert "no `llmproxy local` is running" in after.stderr


def read(terminal: int, until: str) -> str:
    """Return what a terminal shows until *until* is there, or its program ends."""
    shown = ""
    while until not in shown and select.select([terminal], [], [], 60)[0]:
        try:
            shown += os.read(terminal, 65536).decode(errors="replace")
        except OSError:  # Linux: nobody has the other side open any more
            break
    return shown


def test_the_live_view_goes_on_and_ends_on_ctrl_c_without_a_trace(echo: Process, tmp_path: Path) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path / "state")}
    ours, theirs = pty.openpty()
    with local(tmp_path, manifest(echo.port, "  rateLimits: {rpm: 7}"), env=env) as here:
        here.chat("x")
        shown = subprocess.Popen(
            [PYTHON, "-m", "llmproxy_cli", "top", "--interval", "0.5"],
            env={**env, "PATH": "/usr/bin:/bin", "TERM": "xterm", "COLUMNS": "160", "LINES": "24"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            # A shell that runs tests in the background has them ignore SIGINT, and what they start too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - one thread, in the child
        )
        os.close(theirs)
        try:
            seen = read(ours, "over 1 s")
            shown.send_signal(signal.SIGINT)
            seen += read(ours, "never")
            code = shown.wait(30)
        finally:
            shown.kill()
            os.close(ours)

    assert code == 0, seen
    assert "rpm 1/7" in seen
    assert "Traceback" not in seen
    assert "\x1b[?1049l" in seen  # the screen of before is back
