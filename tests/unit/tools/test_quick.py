"""`make quick` chooses the tests that a change can break, nearest first."""

import pytest
import yaml

from procs import ROOT
from tools import quick

IMPORTS = {
    "tests/unit/limits/test_window.py": {"llmproxy.gateway.limits.local.window", "pytest"},
    "tests/unit/limits/test_queue.py": {"llmproxy.gateway.limits.local", "llmproxy.gateway.limits.local.queue"},
    "tests/unit/cli/test_top.py": {"llmproxy_cli.top.view"},
}


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("operator/llmproxy_api/models.py", "llmproxy_api.models"),
        ("proxy_image/llmproxy/gateway/http/__init__.py", "llmproxy.gateway.http"),
        ("proxy_image/compile_llmproxy.py", "compile_llmproxy"),
        ("tests/unit/test_house.py", ""),
        ("docs/limits.md", ""),
    ],
)
def test_a_path_has_a_module(path: str, module: str) -> None:
    assert quick.module_of(path) == module


def test_tests_of_the_module_come_before_those_of_its_package() -> None:
    chosen = quick.tests_for(["proxy_image/llmproxy/gateway/limits/local/window.py"], IMPORTS)

    assert chosen == [quick.ALWAYS, "tests/unit/limits/test_window.py", "tests/unit/limits/test_queue.py"]


def test_a_test_that_is_touched_comes_first() -> None:
    chosen = quick.tests_for(["tests/unit/cli/test_top.py", "docs/limits.md"], IMPORTS)

    assert chosen == ["tests/unit/cli/test_top.py", quick.ALWAYS, "tests/unit/test_docs.py"]


def test_imports_are_read_in_each_form() -> None:
    names = quick.imports_of("import a.b\nfrom c import d\ndef f():\n    from e.f import g\n")

    assert names == {"a.b", "c", "c.d", "e.f", "e.f.g"}


def test_tests_named_for_a_suffix_exist() -> None:
    assert [test for tests in quick.BY_SUFFIX.values() for test in tests if not (ROOT / test).exists()] == []


def test_hooks_run_the_linters_of_make_check() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    check = (ROOT / "Makefile").read_text().partition("\ncheck:")[2].partition("\n\n")[0]
    linters = [hook["entry"].removeprefix(".venv/bin/").partition(" ")[0] for hook in hooks]

    assert {"ruff", "mypy", "lint-imports"} <= set(linters)
    assert [name for name in linters if f"$(BIN)/{name}" not in check and name != "pytest"] == []
    paths = [word for hook in hooks for word in hook["entry"].split() if "/" in word and not word.startswith(".venv/")]
    assert [path for path in paths if not (ROOT / path).exists()] == []
