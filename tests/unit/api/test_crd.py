"""What is made from the models is what is committed: `make crds` writes it anew."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmproxy_api import crd, docs

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("file", "made"),
    [
        pytest.param(crd.FILE, crd.crd_yaml(), id="crds"),
        pytest.param(crd.CHART_FILE, crd.chart_yaml(), id="the chart"),
        pytest.param(docs.FILE, docs.markdown(), id="the reference"),
        pytest.param(docs.PROVIDERS_FILE, docs.providers_markdown(), id="the providers"),
    ],
)
def test_a_file_that_is_made_from_the_models_is_current(file: Path, made: str) -> None:
    assert (ROOT / file).read_text() == made, "run make crds"


SCHEMA: dict[str, Any] = crd.crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]


def fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Yield every field with its path and whether it must be there, but those of maps that take any."""
    inner = schema.get("items", schema)
    if inner.get("x-kubernetes-preserve-unknown-fields"):
        return
    for name, child in inner.get("properties", {}).items():
        yield f"{path}.{name}", child, name in inner.get("required", ())
        yield from fields(child, f"{path}.{name}")


def test_every_field_that_may_be_left_out_says_what_is_so_then() -> None:
    left_out = [(path, child["description"]) for path, child, needed in fields(SCHEMA["spec"], "spec") if not needed]

    assert len(left_out) > 50
    assert [path for path, told in left_out if "Default" not in told and "With Redis" not in told] == []


def test_every_text_and_list_of_the_status_has_a_bound() -> None:
    def unbounded(path: str, schema: dict[str, Any]) -> list[str]:
        bound = {"array": "maxItems", "string": "maxLength", "integer": "maximum"}.get(schema["type"])
        known = bound is None or bound in schema or "enum" in schema or "format" in schema
        inner = unbounded(f"{path}[]", schema["items"]) if "items" in schema else []
        return [*([] if known else [path]), *inner]

    found = [unbounded(path, child) for path, child, _ in fields(SCHEMA["status"], "status")]
    assert len(found) > 10
    assert [path for paths in found for path in paths] == []


def test_the_reference_has_every_field() -> None:
    def names(schema: dict[str, Any]) -> set[str]:
        inner = schema.get("items", schema)
        found = set() if inner.get("x-kubernetes-preserve-unknown-fields") else set(inner.get("properties", {}))
        children = [inner["properties"][name] for name in found]
        return found.union(*(names(child) for child in children))

    schema = crd.crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    wanted = names(schema["spec"]) | names(schema["status"])
    told = set(re.findall(r"^\| `(\w+)`", docs.markdown(), re.MULTILINE))

    assert len(wanted) > 50
    assert told == wanted
