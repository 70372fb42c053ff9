"""Pages for people: every link within the repository leads somewhere, and every command is run by a test."""

import re
import subprocess
from pathlib import Path

import pytest

import pages
from pages import ELSEWHERE, FENCE, PAGES, RUN
from procs import ROOT

LINK = re.compile(r"\]\(([^)\s]+)\)")
PROGRAMS = r"(?:kubectl|helm|make|llmproxy|python3?|pip|curl|git|\.venv\S*)"
EVERY = {page: pages.commands(page) for page in PAGES}
KNOWN = {command.bare for found in EVERY.values() for command in found}


def each_page(*but: str) -> pytest.MarkDecorator:
    chosen = [page for page in PAGES if pages.name(page) not in but]
    return pytest.mark.parametrize("page", chosen, ids=[pages.name(page) for page in chosen])


@each_page()
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    targets = [link.partition("#")[0] for link in LINK.findall(page.read_text()) if "://" not in link]

    assert [target for target in targets if target and not (page.parent / target).exists()] == []


@each_page()
def test_a_test_runs_every_command(page: Path) -> None:
    if pages.name(page) in RUN:
        return
    assert [command.bare for command in EVERY[page] if command.bare not in ELSEWHERE] == []


def test_no_entry_is_stale() -> None:
    assert set(ELSEWHERE) - KNOWN == set()
    assert [name for name in RUN if not EVERY.get(ROOT / name)] == []


@pytest.mark.parametrize("test", sorted({*RUN.values(), *ELSEWHERE.values()}))
def test_what_runs_a_command_is_there(test: str) -> None:
    file, _, function = test.partition("::")

    assert f"def {function}(" in (ROOT / file).read_text() if function else (ROOT / file).exists()


@each_page()
def test_a_command_stands_where_tests_find_it(page: Path) -> None:
    """In a console block: not in one that is indented or of another language; in a sentence only beside that."""
    text = page.read_text()
    others = "\n".join(block for language, block in FENCE.findall(text) if language in {"", "bash", "sh", "shell"})
    rest = FENCE.sub("", text)
    hidden = [
        *re.findall(rf"^(?:\$ )?{PROGRAMS} .*$", others, re.MULTILINE),
        *(line for line in re.findall(rf"^ {{4,}}{PROGRAMS} .*$", rest, re.MULTILINE) if "──" not in line),
        *(word for word in re.findall(r"`((?:kubectl|helm) [\w-]+ [^`]+)`", rest) if word not in KNOWN),
    ]

    assert hidden == []


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md", "docs/releasing.md"])
def test_every_path_that_a_page_for_developers_names_is_there(page: str) -> None:
    folders = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
    named = re.findall(rf"`((?:{folders})/[\w./-]+)`", (ROOT / page).read_text())

    assert len(named) > 1
    assert [path for path in named if not (ROOT / path).exists() and not path.startswith("build/")] == []


def test_every_make_target_that_a_page_names_is_there() -> None:
    lists = [line for page in PAGES for line in re.findall(r"[`$] ?make ((?:[a-z][a-z0-9-]* ?)+)", page.read_text())]
    named = {target for line in lists for target in line.split()}
    made = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    known = set(re.findall(r"^\s*(?:\x1b\[1m)?([a-z0-9-]+)", made.stdout, re.MULTILINE))

    assert {"demo", "test", "images"} <= named
    assert named - known == set()
