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
from collections.abc import Iterator
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
LONGEST_FUNCTION = 50
MOST_OF_HTTP = 6


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


Function = ast.FunctionDef | ast.AsyncFunctionDef


def test_no_function_has_more_than_fifty_lines() -> None:
    long = {
        f"{where(path, node)} {node.name}": lines
        for path, tree in SYNTAX.items()
        for node in ast.walk(tree)
        if isinstance(node, Function) and (lines := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_FUNCTION
    }
    assert long == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_class_name_stands_for_one_thing_in_a_package(package: str) -> None:
    places: dict[str, list[str]] = {}
    for path, tree in SYNTAX.items():
        if package in path.relative_to(ROOT).parts:
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    places.setdefault(node.name.lstrip("_"), []).append(where(path, node))
    assert places
    assert {name: at for name, at in places.items() if len(at) > 1} == {}


PARTICIPLES = re.compile(
    r"^_?(made|found|told|wanted|asked|said|given|kept|seen|known|shown|meant|left|taken|gone|begun|heard|met|parted)(_|$)"
    r"|_(made|found|told|wanted|asked|said)$"
)
"""Names that say what happened to a thing, where a noun says what the thing is."""
OVERRIDES = {"connection_made"}
"""Methods of asyncio.Protocol."""


def identifiers(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Yield each name that *tree* defines: functions, classes, arguments, variables, attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node
            case ast.arg():
                yield node.arg, node
            case ast.Name(ctx=ast.Store()):
                yield node.id, node
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr, node


def snake(identifier: str) -> str:
    """Return *identifier* in lower case with underscores: `ParsedRequest` is `parsed_request`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", identifier).lower()


def test_names_are_nouns_not_participles() -> None:
    """Kubernetes' and HTTP's own "not found" is a noun."""
    bad = [
        f"{where(path, node)} {name}"
        for path, tree in SYNTAX.items()
        for name, node in identifiers(tree)
        if PARTICIPLES.search(snake(name).replace("not_found", "absence")) and name not in OVERRIDES
    ]
    assert bad == []


def test_a_docstring_begins_with_what_the_thing_is_or_does() -> None:
    clauses = [
        where(path, node)
        for path, tree in SYNTAX.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | Function)
        and re.match(r"(What|Whether|Where)\b", ast.get_docstring(node) or "")
    ]
    assert clauses == []


def test_every_package_has_a_face() -> None:
    """Its docstring says what it is for, names the module to begin with, and what it may import."""
    bad = []
    for package in sorted({path.parent for path in SYNTAX if path.parent.parent != ROOT}):
        face = package / "__init__.py"
        docstring = " ".join((ast.get_docstring(SYNTAX[face]) or "").split()) if face in SYNTAX else ""
        begin = re.search(r"[Bb]egin with `(\w+)", docstring)
        names = {path.stem for path in package.glob("*.py")} | {
            path.parent.name for path in package.glob("*/__init__.py")
        }
        names |= set(re.findall(r"\w+", face.read_text().rpartition("__all__")[2])) if face in SYNTAX else set()
        if not (begin and begin[1] in names and "ay import" in docstring):
            bad.append(str(package.relative_to(ROOT)))
    assert bad == []


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


@pytest.mark.parametrize("package", sorted(rooms()))
def test_imports_within_a_package_go_one_way_and_not_far(package: str) -> None:
    """A chain counts modules; a sub-package is one. `chain` refuses a circle."""
    longest = chain(rooms()[package])

    assert len(longest) <= LONGEST_CHAIN, " > ".join(longest)


def test_the_http_room_loads_six_modules_of_ours_at_most() -> None:
    names = [
        f"llmproxy.gateway.http.{path.stem}" for path in (ROOT / "proxy_image/llmproxy/gateway/http").glob("[a-z]*.py")
    ]
    code = "import sys, importlib; importlib.import_module(sys.argv[1]); print(*sys.modules)"
    for name in names:
        run = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, check=True)
        ours = [module for module in run.stdout.split() if module.split(".")[0] in PACKAGES]
        assert name in ours
        assert len(ours) <= MOST_OF_HTTP, ours


def test_one_version_in_package_program_and_chart() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    program = importlib.import_module("llmproxy").__version__
    chart = yaml.safe_load((ROOT / "charts/llmproxy-operator/Chart.yaml").read_text())

    assert [program, chart["version"], chart["appVersion"]] == [project] * 3


def test_the_operators_image_has_every_module_of_the_proxy_that_it_loads() -> None:
    code = "import sys, llmproxy_operator.manager; print(*(m for m in sys.modules if m.split('.')[0] == 'llmproxy'))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    stage = (ROOT / "Dockerfile").read_text().partition(" AS operator-sources\n")[2].partition("\nFROM ")[0]
    files = {name.removeprefix("llmproxy").replace(".", "/").strip("/") or "__init__" for name in run.stdout.split()}

    assert "contract" in files
    assert [name for name in files if f"proxy_image/llmproxy/{name}.py" not in stage] == []
