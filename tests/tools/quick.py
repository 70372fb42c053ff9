#!/usr/bin/env python3
"""`make quick`: linters and unit tests of the files that Git reports as touched, within 30 seconds.

Touched are files with uncommitted changes; where there are none, the files of the last commit. Linters see these files
alone, mypy with its cache. Tests are the test files touched, then those in tests/unit and tests/crds that import a
touched module, then those that import another module of its package. After the time is up no further test starts.
"""

import argparse
import ast
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("operator", "proxy_image", "sdk")
SUITES = ("tests/unit", "tests/crds")
ALWAYS = "tests/unit/test_house.py"
BY_SUFFIX = {
    ".md": ("tests/unit/test_docs.py",),
    ".yaml": ("tests/unit/api", "tests/unit/gitops"),
    ".tpl": ("tests/unit/gitops",),
    ".toml": (),
    ".mk": ("tests/unit/test_docs.py",),
}
"""Tests of files that no test imports."""


def _git(*arguments: str) -> list[str]:
    run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in run.stdout.split("\0") if name]


def touched() -> list[str]:
    """Return the paths of touched files that exist."""
    names = _git("diff", "-z", "--name-only", "HEAD") + _git("ls-files", "-z", "--others", "--exclude-standard")
    names = names or _git("diff", "-z", "--name-only", "HEAD~1", "HEAD")
    return sorted({name for name in names if (ROOT / name).exists()})


def module_of(path: str) -> str:
    """Return the dotted name of the module at *path*, empty for a file that is no source module."""
    parts = Path(path).with_suffix("").parts
    if not path.endswith(".py") or parts[0] not in SOURCES or len(parts) < 2:
        return ""
    return ".".join(parts[1:-1] if parts[-1] == "__init__" else parts[1:])


def imports_of(source: str) -> set[str]:
    """Return the dotted names that *source* imports: modules, and names from modules."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def tests_for(paths: Iterable[str], imports: dict[str, set[str]]) -> list[str]:
    """Return test files and folders for *paths*, nearest first; *imports* has the imports of each test file."""
    paths = list(paths)
    modules = {module for path in paths if (module := module_of(path))}
    packages = {module.rpartition(".")[0] for module in modules if module.count(".") > 1}
    own = [path for path in paths if path in imports]
    near = [test for test, names in imports.items() if names & modules]
    far = [test for test, names in imports.items() if any(name.rpartition(".")[0] in packages for name in names)]
    other = [test for path in paths if not path.endswith(".py") for test in BY_SUFFIX.get(Path(path).suffix, ())]
    return list(dict.fromkeys([*own, ALWAYS, *near, *other, *far]))


def _imports_of_tests() -> dict[str, set[str]]:
    files = sorted(path for suite in SUITES for path in (ROOT / suite).rglob("test_*.py"))
    return {str(path.relative_to(ROOT)): imports_of(path.read_text()) for path in files}


class Deadline:
    """A pytest plugin that starts no test after *end*, a time of `time.monotonic`."""

    def __init__(self, end: float) -> None:
        self.end = end
        self.tests = self.failed = 0
        self.reached = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.tests += report.when == "call"
        self.failed += report.failed

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self) -> None:
        self.reached = time.monotonic() > self.end

    @pytest.hookimpl
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        if self.reached:
            item.session.shouldstop = "the time is up"


def _lint(paths: Sequence[str]) -> list[tuple[str, subprocess.Popen[str]]]:
    python = [path for path in paths if path.endswith(".py")]
    commands = {
        "ruff format": ["ruff", "format", "--check", *python],
        "ruff check": ["ruff", "check", "--quiet", *python],
        "mypy": ["mypy", *python],
        "layers": ["lint-imports"],
    }
    started = []
    for title, (program, *arguments) in commands.items() if python else ():
        line = [str(Path(sys.executable).with_name(program)), *arguments]
        started.append(
            (title, subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        )
    return started


def _finish(linters: Iterable[tuple[str, subprocess.Popen[str]]]) -> int:
    failed = 0
    for title, process in linters:
        output, _ = process.communicate()
        print(f"  {title}: {'passed' if process.returncode == 0 else 'FAILED'}")
        if process.returncode != 0:
            failed += 1
            print(output)
    return failed


def main() -> int:
    """Lint and test what is touched; return 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20, help="no test starts after this many seconds")
    seconds = parser.parse_args().seconds
    begin = time.monotonic()
    paths = touched()
    tests = tests_for(paths, _imports_of_tests())
    print(f"  {len(paths)} files touched; tests: {' '.join(tests)}")
    linters = _lint(paths)
    deadline = Deadline(begin + seconds)
    marks = "not cluster and not e2e and not long"
    code = pytest.main(["-q", "--no-header", "-m", marks, "-p", "no:cacheprovider", *tests], plugins=[deadline])
    failed = _finish(linters)
    took = time.monotonic() - begin
    rest = "; the time was up before the last of them, `make test-unit` runs all" if deadline.reached else ""
    print(f"  {deadline.tests} tests in {took:.0f} s{rest}")
    passed = {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}
    stopped = deadline.reached and code == pytest.ExitCode.INTERRUPTED and deadline.failed == 0
    return int(failed > 0 or not (code in passed or stopped))


if __name__ == "__main__":
    sys.exit(main())
