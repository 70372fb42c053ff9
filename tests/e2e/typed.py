"""Types the commands of a page into a shell, in order, and compares what they print with what the page says."""

import os
import re
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from e2e.kube import Kube
from pages import ELSEWHERE, Command, commands
from procs import ROOT

NAMESPACE = "training"
"""What the pages call the namespace that they work in."""


def type_page(kube: Kube, page: str, folder: Path, *, timeout_s: float = 240) -> None:
    """Run every command of *page* but those that others run; raise AssertionError if one is not as the page says."""
    typed = [command for command in commands(ROOT / page) if command.bare not in ELSEWHERE]
    assert typed, f"{page} has no command"
    script = "exec 2>&1\n" + "".join(_step(kube, c) for c in typed) + "kill $(jobs -p) 2>/dev/null\n"
    shell = subprocess.Popen(
        ["bash", "-c", script],
        cwd=ROOT,
        env=_environment(kube, folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = shell.communicate(timeout=timeout_s)
    finally:  # with what it left in the background
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
    answers = re.findall(r"(.*?)\x1e(\d+)\n", said, re.DOTALL)
    for command, (printed, code) in zip(typed, answers, strict=False):
        _judge(page, command, re.sub(rf"\b{re.escape(kube.namespace)}\b", NAMESPACE, printed), int(code))
    assert len(answers) == len(typed), said


def _step(kube: Kube, command: Command) -> str:
    return re.sub(rf"\b{NAMESPACE}\b", kube.namespace, command.bare) + "\nprintf '\\x1e%s\\n' $?\n"


def _judge(page: str, command: Command, printed: str, code: int) -> None:
    said = f"{page}: $ {command.text}\nended with {code} and printed\n{printed}"
    if not command.prints:
        assert code == 0, said
        return
    # What is shown to be refused may end with another code.
    assert code == 0 or command.prints.strip() != "...", said
    assert as_shown(command.prints, printed), f"{said}\nwhere the page has\n{command.prints}"


def as_shown(shown: str, printed: str) -> bool:
    """Whether a command printed what a page shows: `...` is anything or nothing, and white space is all the same."""
    parts = [re.escape(" ".join(part.split())) for part in shown.split("...")]
    return re.fullmatch(r"\s?" + r".*".join(parts) + r"\s?", " ".join(printed.split())) is not None


def _environment(kube: Kube, folder: Path) -> dict[str, str]:
    """A person's: kubectl, Helm and llmproxy at hand, and a context whose namespace is the test's."""
    programs, config = folder / "bin", folder / "kubeconfig"
    programs.mkdir()
    helm = os.environ.get("LLMPROXY_E2E_HELM", "helm")
    for name, program in {"kubectl": kube.kubectl, "helm": helm, "llmproxy": str(ROOT / ".venv/bin/llmproxy")}.items():
        (programs / name).symlink_to(shutil.which(program) or program)
    shutil.copy(kube.kubeconfig, config)
    namespace = ["config", "set-context", "--current", f"--namespace={kube.namespace}"]
    subprocess.run([kube.kubectl, "--kubeconfig", str(config), *namespace], check=True, capture_output=True)
    path = f"{programs}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "KUBECONFIG": str(config), "XDG_STATE_HOME": str(folder), "COLUMNS": "160"}
