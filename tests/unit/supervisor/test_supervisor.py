"""The supervisor of sidecars, as a process with real children."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmproxy.supervisor import memory_limit
from waiting import until

ROOT = Path(__file__).parents[3]
DRIVER = """
import sys
from llmproxy import supervisor
supervisor.STARTUP_S, supervisor.TICK_S, supervisor.FIRST_DELAY_S = 0.3, 0.02, 0.05
supervisor.memory_limit = lambda: int(sys.argv[1]) or None
sys.exit(supervisor.main(sys.argv[2:]))
"""
PART = """
import os, signal, sys, time
with open(sys.argv[1], "a") as file:
    print(os.getpid(), file=file)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
time.sleep(60)
"""


@contextmanager
def supervised(code: str, *arguments: str, limit: int = 0) -> Iterator["subprocess.Popen[str]"]:
    line = [sys.executable, "-c", DRIVER, str(limit), "-c", code, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "proxy_image")}
    with subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(10)


def pids(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def runs_to(file: Path, count: int) -> None:
    until(lambda: len(pids(file)) == count)


def restarts(process: "subprocess.Popen[str]") -> list[dict[str, object]]:
    assert process.stderr is not None
    lines = [json.loads(line) for line in process.stderr if line.startswith("{")]
    return [line for line in lines if line["event"] == "sidecar_restarted"]


def test_a_part_that_ends_is_started_again_and_the_process_stays(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    with supervised(PART, str(file)) as process:
        for count, number in enumerate((signal.SIGKILL, signal.SIGTERM), 1):
            runs_to(file, count)
            time.sleep(0.4)  # it has started
            os.kill(pids(file)[-1], number)
        until(lambda: len(pids(file)) == 3)
        assert process.poll() is None

        process.terminate()
        assert process.wait(10) == 7  # the part's own code
        told = restarts(process)

    assert [(line["exit_code"], line["cause"], line["restarts"]) for line in told] == [(137, "exit", 1), (7, "exit", 2)]
    assert len(pids(file)) == 3


def test_a_part_that_cannot_start_ends_the_container_with_its_code(tmp_path: Path) -> None:
    with supervised("import sys; print('bad config', file=sys.stderr); sys.exit(2)") as process:
        assert process.wait(20) == 2
        assert process.stderr is not None
        assert process.stderr.read() == "bad config\n"  # the last words are the part's


def test_a_part_near_the_memory_limit_is_restarted_before_the_kernel_ends_all(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    grow = """
import sys, time
open(sys.argv[1], "a").write("1 ")
time.sleep(0.4)
heap = b"x" * 150_000_000
time.sleep(60)
"""
    with supervised(grow, str(file), limit=100_000_000) as process:
        until(lambda: len(pids(file)) >= 2)
        assert process.poll() is None
        process.terminate()
        process.wait(10)
        told = restarts(process)

    assert told[0]["cause"] == "memory"


def test_a_signal_while_it_waits_ends_it_at_once(tmp_path: Path) -> None:
    code = "import sys, time; time.sleep(0.35); sys.exit(3)"
    with supervised(code) as process:
        time.sleep(2.5)  # by now the delay is longer than a run
        began = time.monotonic()
        process.terminate()
        assert process.wait(10) in {3, 128 + signal.SIGTERM}
        assert time.monotonic() - began < 2


@pytest.mark.parametrize(("text", "limit"), [("268435456\n", 268435456), ("max\n", None)])
def test_the_limit_is_the_cgroups(tmp_path: Path, text: str, limit: int | None) -> None:
    (tmp_path / "memory.max").write_text(text)

    assert memory_limit(tmp_path) == limit
    assert memory_limit(tmp_path / "absent") is None
