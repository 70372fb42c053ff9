"""Names of models: exact ones, aliases, prefixes."""

import pytest

from llmproxy.gateway.upstreams.model_index import ModelIndex

INDEX = ModelIndex(
    [("*", ()), ("qwen", ("qwen-latest", "openai/best")), ("openai/*", ()), ("openai/gpt-*", ()), ("openai/gpt-4o", ())]
)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        pytest.param("qwen", "qwen", id="its name"),
        pytest.param("qwen-latest", "qwen", id="an alias"),
        pytest.param("openai/best", "qwen", id="an alias wins over a prefix"),
        pytest.param("openai/gpt-4o", "openai/gpt-4o", id="a name wins over a prefix"),
        pytest.param("openai/gpt-5", "openai/gpt-*", id="the longest prefix"),
        pytest.param("openai/o3", "openai/*", id="a prefix"),
        pytest.param("openai/", "*", id="a prefix alone is no name of it"),
        pytest.param("*", "*", id="the sign itself"),
        pytest.param("anything", "*", id="every name"),
    ],
)
def test_a_name_is_that_of_one_model(name: str, model: str) -> None:
    assert INDEX.find(name) == model


def test_without_a_match_there_is_no_model() -> None:
    index = ModelIndex([("a", ("b",)), ("c/*", ())])

    assert index.find("d") is None
    assert index.find("c/") is None
    assert index.names == ["a", "b"]
    assert index.all() == ["a", "b", "c/*"]
