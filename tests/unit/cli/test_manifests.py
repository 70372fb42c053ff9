"""Reading of manifests, and errors of invalid ones."""

from pathlib import Path

import pytest

from bundles import PROXY, SECRETS, read
from llmproxy_cli import manifests
from llmproxy_cli.manifests import FileError


def test_proxy_and_secrets_of_its_namespace_are_read_and_the_rest_is_left_alone() -> None:
    bundle = read(PROXY + SECRETS)

    assert bundle.proxy.metadata.name == "demo"
    assert bundle.secrets == {("openai", "api-key"): "sk-plain", ("google", "key"): "AIza"}


def test_addresses_of_a_cluster_are_replaced_by_those_of_here() -> None:
    bundle = read(PROXY, connect_to={"echo:8000": "127.0.0.1:18000", "store:4747": "127.0.0.1:14747"})

    assert bundle.proxy.spec.models[0].deployments[0].api_base == "http://127.0.0.1:18000/v1"
    assert bundle.proxy.spec.spans is not None
    assert bundle.proxy.spec.spans.store == "http://127.0.0.1:14747"


def test_an_address_that_is_nowhere_is_an_error_that_lists_those_there_are() -> None:
    with pytest.raises(FileError, match=r"--connect-to echo:9=.*there is echo:8000, store:4747"):
        read(PROXY, connect_to={"echo:9": "127.0.0.1:1"})


SECOND = PROXY.replace("name: demo", "name: second")


def test_of_several_one_is_chosen_by_name() -> None:
    assert read(f"{PROXY}\n---\n{SECOND}", name="second").proxy.metadata.name == "second"
    with pytest.raises(FileError, match=r"there are 2 .*--name demo\|second"):
        read(f"{PROXY}\n---\n{SECOND}")
    with pytest.raises(FileError, match=r"'third'.*there is demo, second"):
        read(f"{PROXY}\n---\n{SECOND}", name="third")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("", "there is no object of kind LLMProxy", id="empty"),
        pytest.param("a: [", r"proxy.yaml:1: not YAML", id="no YAML"),
        pytest.param("- a", "must be a mapping, got list", id="a list"),
        pytest.param("kind: LLMProxy", "proxy.yaml: apiVersion: must be", id="no version"),
        pytest.param(PROXY.replace("rpm: 5", "rpmm: 5"), r"spec.rateLimits.rpmm: .*did you mean rpm", id="misspelt"),
        pytest.param(PROXY.replace("rpm: 5", "rpm: 0"), r"spec.rateLimits.rpm: ", id="limit of 0"),
        pytest.param(
            PROXY + "---\nkind: Secret\nmetadata: {name: a}\ndata: {k: '%'}", "'a': data.k is not", id="base64"
        ),
        pytest.param(
            PROXY + "---\nkind: Secret\nmetadata: {name: a}\nstringData: {k: 1}", "stringData.k must be", id="number"
        ),
        pytest.param(
            PROXY + "---\nkind: Secret\nmetadata: {name: a}\ndata: x", "data must be a mapping", id="no mapping"
        ),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_place(text: str, complaint: str) -> None:
    with pytest.raises(FileError, match=complaint):
        read(text)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        manifests.load(tmp_path / "nope.yaml")
