"""The health script for Argo CD, in the form that Argo CD takes upstream, run by a real Lua on its test data."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa import LuaRuntime

from unit.gitops.states import states

ARGOCD = Path(__file__).parents[3] / "gitops/argocd"
FOLDER = ARGOCD / "llmproxy.dev/LLMProxy"
SCRIPT = (FOLDER / "health.lua").read_text()
CASES = yaml.safe_load((FOLDER / "health_test.yaml").read_text())["tests"]


def health(obj: dict[str, Any]) -> dict[str, str]:
    """Run the script as Argo CD does, with nothing of Lua's libraries but what it allows."""
    lua = LuaRuntime(unpack_returned_tuples=True)
    for name in ("os", "io", "require", "package", "debug", "load", "loadfile", "dofile", "python"):
        lua.globals()[name] = None
    lua.globals().obj = lua.table_from(obj, recursive=True)
    return dict(lua.execute(SCRIPT))


@pytest.mark.parametrize("case", CASES, ids=lambda case: Path(case["inputPath"]).stem)
def test_each_state_has_its_health_and_words(case: dict[str, Any]) -> None:
    obj = yaml.safe_load((FOLDER / case["inputPath"]).read_text())

    assert health(obj) == case["healthStatus"]


@pytest.mark.parametrize(("name", "state"), states().items())
def test_the_test_data_is_what_the_operator_writes(name: str, state: tuple[dict[str, Any], str]) -> None:
    obj, wanted = state

    assert yaml.safe_load((FOLDER / f"testdata/{name}.yaml").read_text()) == obj
    assert health(obj)["status"] == wanted


def test_no_test_data_is_left_out() -> None:
    files = {f"testdata/{path.name}" for path in (FOLDER / "testdata").iterdir()}

    assert files == {case["inputPath"] for case in CASES} == {f"testdata/{name}.yaml" for name in states()}
    assert {case["healthStatus"]["status"] for case in CASES} == {"Healthy", "Progressing", "Degraded", "Suspended"}


def test_the_patch_for_an_argo_cd_of_today_has_the_same_script() -> None:
    patch = yaml.safe_load((ARGOCD / "argocd-cm.yaml").read_text())

    assert patch["metadata"]["name"] == "argocd-cm"
    assert patch["data"] == {"resource.customizations.health.llmproxy.dev_LLMProxy": SCRIPT}
