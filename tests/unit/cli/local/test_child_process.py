"""Child processes: output, termination."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from llmproxy_cli.local.child_process import ChildProcess

Lines = list[tuple[str, str]]


async def start(code: str, shown: Lines, *, verbose: bool = False) -> ChildProcess:
    def show(name: str, line: str) -> None:
        shown.append((name, line))

    return await ChildProcess.start(
        "kid", (sys.executable, "-u", "-c", code), env={"X": "y"}, show=show, verbose=verbose
    )


async def test_what_a_child_prints_is_passed_on_but_for_events_that_all_is_well() -> None:
    shown: Lines = []
    code = """import os, sys
print("plain", os.environ["X"])
print('{"level": "info", "event": "fine"}')
print('{"level": "error", "event": "bad"}', file=sys.stderr)
print("{half", end="")"""

    child = await start(code, shown)

    assert await child.wait() == 0
    assert shown == [("kid", "plain y"), ("kid", '{"level": "error", "event": "bad"}'), ("kid", "{half")]
    assert len(child.tail) == 4


async def test_a_line_without_an_end_is_no_danger() -> None:
    shown: Lines = []

    child = await start("print('x' * 3_000_000); print('after')", shown)

    assert await child.wait() == 0
    assert shown[-1] == ("kid", "after")


async def test_a_child_that_does_not_end_is_killed() -> None:
    shown: Lines = []
    child = await start("import signal, time; signal.signal(15, signal.SIG_IGN); print('up'); time.sleep(60)", shown)
    async with asyncio.timeout(10):
        while not shown:  # noqa: ASYNC110 - what is waited for is another process
            await asyncio.sleep(0.01)

    assert await child.terminate(0.2) == -signal.SIGKILL


async def test_a_terminals_ctrl_c_does_not_reach_a_child() -> None:
    child = await start("import time; time.sleep(60)", [])

    assert os.getpgid(child.pid) != os.getpgid(0)
    assert await child.terminate(10) == -signal.SIGTERM


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "proxy.yaml"
    path.write_text("one")
    return path
