"""Registry of the runs of `llmproxy local`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmproxy_cli.local import registry


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "llmproxy/local"


def test_a_run_is_found_until_it_ends(state: Path) -> None:
    run = registry.LocalRun(os.getpid(), "n", "p", "http://127.0.0.1:4000", ("http://127.0.0.1:1",))

    registry.register(run)
    assert registry.running() == [run]
    assert (state.stat().st_mode & 0o777) == 0o700

    registry.unregister(run.pid)
    assert registry.running() == []
    assert list(state.iterdir()) == []


def test_what_a_killed_run_left_is_not_shown_and_removed_by_the_next(state: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    registry.register(registry.LocalRun(ended.pid, "n", "old", "http://127.0.0.1:1", ()))
    (state / "0.json").write_text("{half")

    assert registry.running() == []

    registry.register(registry.LocalRun(os.getpid(), "n", "new", "http://127.0.0.1:2", ()))
    assert [path.name for path in state.iterdir()] == [f"{os.getpid()}.json"]
