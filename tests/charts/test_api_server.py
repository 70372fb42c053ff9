"""What the chart renders, shown to a real API server: it takes all of it, with every value set and with none."""

import os
from typing import Any

import pytest
import yaml

from charts.conftest import Helm
from charts.test_chart import CHANGES
from e2e.kube import Kube

pytestmark = pytest.mark.cluster

# The chart refuses these beside all others, or they need what is not there.
_ALONE = {"crds.install", "watchNamespaces", "nameOverride", "metrics.service"}
VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "named namespaces": {"watchNamespaces": ["default"]},
    "every value": {k: v for k, v in CHANGES.items() if k not in _ALONE},
}


@pytest.fixture(scope="module")
def kube() -> Kube:
    if not os.environ.get("LLMPROXY_E2E_KUBECONFIG"):
        pytest.skip("LLMPROXY_E2E_KUBECONFIG names no cluster; `make test-e2e` starts one")
    return Kube("default")


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_api_server_takes_what_is_rendered(helm: Helm, kube: Kube, variant: str) -> None:
    # Kinds of the Prometheus operator are not known to a bare API server: test_monitoring_kinds installs them.
    objects = [
        o for o in helm.rendered(**VARIANTS[variant]) if not o["apiVersion"].startswith("monitoring.coreos.com/")
    ]
    for made in objects:
        if made["metadata"].get("namespace") == "llmproxy-system":
            made["metadata"]["namespace"] = "default"  # a namespace that is there

    text = yaml.safe_dump_all(objects)
    said = kube.run("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=text, check=False)

    unlike = [line for line in said.splitlines() if "(server dry run)" not in line and "already exists" not in line]
    assert unlike == []
