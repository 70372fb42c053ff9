"""What is made from the models is what is committed: `make crds` writes it anew."""

import re
from pathlib import Path
from typing import Any

import pytest

from llmproxy_api import crd, reference

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("file", "made"),
    [
        pytest.param(crd.FILE, crd.crd_yaml(), id="crds"),
        pytest.param(crd.CHART_FILE, crd.chart_yaml(), id="the chart"),
        pytest.param(reference.FILE, reference.markdown(), id="the reference"),
        pytest.param(reference.PROVIDERS_FILE, reference.providers_markdown(), id="the providers"),
    ],
)
def test_a_file_that_is_made_from_the_models_is_current(file: Path, made: str) -> None:
    assert (ROOT / file).read_text() == made, "run make crds"


def test_the_reference_has_every_field() -> None:
    def names(schema: dict[str, Any]) -> set[str]:
        inner = schema.get("items", schema)
        found = set() if inner.get("x-kubernetes-preserve-unknown-fields") else set(inner.get("properties", {}))
        children = [inner["properties"][name] for name in found]
        return found.union(*(names(child) for child in children))

    schema = crd.crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    wanted = names(schema["spec"]) | names(schema["status"])
    told = set(re.findall(r"^\| `(\w+)`", reference.markdown(), re.MULTILINE))

    assert len(wanted) > 50
    assert told == wanted
