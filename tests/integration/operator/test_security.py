"""The claims of docs/security.md about a user who may edit LLMProxies of a namespace and nothing else, as that user."""

from typing import Any

import pytest
import yaml

from e2e.kube import Kube, KubectlError, Object, eventually
from e2e.proxies import an_llmproxy
from integration.operator.conftest import IMAGE, Operator, settled
from integration.operator.test_operator import keyed, wait_condition
from procs import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]
EVE = "--as=eve"


@pytest.fixture
def eve(team: Kube) -> Kube:
    """The namespace, where a user eve has the rights that the chart gives to editors, and no others."""
    installed = yaml.safe_load_all((ROOT / "gitops/kustomize/operator.yaml").read_text())
    [editor] = [item for item in installed if item["metadata"]["name"] == "llmproxy-operator-edit"]
    rbac = "rbac.authorization.k8s.io"
    role: Object = {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": {"name": "eve"}, "rules": editor["rules"]}
    binding: Object = {
        "apiVersion": f"{rbac}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "eve"},
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "eve"},
        "subjects": [{"apiGroup": rbac, "kind": "User", "name": "eve"}],
    }
    team.apply(role, binding)
    return team


def made_by_eve(eve: Kube, manifest: Object, *flags: str) -> None:
    eve.run("create", EVE, *flags, "-f", "-", stdin=yaml.safe_dump(manifest))


def refused(eve: Kube, manifest: Object) -> str:
    with pytest.raises(KubectlError) as caught:
        made_by_eve(eve, manifest, "--validate=strict")
    return str(caught.value)


def test_who_edits_llmproxies_may_do_nothing_else(eve: Kube, operator: Operator) -> None:
    made_by_eve(eve, an_llmproxy("hers", replicas=0))
    wait_condition(eve, "hers", "Ready", "ScaledToZero")

    for verb, what in (("create", "pods"), ("get", "secrets"), ("patch", "deployments"), ("create", "services")):
        assert eve.run("auth", "can-i", verb, what, EVE, check=False).strip().endswith("no"), (verb, what)
    assert eve.run("auth", "can-i", "create", "llmproxies", "-n", "default", EVE, check=False).strip().endswith("no")
    lie = '{"status": {"endpoint": "http://elsewhere"}}'
    said = eve.run("patch", "llmproxy", "hers", EVE, "--subresource=status", "--type=merge", "-p", lie, check=False)
    assert "forbidden" in said


def test_a_secret_of_another_namespace_is_not_read(eve: Kube, operator: Operator) -> None:
    theirs = f"{eve.namespace}-theirs"
    eve.run("create", "namespace", theirs)
    try:
        eve.run("create", "secret", "generic", "provider", "-n", theirs, "--from-literal=api-key=of-others")
        proxy = keyed("thief", "provider")
        proxy["spec"]["models"][0]["deployments"][0]["apiKey"]["secretKeyRef"]["namespace"] = theirs
        assert 'secretKeyRef.namespace"' in refused(eve, proxy)
        assert "secretKeyRef.name" in refused(eve, keyed("thief", f"../../{theirs}/secrets/provider"))

        made_by_eve(eve, proxy, "--validate=false")  # the API server drops what it does not know

        missing = wait_condition(eve, "thief", "Reconciling", "SecretNotFound")
        assert f"namespace {eve.namespace}" in missing["message"].replace("'", "")
        assert eve.list("deployments") == []
    finally:
        eve.run("delete", "namespace", theirs, "--wait=false")


POD: dict[str, Any] = {
    "volumes": [{"name": "host", "hostPath": {"path": "/"}}],
    "hostNetwork": True,
    "containers": [{"name": "own", "image": IMAGE}],
    "securityContext": {"runAsUser": 0},
}


def test_a_pod_cannot_be_made_into_one_of_the_node(eve: Kube, operator: Operator) -> None:
    for field, value in POD.items():
        assert f'unknown field "spec.pod.{field}"' in refused(eve, an_llmproxy("host", pod={field: value}))

    made_by_eve(eve, an_llmproxy("host", replicas=0, pod=POD), "--validate=false")
    wait_condition(eve, "host", "Ready", "ScaledToZero")

    pod = eve.get("deployment", "host")["spec"]["template"]["spec"]
    assert {kind for volume in pod["volumes"] for kind in volume} <= {"name", "configMap", "emptyDir", "secret"}
    assert [container["name"] for container in pod["containers"]] == ["gateway"]
    assert not pod.get("hostNetwork")
    assert (pod["securityContext"]["runAsNonRoot"], pod["automountServiceAccountToken"]) == (True, False)


@pytest.mark.parametrize("image", ["docker.io/library/busybox:1", f"{IMAGE.partition(':')[0]}-of-eve:1"])
def test_an_image_that_is_not_allowed_is_in_no_object(eve: Kube, operator: Operator, image: str) -> None:
    made_by_eve(eve, an_llmproxy("foreign", image=image))

    stalled = wait_condition(eve, "foreign", "Stalled", "NotAllowed")
    assert image in stalled["message"]
    assert eve.list("deployments,controllerrevisions") == []


@pytest.mark.parametrize("field", ["labels", "annotations"])
def test_an_order_to_a_webhook_of_the_cluster_is_in_no_object(eve: Kube, operator: Operator, field: str) -> None:
    made_by_eve(eve, an_llmproxy("ordering", pod={field: {"sidecar.istio.io/inject": "true"}}))

    stalled = wait_condition(eve, "ordering", "Stalled", "NotAllowed")
    assert f"spec.pod.{field}: 'sidecar.istio.io/inject' is not allowed" in stalled["message"]
    assert eve.list("deployments,controllerrevisions") == []


def test_the_operator_does_not_write_to_a_secret_that_is_not_its_own(eve: Kube, operator: Operator) -> None:
    for name in ("db-control", "db-peers"):
        eve.run("create", "secret", "generic", name, "--from-literal=token=of-a-database")
    before = {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in eve.list("secrets")}

    made_by_eve(eve, an_llmproxy("db", replicas=0))

    wait_condition(eve, "db", "Stalled", "NameConflict")
    settled(lambda: operator.metric("llmproxy_operator_reconciles_total"))
    after = {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in eve.list("secrets")}
    assert after == before
    eve.run("delete", "llmproxy", "db", EVE)
    gone = eventually(lambda: eve.list("llmproxies"), lambda found: not found, 30, "the LLMProxy is gone")
    assert gone == []
    assert {item["metadata"]["name"] for item in eve.list("secrets")} == set(before)
