"""What is compiled of the gateway, and that it is never run when it is stale, nor missed where it cannot be made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import compile_llmproxy
from llmproxy.gateway.http import server


def test_everything_in_the_list_is_there_once() -> None:
    assert len(set(compile_llmproxy.MODULES)) == len(compile_llmproxy.MODULES)
    assert [m for m in compile_llmproxy.MODULES if not (compile_llmproxy.SOURCES / m).is_file()] == []


def test_another_source_is_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = tmp_path / "llmproxy"
    sources.mkdir()
    (sources / "a.py").write_text("A = 1\n")
    monkeypatch.setattr(compile_llmproxy, "SOURCES", sources)
    monkeypatch.setattr(compile_llmproxy, "COMPILED", tmp_path / "compiled")
    monkeypatch.setattr(compile_llmproxy, "__file__", str(tmp_path / "compile.py"))
    (tmp_path / "compile.py").write_text("")
    before = compile_llmproxy.key()
    (tmp_path / "compiled" / before).mkdir(parents=True)
    assert compile_llmproxy.folder() == tmp_path / "compiled" / before
    (sources / "a.py").write_text("A = 2\n")
    assert compile_llmproxy.key() != before
    assert compile_llmproxy.folder() is None


@pytest.mark.parametrize("copies", [True, False], ids=["copies the sources", "fails"])
def test_without_a_compiler_it_says_so_and(tmp_path: Path, *, copies: bool) -> None:
    out = tmp_path / "out"
    command = [sys.executable, compile_llmproxy.__file__, "--out", str(out), *(["--or-copy"] if copies else [])]
    done = subprocess.run(command, env={**os.environ, "CC": "no-such-cc"}, capture_output=True, text=True, check=False)
    outcome = "the gateway stays pure Python" if copies else "nothing is compiled"
    assert done.stderr == f"{outcome}: there is no C compiler (no-such-cc)\n"
    assert done.returncode == (0 if copies else 1)
    assert (out / "llmproxy/gateway/http/server.py").exists() is copies


def test_what_runs_is_what_the_path_says() -> None:
    compiled = str(compile_llmproxy.COMPILED) in os.environ.get("PYTHONPATH", "")
    assert (Path(server.__file__).suffix == ".so") is compiled


def test_an_image_is_built_without_compiled_modules_only_if_the_build_says_so() -> None:
    dockerfile = (Path(compile_llmproxy.__file__).parents[1] / "Dockerfile").read_text()

    assert 'ARG PURE_PYTHON=""' in dockerfile
    assert "compile_llmproxy.py --out /app ${PURE_PYTHON:+--or-copy}" in dockerfile
    assert dockerfile.count("--or-copy") == 1
