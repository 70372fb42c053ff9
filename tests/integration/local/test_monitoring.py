"""Every query of the proxy's dashboard and alerts, asked of a real Prometheus that scrapes a real pod."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import promd
from e2e.kube import eventually
from integration.local.conftest import local, manifest
from llmproxy_api import parse
from llmproxy_operator.render.monitoring import pod_monitor
from procs import Process

pytestmark = pytest.mark.timeout(240)


def scraped_as_the_pod_monitor_says(address: str) -> dict[str, Any]:
    """Return a scrape job with the relabelings of the PodMonitor that the operator makes, and a pod's labels."""
    raw = yaml.safe_load(manifest(1, "  monitoring: {podMonitor: true}"))
    raw["metadata"] = {"name": "here", "namespace": "n", "uid": "u"}
    made = pod_monitor(parse(raw))
    assert made is not None
    [endpoint] = made["spec"]["podMetricsEndpoints"]
    relabelings = [
        {"source_labels": r["sourceLabels"], "target_label": r["targetLabel"]} for r in endpoint["relabelings"]
    ]
    [[label, name]] = [item for item in made["spec"]["selector"]["matchLabels"].items() if item[0].endswith("/name")]
    meta = f"__meta_kubernetes_pod_label_{re.sub(r'[^a-z]', '_', label)}"
    labels = {"namespace": "n", "pod": "here-1", "container": "gateway", meta: name}
    return {
        "job_name": "n/here",
        "metrics_path": endpoint["path"],
        "relabel_configs": relabelings,
        "static_configs": [{"targets": [address], "labels": labels}],
    }


def test_promtool_takes_the_rules() -> None:
    assert "SUCCESS" in promd.promtool("check", "rules", str(promd.MONITORING / "alerts.yaml"))


PROXY, POD = 'namespace="n",llmproxy="p"', 'namespace="n",llmproxy="p",pod="p-1"'
OPERATOR = 'namespace="n",pod="operator-1"'
FIRES: dict[str, tuple[str, dict[str, str]]] = {
    "LLMProxyCallsFail": (
        "namespace llmproxy",
        {
            f'llmproxy_requests_total{{{POD},status="200"}}': "0+80x60",
            f'llmproxy_requests_total{{{POD},status="502"}}': "0+20x60",
        },
    ),
    "LLMProxyDeploymentSetAside": (
        "namespace llmproxy model deployment",
        {f'llmproxy_upstream_healthy{{{POD},model="m",deployment="d"}}': "0x60"},
    ),
    "LLMProxyMostCallsOverLimit": (
        "namespace llmproxy",
        {
            f"llmproxy_rejections_total{{{POD}}}": "0+160x60",
            f'llmproxy_requests_total{{{POD},status="429"}}': "0+100x60",
        },
    ),
    "LLMProxyStoreDown": ("namespace llmproxy pod", {f"llmproxy_shipper_store_up{{{POD}}}": "0x60"}),
    "LLMProxySpansBehind": (
        "namespace llmproxy pod",
        {f"llmproxy_shipper_oldest_undelivered_seconds{{{POD}}}": "601x60"},
    ),
    "LLMProxySpoolFillsUp": (
        "namespace llmproxy pod",
        {f"llmproxy_shipper_spool_bytes{{{POD}}}": "81x60", f"llmproxy_shipper_spool_limit_bytes{{{POD}}}": "100x60"},
    ),
    "LLMProxyRecordsLost": (
        "namespace llmproxy",
        {f"llmproxy_records_rejected_total{{{POD}}}": "0+1x60", f"llmproxy_records_dropped_total{{{POD}}}": "0x60"},
    ),
    "LLMProxyDeadLetters": ("namespace llmproxy pod", {f"llmproxy_shipper_dead_letter_bytes{{{POD}}}": "1x60"}),
    "LLMProxyShipperAway": ("namespace llmproxy pod", {f"llmproxy_shipper_connected{{{POD}}}": "0x60"}),
    "LLMProxyOperatorDown": ("", {f"llmproxy_operator_leader{{{OPERATOR}}}": "0x60"}),
    "LLMProxyOperatorBehind": ("namespace pod", {f"llmproxy_operator_workqueue_oldest_seconds{{{OPERATOR}}}": "61x60"}),
    "LLMProxyOperatorNamespaceUnreadable": (
        "namespace pod watched_namespace",
        {f'llmproxy_operator_watch_up{{{OPERATOR},watched_namespace="a"}}': "0x60"},
    ),
    "LLMProxyOperatorReconcilesFail": (
        "namespace pod",
        {
            f'llmproxy_operator_reconciles_total{{{OPERATOR},result="error"}}': "0+30x60",
            f'llmproxy_operator_reconciles_total{{{OPERATOR},result="success"}}': "0+70x60",
        },
    ),
}
"""By alert: the labels that whoever is called is told, and an hour of samples, one a minute, that make it fire."""
WELL = {
    f'llmproxy_requests_total{{{POD},status="200"}}': "0+91x60",
    f'llmproxy_requests_total{{{POD},status="502"}}': "0+9x60",
    f'llmproxy_upstream_healthy{{{POD},model="m",deployment="d"}}': "1x60",
    f"llmproxy_rejections_total{{{POD}}}": "0+49x60",
    f"llmproxy_shipper_store_up{{{POD}}}": "1x60",
    f"llmproxy_shipper_oldest_undelivered_seconds{{{POD}}}": "599x60",
    f"llmproxy_shipper_spool_bytes{{{POD}}}": "79x60",
    f"llmproxy_shipper_spool_limit_bytes{{{POD}}}": "100x60",
    f"llmproxy_records_rejected_total{{{POD}}}": "0x60",
    f"llmproxy_records_dropped_total{{{POD}}}": "0x60",
    f"llmproxy_shipper_dead_letter_bytes{{{POD}}}": "0x60",
    f"llmproxy_shipper_connected{{{POD}}}": "1x60",
    f"llmproxy_operator_leader{{{OPERATOR}}}": "1x60",
    f"llmproxy_operator_workqueue_oldest_seconds{{{OPERATOR}}}": "59x60",
    f'llmproxy_operator_watch_up{{{OPERATOR},watched_namespace="a"}}': "1x60",
    f'llmproxy_operator_reconciles_total{{{OPERATOR},result="error"}}': "0+19x60",
    f'llmproxy_operator_reconciles_total{{{OPERATOR},result="success"}}': "0+81x60",
}
"""An hour just within what is bearable."""
VALUES = {"namespace": "n", "llmproxy": "p", "model": "m", "deployment": "d", "watched_namespace": "a"}


