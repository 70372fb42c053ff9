"""Prefixes of names (`lora-*`, `*`) and aliases: what is forwarded, counted, listed and refused."""

import json
from collections.abc import Iterator

import pytest

from integration.gateway.conftest import Echo, Gateway, deployment, document, gateway
from llmproxy.contract import ContractError, parse


@pytest.fixture(scope="module")
def names(_echo_server: Echo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    def one(ident: str, model: str) -> list[dict[str, object]]:
        return [deployment(_echo_server.port, ident, model=model)]

    told = document()
    told["models"] = [
        {"name": "qwen", "aliases": ["qwen-latest"], "deployments": one("qwen/0", "openai_like/served")},
        {"name": "lora-*", "deployments": one("lora-*/0", "openai_like/lora-*"), "rate_limits": {"rpm": 3}},
        {"name": "openai/*", "deployments": one("openai/*/0", "openai_like/*")},
        {"name": "fixed/*", "deployments": one("fixed/*/0", "openai_like/always")},
        {"name": "claude-*", "deployments": one("claude-*/0", "anthropic/claude-*")},
    ]
    with gateway(tmp_path_factory.mktemp("n"), told, env={}) as here:
        yield here


@pytest.mark.parametrize(
    ("name", "upstream"),
    [
        pytest.param("qwen", "served", id="a name"),
        pytest.param("qwen-latest", "served", id="an alias"),
        pytest.param("openai/gpt-5.1", "gpt-5.1", id="the rest of a name"),
        pytest.param("openai/a/b c\u00fc", "a/b c\u00fc", id="an odd rest"),
        pytest.param("fixed/whatever", "always", id="one model for all names"),
    ],
)
def test_a_request_is_forwarded_under_the_callers_name(names: Gateway, echo: Echo, name: str, upstream: str) -> None:
    assert names.chat(model=name).status_code == 200

    assert echo.stats()["last"]["body"]["model"] == upstream


def test_an_anthropic_client_is_forwarded_under_its_name(names: Gateway, echo: Echo) -> None:
    body = {"model": "openai/step-7", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}

    assert names.post(body, "/v1/messages").status_code == 200
    assert echo.stats()["last"]["body"]["model"] == "step-7"


def test_limits_and_metrics_count_the_entry(names: Gateway) -> None:
    answers = [names.chat(model=f"lora-{i}").status_code for i in range(5)]

    assert sorted(answers) == [200, 200, 200, 429, 429]
    entry = {"model": "lora-*", "endpoint": "chat.completions"}
    assert names.metric("llmproxy_requests_total", **entry, status="200") == 3
    assert names.metric("llmproxy_requests_total", **entry, status="429") == 2


def test_an_alias_shares_the_metrics_of_its_model(names: Gateway) -> None:
    entry = {"model": "qwen", "endpoint": "chat.completions", "status": "200"}
    before = names.metric("llmproxy_requests_total", **entry)

    names.chat(model="qwen-latest")

    assert names.metric("llmproxy_requests_total", **entry) == before + 1


def test_names_that_are_known_are_listed(names: Gateway) -> None:
    sdk = names.sdk()

    assert [model.id for model in sdk.models.list()] == ["qwen", "qwen-latest"]
    assert sdk.models.retrieve("openai/gpt-5.1").id == "openai/gpt-5.1"


@pytest.mark.parametrize("name", ["other", "openai/", "lora-"])
def test_a_name_that_nothing_matches_is_not_found(names: Gateway, name: str) -> None:
    answer = names.chat(model=name)

    assert answer.status_code == 404
    assert "claude-*, fixed/*, lora-*, openai/*, qwen, qwen-latest" in answer.json()["error"]["message"]


@pytest.mark.parametrize("aliases", [["qwen"], ["a", "a"]])
def test_a_document_with_a_name_twice_is_refused(aliases: list[str]) -> None:
    told = document(deployment(1))
    told["models"][0]["aliases"] = aliases
    told["models"].append({"name": "qwen", "deployments": [deployment(1, "qwen/0")]})
    with pytest.raises(ContractError, match=r"models\.0\.aliases"):
        parse(json.dumps(told))
