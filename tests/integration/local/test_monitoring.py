"""Every query of the proxy's dashboard and alerts, asked of a real Prometheus that scrapes a real pod."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import promd
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


def test_every_query_about_proxies_is_answered(echo: Process, store: str, tmp_path: Path) -> None:
    spec = f"  rateLimits: {{rpm: 40, maxParallel: 8}}\n  spans: {{store: {store}}}"
    env = {"XDG_STATE_HOME": str(tmp_path / "state")}
    rules = promd.MONITORING / "alerts.yaml"
    with local(tmp_path, manifest(echo.port, spec), env=env) as here:
        run = json.loads(next((tmp_path / "state/llmproxy/local").glob("*.json")).read_text())
        job = scraped_as_the_pod_monitor_says(run["admin"][0].removeprefix("http://"))
        with promd.prometheus(job, rules=rules) as prometheus:
            for _ in range(44):
                here.chat("x")
            prometheus.wait_for('sum(rate(llmproxy_rejected_total{llmproxy="here"}[20s]))')
            prometheus.wait_for("histogram_quantile(0.5, sum by (le) (rate(llmproxy_first_byte_seconds_bucket[20s])))")
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
