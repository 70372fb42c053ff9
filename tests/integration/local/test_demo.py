"""The demo is a test of its own: it ends with 0 only if everything was as promised."""

import importlib
import io
import os
import re
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from procs import AGL_PYTHON, ROOT


@pytest.mark.timeout(180)
def test_the_demo_keeps_its_promises_and_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [str(ROOT / ".venv/bin/python"), "examples/demo/demo.py", "--agl", str(AGL_PYTHON.parent / "agl")]

    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "As promised" in done.stdout
    assert len(re.findall(r"^\d+ +ro-\S+ +429 ", done.stdout, re.MULTILINE)) == 15, done.stdout
    assert "\x1b" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_its_tables_are_whole_in_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples/demo"))
    demo = importlib.import_module("demo")
    console = Console(width=80, record=True, file=io.StringIO())

    console.print(demo.table_of([demo.Answer(19, "ro-0123456789", 429, "61", text="refused [1] " * 20)]))

    head, row = console.export_text().splitlines()
    assert head.split() == ["no.", "rollout", "status", "Retry-After", "served", "answer"]
    assert row.split()[:6] == ["19", "ro-012345…", "429", "61", "s", "no"]
    assert (len(row), row[-1]) == (80, "…")
