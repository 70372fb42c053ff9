"""The commands in pages for people, and which test runs each: tests/unit fails for one that none does.

A command stands in a ```console block and begins with `$ `; a backslash at its end takes the next line in. Lines below
are what it prints, where `...` stands for anything. `tests/e2e/test_docs.py` runs whole pages on a real cluster.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from procs import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("[ce]*/*/README.md")])
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)

ON_A_CLUSTER = "tests/e2e/test_docs.py::test_a_page_on_a_cluster"
INSTALLED = "tests/e2e/test_install.py::test_install_upgrade_and_uninstall_as_the_page_says"
RUN = {
    "README.md": INSTALLED,
    "docs/README.md": ON_A_CLUSTER,
    "docs/cli.md": ON_A_CLUSTER,
    "docs/first-proxy.md": ON_A_CLUSTER,
    "docs/gitops.md": ON_A_CLUSTER,
    "docs/install.md": INSTALLED,
    "docs/limits.md": ON_A_CLUSTER,
    "docs/rolls.md": ON_A_CLUSTER,
    "docs/security.md": ON_A_CLUSTER,
    "docs/spans.md": ON_A_CLUSTER,
    "docs/troubleshooting.md": ON_A_CLUSTER,
}
"""Pages whose commands are run as they stand, in order."""

_DEMO = "tests/integration/local/test_demo.py::test_the_demo_keeps_its_promises_and_leaves_nothing_behind"
_EXAMPLES = "tests/agl/sdk/test_examples.py"
_TARGETS = "tests/unit/test_docs.py::test_every_make_target_that_a_page_names_is_there"
ELSEWHERE = {
    # README.md, docs/install.md
    "make demo": _DEMO,
    "make test": "tests/tools/test-all",
    "make images": "tests/tools/test-e2e",
    # docs/performance.md: measurements; that they judge rightly is in tests/unit/bench.
    "make bench": _TARGETS,
    "make bench-quick": _TARGETS,
    'make bench BENCH_ARGS="--rounds 3 --plot"': _TARGETS,
    "PYTHONPATH=tests:tests/support .venv/bin/python -m bench.report --paste": (
        "tests/unit/bench/test_verdicts.py::test_tables_have_a_row_for_each_and_go_between_the_marks"
    ),
    # docs/gitops.md: needs an Argo CD
    "kubectl patch configmap argocd-cm -n argocd --patch-file gitops/argocd/argocd-cm.yaml": "tests/e2e/argocd/rig.py",
    # docs/gitops.md: would install a second operator where one is
    "kubectl apply --server-side -k gitops/kustomize": "tests/e2e/test_install.py::test_kustomize_installs_it_too",
    # examples/agent-lightning/README.md
    "make venv venv-agl": "tests/tools/test-all",
    ".venv/bin/python -m llmproxy.echo --port 8000 &": "tests/agl/sdk/conftest.py::echo",
    ".venv-agl/bin/agl store --port 4747 &": "tests/agl/sdk/conftest.py::store_url",
    ".venv-agl/bin/python examples/agent-lightning/train.py": f"{_EXAMPLES}::test_a_limit_is_raised_while_it_trains",
    ".venv-agl/bin/python examples/agent-lightning/verify_limits.py": f"{_EXAMPLES}::test_verify_limits",
}
"""Commands that no page's own test runs: what does, or holds the same."""


@dataclass(frozen=True)
class Command:
    """One command of a page, and what the page says that it prints."""

    text: str
    prints: str

    @property
    def bare(self) -> str:
        """The command without a comment behind it."""
        return re.sub(r"\s{2,}# .*$", "", self.text)


def name(page: Path) -> str:
    """Return a page's path from the root."""
    return str(page.relative_to(ROOT))


def commands(page: Path) -> list[Command]:
    """Return the commands of a page in order."""
    found: list[Command] = []
    for language, block in FENCE.findall(page.read_text()):
        if language != "console":
            continue
        goes_on = False
        for line in block.splitlines():
            if goes_on:
                found[-1] = Command(f"{found[-1].text}\n{line}", "")
                goes_on = line.endswith("\\")
            elif line.startswith("$ "):
                found.append(Command(line.removeprefix("$ "), ""))
                goes_on = line.endswith("\\")
            else:
                assert found, f"{name(page)}: a ```console block begins without a command: {line}"
                found[-1] = Command(found[-1].text, f"{found[-1].prints}{line}\n")
    return found
