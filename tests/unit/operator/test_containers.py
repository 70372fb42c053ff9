"""Containers of a proxy pod: requests and limits."""

from typing import Any

import pytest

from fakes.reconciling import a_proxy
from llmproxy_api import parse
from llmproxy_operator.render.containers import amounts

Manifest = dict[str, Any]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}),
        (
            {"limits": {"memory": "512Mi"}},
            {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "512Mi"}},
        ),
        ({"requests": {"memory": "4Gi"}}, {"requests": {"cpu": "100m", "memory": "4Gi"}, "limits": {"memory": "4Gi"}}),
        (
            {"limits": {"cpu": "50m"}},
            {"requests": {"cpu": "50m", "memory": "1Gi"}, "limits": {"cpu": "50m", "memory": "2Gi"}},
        ),
    ],
)
def test_defaults_do_not_contradict_what_is_given(given: Manifest, expected: Manifest) -> None:
    proxy = parse(a_proxy(resources=given))
    defaults = {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}

    assert amounts(proxy.spec.resources, defaults) == expected
