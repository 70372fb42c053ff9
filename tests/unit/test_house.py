"""The house itself: rules about files that no linter knows."""

import importlib
import json
import operator as stdlib_operator
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def test_the_operator_folder_does_not_shadow_the_standard_library() -> None:
    assert not (ROOT / "operator/__init__.py").exists()
    assert not (ROOT / "proxy_image/__init__.py").exists()
    assert importlib.import_module("operator").itemgetter is stdlib_operator.itemgetter


def loaded_by(module: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has after importing *module*."""
    code = f"import sys, json, {module}; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        pytest.param(
            "llmproxy.contract",
            {"msgspec", "fastapi", "uvicorn", "aiohttp", "kopf"},
            id="contract needs pydantic alone",
        ),
        pytest.param(
            "llmproxy.gateway.requests.handler",
            {"litellm", "kopf", "kubernetes", "aiohttp", "fastapi"},
            id="the request path",
        ),
        pytest.param(
            "llmproxy_operator.reconcile", {"litellm", "fastapi", "uvicorn", "httptools"}, id="a reconcile pass"
        ),
    ],
)
def test_a_part_loads_only_what_it_needs(module: str, forbidden: set[str]) -> None:
    assert loaded_by(module) & forbidden == set()


def tracked_files() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in done.stdout.split("\0") if name]


def test_lock_files_carry_versions_and_hashes_and_no_address() -> None:
    for lock in (ROOT / "requirements").glob("*.txt"):
        text = lock.read_text()
        assert "://" not in text, lock.name
        assert text.count("==") <= text.count("--hash=sha256:"), lock.name


def test_every_module_opens_with_what_it_is_for() -> None:
    bare = [
        str(path.relative_to(ROOT))
        for path in tracked_files()
        if path.suffix == ".py" and path.exists() and not re.match(r'(#!.*\n)?r?"""\S', path.read_text())
    ]
    assert bare == []


def test_no_module_has_more_than_six_hundred_lines() -> None:
    sources = [p for p in tracked_files() if p.suffix == ".py" and p.exists() and "tests" not in p.parts]
    long = {str(p.relative_to(ROOT)): n for p in sources if (n := len(p.read_text().splitlines())) > 600}
    assert long == {}


def test_one_version_in_package_program_and_chart() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    program = importlib.import_module("llmproxy").__version__
    chart = yaml.safe_load((ROOT / "charts/llmproxy-operator/Chart.yaml").read_text())

    assert [program, chart["version"], chart["appVersion"]] == [project] * 3