def rule_test(name: str, samples: dict[str, str], firing: dict[str, str] | None) -> dict[str, Any]:
    """Return a test for promtool: the alerts of one name, or of any, that fire at a time."""
    which = 'alertstate="firing"' + (f',alertname="{name}"' if name else "")
    told = (
        [{"labels": "{" + ",".join(f'{k}="{v}"' for k, v in firing.items()) + "}", "value": 1}]
        if firing is not None
        else []
    )
    # The severity is the rule's own.
    query = f"count without (alertname, alertstate, severity) (ALERTS{{{which}}})"
    return {
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in samples.items()],
        "promql_expr_test": [{"expr": query, "eval_time": "60m", "exp_samples": told}],
    }


def test_each_alert_fires_when_it_should_and_none_when_all_is_well(tmp_path: Path) -> None:
    assert set(FIRES) == {*promd.alerts("llmproxy"), *promd.alerts("llmproxy-operator")}
    tests = [rule_test("", WELL, None)]
    for name, (labels, samples) in FIRES.items():
        told = VALUES | {"pod": "p-1" if "llmproxy" in labels else "operator-1"}
        firing = {label: told[label] for label in labels.split()}
        tests.append(rule_test(name, WELL | samples, firing))
    file = tmp_path / "alerts_test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(promd.MONITORING / "alerts.yaml")], "tests": tests}))

    assert "SUCCESS" in promd.promtool("test", "rules", str(file))


def test_every_query_about_proxies_is_answered(echo: Process, store: str, tmp_path: Path) -> None:
    of_the_model = "    rateLimits: {rpm: 1000}"
    spec = f"{of_the_model}\n  rateLimits: {{rpm: 40, maxParallel: 8}}\n  spans: {{store: {store}}}"
    env = {"XDG_STATE_HOME": str(tmp_path / "state")}
    rules = promd.MONITORING / "alerts.yaml"
    with local(tmp_path, manifest(echo.port, spec), env=env) as here:
        place = tmp_path / "state/llmproxy/local"
        [told] = eventually(lambda: list(place.glob("*.json")), bool, 30, "what others are told of the run")
        run = json.loads(told.read_text())
        job = scraped_as_the_pod_monitor_says(run["admin"][0].removeprefix("http://"))
        with promd.prometheus(job, rules=rules) as prometheus:
            for _ in range(44):
                here.chat("x")
            prometheus.wait_for('sum(rate(llmproxy_rejections_total{llmproxy="here"}[20s]))')
            prometheus.wait_for(
                "histogram_quantile(0.5, sum by (le) (rate(llmproxy_time_to_first_byte_seconds_bucket[20s])))"
            )
            silent = [name for name, query in promd.panels("proxy.json").items() if not prometheus.series(query)]
            unset = [asked for asked in promd.variables("proxy.json") if not _values(prometheus, *asked)]
            asked = [*promd.panels("proxy.json").values(), *promd.alerts("llmproxy").values()]
            unlabelled = prometheus.labels_without_values(asked)
            known = prometheus.names()
            evaluated = prometheus.ask("rules")["groups"]

    assert silent == []
    assert unset == []
    assert unlabelled == []
    for alert, expression in promd.alerts("llmproxy").items():
        names = set(re.findall(r"\bllmproxy_\w+", expression))
        assert names, alert
        assert names - known == set(), alert
    troubled = [rule["name"] for group in evaluated for rule in group["rules"] if rule.get("lastError")]
    assert troubled == []


def _values(prometheus: promd.Prometheus, metric: str, label: str) -> list[str]:
    return [found["metric"][label] for found in prometheus.series(metric) if found["metric"].get(label)]
