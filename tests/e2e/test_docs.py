"""The pages that a newcomer reads, typed in as they stand: every command works, and prints what the page says."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.kube import Kube
from e2e.proxies import wait_rolled
from e2e.typed import type_page
from pages import ON_A_CLUSTER, RUN
from procs import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
MAKES_IT = "docs/first-proxy.md"
LONG = frozenset({"docs/cli.md", "docs/limits.md", "docs/rolls.md"})
"""Left to `make test-long`: they roll pods often, or look for long, and other tests run the same in other words."""
_PAGES = sorted((page for page, test in RUN.items() if test == ON_A_CLUSTER), key=lambda page: page != MAKES_IT)


@pytest.fixture(scope="module")
def swept(team: Kube) -> Iterator[Kube]:
    """The team's namespace, without `quickstart` in the end: one with pods that may drain for long takes long to go."""
    yield team
    team.run("delete", "llmproxy", "quickstart", "--ignore-not-found")


@pytest.fixture
def namespace(swept: Kube, request: pytest.FixtureRequest) -> Iterator[Kube]:
    """A namespace as the page finds it: with `quickstart` of the first page, if it is another."""
    if request.getfixturevalue("page") != MAKES_IT:
        there = swept.run("get", "llmproxy", "quickstart", "--ignore-not-found")
        swept.run("replace" if there else "create", "-f", str(ROOT / "examples/quickstart/proxy.yaml"))
        wait_rolled(swept, "quickstart")
    yield swept
    swept.run("delete", "secret", "provider", "quickstart-keys", "--ignore-not-found")


@pytest.mark.parametrize("page", [pytest.param(p, marks=[pytest.mark.long] if p in LONG else []) for p in _PAGES])
def test_a_page_on_a_cluster(namespace: Kube, page: str, tmp_path: Path) -> None:
    type_page(namespace, page, tmp_path)
