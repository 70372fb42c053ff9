"""The base for kustomize says what the chart says, and holds together."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tools import kustomize

ROOT = Path(__file__).parents[3]
BASE = ROOT / "gitops/kustomize"


def program(name: str, variable: str) -> str:
    found = os.environ.get(variable) or shutil.which(name)
    if not found:
        pytest.skip(f"there is no {name}")
    return found


def ran(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_the_operator_is_what_the_chart_renders() -> None:
    text = kustomize.rendered(program("helm", "LLMPROXY_E2E_HELM"))

    assert (BASE / "operator.yaml").read_text() == text, "run make kustomize"


def test_every_file_that_is_named_is_there_and_none_is_forgotten() -> None:
    named = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]

    assert all((BASE / name).exists() for name in named)
    assert {path.name for path in BASE.iterdir()} == {name for name in named if "/" not in name} | {
        "kustomization.yaml"
    }


def test_kustomize_builds_it() -> None:
    kubectl = program("kubectl", "LLMPROXY_E2E_KUBECTL")

    kinds = [item["kind"] for item in yaml.safe_load_all(ran(kubectl, "kustomize", str(BASE)))]

    assert {"CustomResourceDefinition", "Namespace", "Deployment", "ClusterRole", "ServiceAccount"} <= set(kinds)
