"""The house itself: rules about files that no linter knows."""

import ast
import copy
import graphlib
import importlib
import json
import operator as stdlib_operator
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import grimp
import pytest
import yaml

ROOT = Path(__file__).parents[2]
PACKAGES = ("llmproxy", "llmproxy_api", "llmproxy_operator", "llmproxy_cli", "llmproxy_agl")
SOURCES = ("operator", "proxy_image", "sdk")
LONGEST_CHAIN = 8
LONGEST_MODULE = 600


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


def sources() -> list[Path]:
    return [p for p in tracked_files() if p.suffix == ".py" and p.relative_to(ROOT).parts[0] in SOURCES and p.exists()]


SYNTAX = {path: ast.parse(path.read_text()) for path in sources()}


def where(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def test_no_module_has_more_than_six_hundred_lines() -> None:
    modules = [p for p in tracked_files() if p.suffix == ".py" and p.exists() and "tests" not in p.parts]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules}
    assert {path: lines for path, lines in lengths.items() if lines > LONGEST_MODULE} == {}


@pytest.mark.parametrize("package", ["llmproxy_api", "llmproxy_operator", "llmproxy_cli"])
def test_a_class_name_stands_for_one_thing_in_a_package(package: str) -> None:
    places: dict[str, list[str]] = {}
    for path, tree in SYNTAX.items():
        if package in path.relative_to(ROOT).parts:
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    places.setdefault(node.name.lstrip("_"), []).append(where(path, node))
    assert places
    assert {name: at for name, at in places.items() if len(at) > 1} == {}


@cache
def rooms() -> dict[str, dict[str, set[str]]]:
    """Return for each package its direct children and which of the others each imports; a sub-package is one child."""
    found = {}
    for root in PACKAGES:
        graph = grimp.build_graph(root, cache_dir=None)
        for package in sorted(m for m in graph.modules if graph.find_children(m)):
            children = graph.find_children(package)
            inner = copy.deepcopy(graph)
            for child in children:
                if graph.find_children(child):
                    inner.squash_module(child)
            found[package] = {
                child: (inner.find_modules_directly_imported_by(child) & children) - {child} for child in children
            }
    return found


def chain(imports: dict[str, set[str]]) -> list[str]:
    """Return the longest chain of *imports*; raises graphlib.CycleError where they go round."""
    longest: dict[str, list[str]] = {}
    for module in graphlib.TopologicalSorter(imports).static_order():
        longest[module] = [module, *max((longest[target] for target in imports[module]), key=len, default=[])]
    return max(longest.values(), key=len)


CIRCLES = {"llmproxy.gateway", "llmproxy.gateway.http", "llmproxy.gateway.limits", "llmproxy.protocols"}


@pytest.mark.parametrize("package", sorted(rooms().keys() - CIRCLES))
def test_imports_within_a_package_go_one_way_and_not_far(package: str) -> None:
    """A chain counts modules; a sub-package is one. `chain` refuses a circle."""
    longest = chain(rooms()[package])

    assert len(longest) <= LONGEST_CHAIN + (package == "llmproxy_api"), " > ".join(longest)


def test_one_version_in_package_program_and_chart() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    program = importlib.import_module("llmproxy").__version__
    chart = yaml.safe_load((ROOT / "charts/llmproxy-operator/Chart.yaml").read_text())

    assert [program, chart["version"], chart["appVersion"]] == [project] * 3
