"""Delayed actions of the operator: each wait begins with the first test, and they run together."""

import base64
import re
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.kube import Kube, Object, eventually
from e2e.proxies import an_llmproxy
from integration.operator.conftest import (
    Operator,
    a_namespace,
    an_operator,
    end,
    kubeconfig_of,
    settled,
    start_operator,
)
from integration.operator.test_operator import children, keyed, template, wait_condition

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("patience"), pytest.mark.timeout(240)]

FOREIGN: list[Object] = [
    {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "taken"},
        "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "replicas": 0,
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
    },
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "taken"},
        "spec": {"selector": {"app": "somebody-else"}, "ports": [{"port": 80}]},
    },
    {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "taken-endpoint"}, "data": {}},
    {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "taken-peers"}, "stringData": {"a": "b"}},
]


@dataclass(frozen=True)
class Begun:
    """Everything that has begun: three proxies of one operator, and another operator that may do nothing."""

    kube: Kube
    operator: Operator
    before: Object
    """The annotations of the template whose Secret changed since."""
    waiting: Object
    """What was first said of the proxy without a Secret."""
    conflict: Object
    """What was first said of the proxy whose names are taken."""
    powerless: Operator


@pytest.fixture(scope="module")
def begun(api_server: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Begun]:
    kube = a_namespace()
    powerless = _powerless(kube, tmp_path_factory.mktemp("powerless") / "config")
    with an_operator(kube.namespace, "--no-leader-elect") as operator:
        kube.apply(keyed("forsaken", "absent"))
        kube.run("create", "secret", "generic", "provider", "--from-literal=api-key=first")
        kube.apply(*FOREIGN, keyed("rotating", "provider"))
        settled(lambda: _theirs(kube), quiet_s=1)
        theirs = _theirs(kube)
        kube.apply(an_llmproxy("taken"))
        waiting = wait_condition(kube, "forsaken", "Reconciling", "SecretNotFound")
        conflict = wait_condition(kube, "taken", "Stalled", "NameConflict")
        assert _theirs(kube) == theirs
        assert not {name for name in children(kube) if "/taken" in name}
        for item in FOREIGN:
            kube.run("delete", item["kind"], item["metadata"]["name"])
        wait_condition(kube, "rotating", "Stalled", "QuotaExceeded")
        before = template(kube, "rotating")["metadata"]["annotations"]
        kube.run("patch", "secret", "provider", "-p", '{"stringData": {"api-key": "planted-0815"}}')
        yield Begun(kube, operator, before, waiting, conflict, powerless)
    end(kube, powerless)


def _theirs(kube: Kube) -> list[Object]:
    return [kube.get(item["kind"], item["metadata"]["name"]) for item in FOREIGN]


def _powerless(kube: Kube, kubeconfig: Path) -> Operator:
    """Start an operator whose account has no rights."""
    kube.run("create", "serviceaccount", "powerless")
    return start_operator(
        kube.namespace, "--no-leader-elect", env={"KUBECONFIG": kubeconfig_of(kube, "powerless", kubeconfig)}
    )


def test_objects_of_somebody_else_are_reported_not_touched_and_missed_when_they_go(begun: Begun) -> None:
    for item in FOREIGN:
        assert f"{item['kind']} {begun.kube.namespace}/{item['metadata']['name']}" in begun.conflict["message"]

    wait_condition(begun.kube, "taken", "Stalled", "QuotaExceeded", 40)  # as far as the quota lets it


def test_a_secret_that_changes_rolls_the_pods(begun: Begun) -> None:
    kube = begun.kube

    eventually(
        lambda: template(kube, "rotating")["metadata"]["annotations"], lambda a: a != begun.before, 60, "another hash"
    )
    everything = kube.run("get", "llmproxies,configmaps,deployments,events", "-o", "yaml")
    everything += begun.operator.process.output
    assert "planted-0815" not in everything
    assert base64.b64encode(b"planted-0815").decode() not in everything


def test_an_operator_without_rights_stays_not_ready_and_says_which_it_lacks(begun: Begun) -> None:
    powerless = begun.powerless
    eventually(lambda: powerless.log_count("llmproxies_unreadable"), lambda count: count == 1, 60, "one log line")

    with pytest.raises(urllib.error.HTTPError) as refused:
        powerless.get("/readyz")
    refused.value.close()
    assert refused.value.code == 503
    page = powerless.get("/metrics")
    assert re.search(r"^llmproxy_operator_watch_up\{.*\} 0\.0$", page, re.MULTILINE), page
    assert "llmproxies" in powerless.process.output
    assert "forbidden" in powerless.process.output.lower()


def test_a_secret_that_does_not_come_stalls_the_proxy(begun: Begun) -> None:
    kube = begun.kube
    assert "'absent'" in begun.waiting["message"]

    wait_condition(kube, "forsaken", "Stalled", "SecretNotFound", 75)

    assert kube.condition("llmproxy", "forsaken", "Reconciling")["status"] == "False"
    assert "Deployment/forsaken" not in children(kube)
    kube.run("create", "secret", "generic", "absent", "--from-literal=api-key=x")
    eventually(lambda: children(kube), lambda c: "Deployment/forsaken" in c, 60, "healed")
