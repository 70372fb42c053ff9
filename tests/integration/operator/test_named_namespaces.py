"""An operator for named namespaces, with what the chart gives it for them: Roles, a token, and no right beyond."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml

from e2e.kube import Kube, Object, eventually, helm
from e2e.proxies import an_llmproxy
from integration.operator.conftest import Operator, a_namespace, end, kubeconfig_of, settled
from integration.operator.test_operator import children, keyed, wait_condition
from procs import ROOT, free_port, started

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

ACCOUNT = "llmproxy-operator"
UNSEEN = {"observedGeneration": -1}


def installed(home: Kube, *watched: Kube) -> list[Object]:
    """Apply what the chart renders for these namespaces, as its README says; return it. Its Deployment stays away."""
    values = {
        "watchNamespaces": [kube.namespace for kube in watched],
        "crds.install": False,
        "rbac.aggregate": False,
        "replicas": 2,
    }
    flags = [word for name, value in values.items() for word in ("--set-json", f"{name}={json.dumps(value)}")]
    chart = str(ROOT / "charts/llmproxy-operator")
    text = helm(home.kubeconfig, "template", ACCOUNT, chart, "--namespace", home.namespace, *flags)
    objects = [item for item in yaml.safe_load_all(text) if item]
    assert {item["metadata"]["namespace"] for item in objects} == {kube.namespace for kube in (home, *watched)}
    for kube in (home, *watched):
        theirs = [o for o in objects if (o["metadata"]["namespace"], o["kind"]) != (kube.namespace, "Deployment")]
        kube.apply(*[item for item in theirs if item["metadata"]["namespace"] == kube.namespace])
    return objects


@contextmanager
def as_in_its_pod(home: Kube, objects: list[Object], folder: Path) -> Iterator[Operator]:
    """Run the operator with the environment that the chart gives its pod, and its ServiceAccount's token."""
    [deployment] = [item for item in objects if item["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    port = free_port()
    environment = {item["name"]: item.get("value", "") for item in container["env"]}
    environment |= {
        "OPERATOR_NAMESPACE": home.namespace,
        "OPERATOR_METRICS_LISTEN_PORT": str(port),
        "KUBECONFIG": kubeconfig_of(home, ACCOUNT, folder / "kubeconfig"),
        "KUBERNETES_SERVICE_HOST": "",
        "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT / 'proxy_image'}",
    }
    operator = Operator(started("llmproxy_operator.__main__", env=environment), port)
    try:
        operator.process.wait_for("operator_started")
        yield operator
    finally:
        operator.process.end()


def may(kube: Kube, home: Kube, verb: str, kind: str) -> bool:
    """Return whether the operator's account may do this in a namespace."""
    account = f"--as=system:serviceaccount:{home.namespace}:{ACCOUNT}"
    return kube.run("auth", "can-i", verb, kind, account, check=False).strip() == "yes"


@pytest.fixture
def namespaces(api_server: Kube) -> Iterator[tuple[Kube, Kube, Kube, Kube]]:
    """The operator's own, two that it looks after, and one that is no concern of it."""
    with ExitStack() as stack:
        made = (a_namespace(), a_namespace(), a_namespace(), a_namespace())
        for kube in made:
            stack.callback(end, kube, None)
        yield made


def test_roles_in_the_named_namespaces_are_all_it_needs(
    namespaces: tuple[Kube, Kube, Kube, Kube], tmp_path: Path
) -> None:
    home, one, two, other = namespaces
    objects = installed(home, one, two)
    assert not {item["kind"] for item in objects} & {"ClusterRole", "ClusterRoleBinding"}
    rich = an_llmproxy(
        "rich", rateLimits={"rpm": 60}, autoscaling={"minReplicas": 2, "maxReplicas": 3}, access={"namespaces": []}
    )
    for kube in (one, two, other):
        kube.run("create", "secret", "generic", "provider", "--from-literal=api-key=x")
        kube.apply(an_llmproxy("none", replicas=0), rich, keyed("keyed", "provider"))

    with as_in_its_pod(home, objects, tmp_path) as operator:
        for kube in (one, two):
            wait_condition(kube, "none", "Ready", "ScaledToZero")
            for name in ("rich", "keyed"):  # pods are refused by the namespace's quota, which the status can say
                wait_condition(kube, name, "Stalled", "QuotaExceeded")
            made = {name.split("/")[0] for name in children(kube)}
            assert made >= {"Deployment", "Service", "ConfigMap", "Secret", "HorizontalPodAutoscaler", "NetworkPolicy"}
            assert made >= {"PodDisruptionBudget"}
            eventually(lambda k=kube: k.list("events"), bool, 30, "its Events")  # type: ignore[misc]  # a default binds the loop's value
        one.run("delete", "service", "none")
        one.patch("llmproxy", "none", {"spec": {"rateLimits": {"rpm": 5}}})
        eventually(lambda: children(one), lambda names: "Service/none" in names, 30, "repaired")
        settled(lambda: operator.metric("llmproxy_operator_reconciles_total"))

        assert operator.log_count("lease_acquired") == 1
        assert operator.metric('llmproxy_operator_reconciles_total{result="error"}') == 0
        assert "forbidden" not in operator.process.output.lower()

    assert children(other) == set()
    assert [item["status"] for item in other.list("llmproxies")] == [UNSEEN] * 3
    assert other.list("leases") == home.list("deployments") == []
    for verb, kind in (
        ("list", "llmproxies"),
        ("get", "secrets"),
        ("patch", "deployments.apps"),
        ("create", "services"),
    ):
        assert (may(one, home, verb, kind), may(other, home, verb, kind)) == (True, False), (verb, kind)
