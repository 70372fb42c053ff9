"""Every query of the operator's dashboard and alerts, asked of a real Prometheus that scrapes a real operator."""

import re

import pytest

import promd
from e2e.kube import Kube
from e2e.proxies import an_llmproxy
from integration.operator.conftest import Operator

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


def test_every_query_about_the_operator_is_answered(team: Kube, operator: Operator) -> None:
    labels = {"namespace": team.namespace, "pod": "operator-1"}
    job = {
        "job_name": "llmproxy-operator-metrics",
        "static_configs": [{"targets": [f"127.0.0.1:{operator.port}"], "labels": labels}],
    }
    with promd.prometheus(job, rules=promd.MONITORING / "alerts.yaml") as prometheus:
        prometheus.wait_for("llmproxy_operator_leader == 1")
        team.apply(an_llmproxy("watched"))
        prometheus.wait_for(
            "histogram_quantile(0.5, sum by (le) (rate(llmproxy_operator_reconcile_duration_seconds_bucket[20s])))"
        )
        prometheus.wait_for("rate(llmproxy_operator_writes_total[20s])")
        silent = [name for name, query in promd.panels("operator.json").items() if not prometheus.series(query)]
        variables = promd.variables("operator.json")
        unset = [m for m, label in variables if not any(f["metric"].get(label) for f in prometheus.series(m))]
        asked = [*promd.panels("operator.json").values(), *promd.alerts("llmproxy-operator").values()]
        unlabelled = prometheus.labels_without_values(asked)
        known = prometheus.names()
        down = prometheus.series(promd.alerts("llmproxy-operator")["LLMProxyOperatorDown"])

    assert (silent, unset, unlabelled, down) == ([], [], [], [])
    for alert, expression in promd.alerts("llmproxy-operator").items():
        names = set(re.findall(r"\bllmproxy_\w+", expression))
        assert names, alert
        assert names - known == set(), alert
