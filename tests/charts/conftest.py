"""Helm on the chart: what it renders, and what it refuses."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

Object = dict[str, Any]
CHART = Path(__file__).parents[2] / "charts/llmproxy-operator"
RELEASE, NAMESPACE = "llmproxy-operator", "llmproxy-system"


@dataclass(frozen=True)
class Helm:
    """The helm program; it speaks to no cluster here."""

    program: str

    def run(self, *args: str) -> "subprocess.CompletedProcess[str]":
        """Run helm."""
        return subprocess.run([self.program, *args], capture_output=True, text=True, timeout=60, check=False)

    def rendered(self, **values: Any) -> list[Object]:
        """Return the objects that the chart renders with these values."""
        done = self._template(values)
        assert done.returncode == 0, done.stderr
        return [found for found in yaml.safe_load_all(done.stdout) if found]

    def refused(self, **values: Any) -> str:
        """Return why the chart refuses these values."""
        done = self._template(values)
        assert done.returncode != 0, "the values were taken"
        return done.stderr

    def _template(self, values: Object) -> "subprocess.CompletedProcess[str]":
        flags = [word for name, value in values.items() for word in ("--set-json", f"{name}={json.dumps(value)}")]
        return self.run("template", RELEASE, str(CHART), "--namespace", NAMESPACE, *flags)


@pytest.fixture(scope="session")
def helm() -> Helm:
    program = os.environ.get("LLMPROXY_E2E_HELM") or shutil.which("helm")
    if not program:
        pytest.skip("there is no helm; `make test-chart` builds one")
    return Helm(program)


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    """Return the objects of one kind."""
    return [found for found in objects if found["kind"] == kind]
