"""PodMonitor, ServiceMonitor and PrometheusRule, shown to an API server that knows their schemas.

Their CRDs come from the Prometheus operator's Go module (`python -m cluster build prometheus-crds`).
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from charts.conftest import Helm
from charts.test_chart import CHANGES
from e2e.kube import Kube, eventually
from e2e.proxies import an_llmproxy
from integration.operator.conftest import a_namespace, an_operator, api_server

__all__ = ["api_server"]
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]
GROUP = "monitoring.coreos.com"
KINDS = ("podmonitors", "prometheusrules", "servicemonitors")


@pytest.fixture(scope="module")
def kube(api_server: Kube) -> Iterator[Kube]:
    """The cluster with the kinds of the Prometheus operator, which it has no longer afterwards unless it had them."""
    folder = os.environ.get("LLMPROXY_E2E_PROMETHEUS_CRDS")
    if not folder:
        pytest.skip("LLMPROXY_E2E_PROMETHEUS_CRDS names no folder with CRDs; `make test-e2e` does")
    crds = [f"crd/{kind}.{GROUP}" for kind in KINDS]
    new = [crd for crd in crds if "NotFound" in api_server.run("get", crd, check=False)]
    for file in sorted(Path(folder).glob("*.yaml")):
        api_server.run("apply", "--server-side", "-f", str(file))
    api_server.run("wait", "--for=condition=Established", *crds, "--timeout=30s")
    yield api_server
    if new:
        api_server.run("delete", *new, "--timeout=60s")


def test_the_api_server_takes_what_the_chart_makes_of_them(helm: Helm, kube: Kube) -> None:
    values = {name: value for name, value in CHANGES.items() if name.startswith("metrics.") and value is not False}
    objects = [made for made in helm.rendered(**values) if made["apiVersion"].startswith(f"{GROUP}/")]
    for made in objects:
        made["metadata"]["namespace"] = "default"

    text = yaml.safe_dump_all(objects)
    kube.run("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=text)

    assert {made["kind"] for made in objects} == {"PrometheusRule", "ServiceMonitor"}
    # It does look: a field that is not theirs is refused.
    objects[0]["spec"]["unheardOf"] = True
    assert 'unknown field "spec.unheardOf"' in kube.refused(objects[0])


def test_the_operator_makes_a_podmonitor_and_takes_it_away_again(kube: Kube) -> None:
    team = a_namespace()
    try:
        with an_operator(team.namespace, "--no-leader-elect"):
            monitoring = {"podMonitor": True, "labels": {"release": "prometheus"}}
            team.apply(an_llmproxy("watched", replicas=0, monitoring=monitoring))

            team.wait("llmproxy/watched", "condition=Ready", 60)
            [monitor] = team.list(f"podmonitors.{GROUP}")
            assert monitor["metadata"]["labels"]["release"] == "prometheus"
            assert monitor["spec"]["podMetricsEndpoints"][0]["port"] == "admin"
            assert [owner["name"] for owner in monitor["metadata"]["ownerReferences"]] == ["watched"]

            team.patch("llmproxy", "watched", {"spec": {"monitoring": {"podMonitor": False, "labels": None}}})
            found = eventually(lambda: team.list(f"podmonitors.{GROUP}"), lambda found: not found, 60, "it is gone")
            assert found == []
    finally:
        team.run("delete", "namespace", team.namespace, "--wait=false")
