"""The contract document of a proxy: what is refused beyond the rules of the CRD."""

import copy
from typing import Any

import pytest

from crds.every_field import BASE
from llmproxy_api import SpecError, parse
from llmproxy_operator.render import config

SECRET = {"secretKeyRef": {"name": "corp", "key": "value"}}


def proxy(name: str, *, api_key: bool) -> Any:
    spec = copy.deepcopy(BASE)
    deployment = spec["models"][0]["deployments"][0]
    deployment["headers"] = [{"name": name, "value": SECRET}]
    if not api_key:
        del deployment["apiKey"]
    kind = {"apiVersion": "llmproxy.dev/v1alpha1", "kind": "LLMProxy"}
    return parse({**kind, "metadata": {"name": "p", "namespace": "n"}, "spec": spec})


@pytest.mark.parametrize(
    ("name", "api_key"), [("host", False), ("transfer-encoding", True), ("authorization", True), ("x-api-key", True)]
)
def test_a_header_that_the_proxy_sets_itself_is_refused(name: str, *, api_key: bool) -> None:
    with pytest.raises(SpecError) as caught:
        config.document(proxy(name, api_key=api_key))

    assert [problem.path for problem in caught.value.problems] == ["spec.models[0].deployments[0].headers"]
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", ["authorization", "x-org"])
def test_other_headers_are_in_the_document_without_their_values(name: str) -> None:
    document = config.document(proxy(name, api_key=False))

    headers = document.models[0].deployments[0].headers
    assert headers is not None
    assert [(header.name, header.value_env) for header in headers] == [(name, config.key_variable(("corp", "value")))]
