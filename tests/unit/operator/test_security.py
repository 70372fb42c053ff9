"""The claims of docs/security.md that rendering and passes can show."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from crds.every_field import BASE
from fakes.cluster import FakeCluster
from fakes.reconciling import Operator, a_proxy, a_secret, serve
from llmproxy_api import SpecError, parse
from llmproxy_api.crd import crd
from llmproxy_operator.manifest import Ref
from llmproxy_operator.render import Inputs, digested, render, revision

Manifest = dict[str, Any]
ROOT = Path(__file__).parents[3]
PLANTED = "planted-0815-key"
SCHEMA = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]


def everything() -> Manifest:
    """Return the pod template of a proxy that has every field."""
    proxy = parse({**a_proxy(), "spec": copy.deepcopy(BASE)})
    digests = dict.fromkeys(digested(proxy), "digest")
    rendered = render(proxy, revision(proxy, Inputs("img:1", digests)))
    found: Manifest = next(item for item in rendered if item["kind"] == "Deployment")["spec"]["template"]["spec"]
    return found


def fields(schema: Manifest, path: str = "") -> list[str]:
    here = [f"{path}.{name}" for name in schema.get("properties", {})]
    inner = [fields(child, f"{path}.{name}") for name, child in schema.get("properties", {}).items()]
    return (
        [*here, *(name for names in inner for name in names), *fields(schema.get("items", {}), path)] if schema else []
    )


class Reads(FakeCluster):
    """Remembers what was read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: set[Ref] = set()

    async def get(self, target: Ref, *, allow_stale: bool = False) -> Manifest | None:
        self.read.add(target)
        return await super().get(target)


def test_no_field_names_a_namespace_of_a_secret() -> None:
    assert [path for path in fields(SCHEMA) if path.endswith(".namespace")] == [".access.egress.namespace"]
    raw = a_proxy("provider")
    raw["spec"]["models"][0]["deployments"][0]["apiKey"]["secretKeyRef"]["namespace"] = "kube-system"
    with pytest.raises(SpecError, match="namespace: unknown field"):
        parse(raw)


async def test_secrets_are_read_by_name_in_the_proxys_own_namespace() -> None:
    cluster = Reads()
    theirs = a_secret(PLANTED)
    cluster.put({**theirs, "metadata": {**theirs["metadata"], "namespace": "other"}})
    operator = Operator(cluster)
    cluster.put(a_proxy("provider"))

    await operator.reconcile()

    assert {target.namespace for target in cluster.read} == {"n"}
    assert {t.name for t in cluster.read if t.kind == "Secret"} == {"provider"}
    assert operator.condition("Reconciling") == ("True", "SecretNotFound")


@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("rotated", [False, True])
async def test_a_key_is_nowhere_but_in_its_secret(*, paused: bool, rotated: bool) -> None:
    cluster = FakeCluster()
    cluster.put(a_secret(PLANTED))
    operator = Operator(cluster)
    proxy = a_proxy("provider", spans={"store": "http://store:4747"})
    cluster.put(proxy)
    await operator.reconcile()
    serve(cluster, readyReplicas=0)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "p-1",
            "namespace": "n",
            "labels": cluster.one("Deployment", "p")["spec"]["template"]["metadata"]["labels"],
            "annotations": cluster.one("Deployment", "p")["spec"]["template"]["metadata"]["annotations"],
        },
    }
    cluster.put(pod, "kubelet")
    ended = {"exitCode": 2, "startedAt": "1970-01-01T00:16:00Z", "message": f"refused: {PLANTED}"}
    crash = {"name": "gateway", "restartCount": 5, "ready": False, "state": {"terminated": ended}}
    cluster.set_status("Pod", "p-1", {"containerStatuses": [crash]})
    if paused:
        metadata = {**proxy["metadata"], "annotations": {"llmproxy.dev/paused": "true"}}
        cluster.put({**proxy, "metadata": metadata})
    if rotated:  # and the pod has the one before
        cluster.put(a_secret("another-key"))

    await operator.reconcile()

    if paused or not rotated:  # else the operator rolls, and does not speak of the pods of before
        assert operator.condition("Stalled") == ("True", "CrashLoop")
    told = {target: item for target, item in cluster.objects.items() if target.kind != "Pod"}
    assert PLANTED not in json.dumps(list(told.values()))
    assert len(told) > 8


def test_a_pod_has_no_token_and_nothing_of_its_node() -> None:
    pod = everything()

    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "hostAliases", "shareProcessNamespace"} & set(pod)
    assert {key for volume in pod["volumes"] for key in volume} == {"name", "configMap", "emptyDir", "secret"}
    assert [v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v] == ["p-control", "trainers"]


def test_every_container_satisfies_the_restricted_level() -> None:
    pod = everything()
    containers = [*pod["containers"], *pod["initContainers"]]

    assert [container["name"] for container in containers] == ["gateway", "shipper", "translator"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        assert {"requests", "limits"} <= set(container["resources"])


@pytest.mark.parametrize(
    "key",
    [
        "container.apparmor.security.beta.kubernetes.io/gateway",
        "seccomp.security.alpha.kubernetes.io/pod",
        "llmproxy.dev/name",
        "app.kubernetes.io/name",
        "topology.k8s.io/zone",
        "pod-template-hash",
    ],
)
@pytest.mark.parametrize("field", ["labels", "annotations"])
def test_keys_of_others_are_refused_on_pods(field: str, key: str) -> None:
    with pytest.raises(SpecError, match=rf"spec\.pod\.{field}: "):
        parse(a_proxy(pod={field: {key: "x"}}))


def test_the_operators_rights_have_no_wildcard_and_list_no_secret() -> None:
    objects = list(yaml.safe_load_all((ROOT / "gitops/kustomize/operator.yaml").read_text()))
    roles = {item["metadata"]["name"]: item["rules"] for item in objects if item["kind"] in {"ClusterRole", "Role"}}
    rules = [
        rule
        for name, found in roles.items()
        if name in {"llmproxy-operator", "llmproxy-operator-leader"}
        for rule in found
    ]

    assert not [rule for rule in rules if "*" in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]]
    [secrets] = [rule for rule in rules if "secrets" in rule["resources"]]
    assert set(secrets["verbs"]) == {"get", "create", "patch"}
    touched = {resource for rule in rules for resource in rule["resources"]}
    assert not touched & {
        "nodes",
        "roles",
        "clusterroles",
        "rolebindings",
        "clusterrolebindings",
        "pods/exec",
        "pods/log",
    }
    assert not touched & {"serviceaccounts", "daemonsets", "statefulsets", "jobs"}
