"""The chart without a cluster: each value changes what is rendered, wrong ones are refused by name, rights are few."""

from typing import Any

import pytest
import yaml

from charts.conftest import CHART, Helm, Object, of_kind
from llmproxy_api.crd import crd
from llmproxy_operator import settings
from llmproxy_operator.render import ChildOptions

# A value other than the default for every leaf of values.yaml.
CHANGES: dict[str, Any] = {
    "image.repository": "registry.test/operator",
    "image.tag": "1.2.3",
    "image.digest": "sha256:" + "0" * 64,
    "image.pullPolicy": "Always",
    "proxyImage.repository": "registry.test/proxy",
    "proxyImage.tag": "1.2.3",
    "proxyImage.digest": "sha256:" + "0" * 64,
    "proxyImage.pullPolicy": "Never",
    "proxyImage.pullSecrets": ["pull"],
    "proxies.user": "auto",
    "proxies.inheritedLabels": ["team"],
    "proxies.inheritedAnnotations": ["example.com/*"],
    "proxies.metricsNamespaces": ["monitoring"],
    "limitsStore.image": "registry.test/valkey:1",
    "limitsStore.resources.requests.cpu": "1",
    "limitsStore.resources.requests.memory": "64Mi",
    "limitsStore.resources.limits.memory": "256Mi",
    "imagePullSecrets": ["pull"],
    "replicas": 2,
    "watchNamespaces": ["team-a", "team-b"],
    "logLevel": "DEBUG",
    "crds.install": False,
    "crds.keep": False,
    "rbac.aggregate": False,
    "serviceAccount.create": False,
    "serviceAccount.name": "somebody",
    "serviceAccount.annotations": {"a": "b"},
    "metrics.service": False,
    "metrics.serviceMonitor.create": True,
    "metrics.serviceMonitor.labels": {"release": "prometheus"},
    "metrics.serviceMonitor.interval": "15s",
    "metrics.rules.create": True,
    "metrics.rules.labels": {"release": "prometheus"},
    "metrics.dashboards.create": True,
    "metrics.dashboards.labels.grafana_dashboard": "yes",
    "metrics.dashboards.annotations": {"grafana_folder": "LLM"},
    "networkPolicy.create": False,
    "networkPolicy.from": [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}],
    "lightningStore.create": True,
    "lightningStore.image": "registry.test/store:1",
    "lightningStore.resources.requests.cpu": "1",
    "lightningStore.resources.requests.memory": "1Gi",
    "lightningStore.resources.limits.memory": "4Gi",
    "resources.requests.cpu": "1",
    "resources.requests.memory": "1Gi",
    "resources.limits.memory": "2Gi",
    "podSecurityContext.runAsNonRoot": False,
    "podSecurityContext.runAsUser": None,
    "podSecurityContext.runAsGroup": 0,
    "podSecurityContext.seccompProfile.type": "Unconfined",
    "securityContext.allowPrivilegeEscalation": True,
    "securityContext.capabilities.drop": ["NET_RAW"],
    "securityContext.readOnlyRootFilesystem": False,
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.test:3128"}],
    "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca"}],
    "commonLabels": {"team": "a"},
    "podLabels": {"team": "a"},
    "podAnnotations": {"a": "b"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "priorityClassName": "high",
    "policy.images": ["registry.test/proxy"],
    "policy.priorityClassNames": ["high"],
    "policy.serviceAccountNames": ["gateway"],
    "policy.tolerationKeys": ["gpu"],
    "policy.metadataKeys": ["example.com/*"],
    "nameOverride": "other",
    "fullnameOverride": "other",
}
WITH: dict[str, dict[str, Any]] = {
    part: {f"{part}.create": True, **({"lightningStore.image": "store:1"} if part == "lightningStore" else {})}
    for part in ("metrics.serviceMonitor", "metrics.rules", "metrics.dashboards", "lightningStore")
}
"""What must be on, so that the values below it change anything."""
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"imagee": {}}, "imagee"),
    ({"image.pullPolicy": "Sometimes"}, "pullPolicy"),
    ({"image.repository": ""}, "repository"),
    ({"proxyImage.digest": "sha256:0"}, "digest"),
    ({"image.digest": "latest"}, "digest"),
    ({"proxies.user": "root"}, "user"),
    ({"proxies.metricsNamespaces": ["Team"]}, "metricsNamespaces"),
    ({"extraEnv": [{"value": "x"}]}, "name"),
    ({"limitsStore": {"image": ""}}, "image"),
    ({"replicas": 3}, "replicas"),
    ({"replicas": "2"}, "replicas"),
    ({"watchNamespaces": "team-a"}, "watchNamespaces"),
    ({"watchNamespaces": ["Team"]}, "watchNamespaces"),
    ({"watchNamespaces": ["a", "a"]}, "watchNamespaces"),
    ({"logLevel": "LOUD"}, "logLevel"),
    ({"crds.install": "yes"}, "install"),
    ({"resources.claims": []}, "claims"),
    ({"podLabels": {"a": 1}}, "podLabels"),
    ({"metrics.serviceMonitor.interval": "soon"}, "interval"),
    ({"metrics.rules.label": {}}, "label"),
    ({"metrics.service": False, "metrics.serviceMonitor.create": True}, "metrics.service: true"),
    ({"networkPolicy.from": [{"namespace": "a"}]}, "namespace"),
    ({"lightningStore.create": True}, "lightningStore/image"),
]


def leaves(values: Object, path: str = "") -> set[str]:
    found: set[str] = set()
    for name, value in values.items():
        below = isinstance(value, dict) and value
        found |= leaves(value, f"{path}{name}.") if below else {f"{path}{name}"}
    return found


def deployment(objects: list[Object]) -> Object:
    [found] = of_kind(objects, "Deployment")
    return found


def container(objects: list[Object]) -> Object:
    [found] = deployment(objects)["spec"]["template"]["spec"]["containers"]
    made: Object = found
    return made


def environment(objects: list[Object]) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "from the pod") for entry in container(objects)["env"]}


def test_lint_has_nothing_to_say(helm: Helm) -> None:
    done = helm.run("lint", "--strict", str(CHART))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


def test_every_value_is_tried_here() -> None:
    assert leaves(yaml.safe_load((CHART / "values.yaml").read_text())) == set(CHANGES)


@pytest.mark.parametrize("name", CHANGES)
def test_every_value_changes_what_is_rendered(helm: Helm, name: str) -> None:
    before = next((on for part, on in WITH.items() if name.startswith(f"{part}.")), {})
    if name.endswith(".create"):
        before = {key: value for key, value in before.items() if key != name}
    elif name == "lightningStore.image":
        before = {"lightningStore.create": True, "lightningStore.image": "store:1"}

    assert helm.rendered(**{**before, name: CHANGES[name]}) != helm.rendered(**before)


@pytest.mark.parametrize(("values", "named"), REFUSED, ids=[f"{n}-{next(iter(v))}" for n, (v, _) in enumerate(REFUSED)])
def test_a_wrong_value_is_refused_by_name(helm: Helm, values: dict[str, Any], named: str) -> None:
    assert named in helm.refused(**values)


def test_the_crd_is_the_one_of_the_models(helm: Helm) -> None:
    [rendered] = of_kind(helm.rendered(), "CustomResourceDefinition")

    assert rendered["spec"] == crd()["spec"]
    assert rendered["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_the_operator_understands_what_it_is_told(helm: Helm) -> None:
    told = environment(
        helm.rendered(
            **{
                k: v
                for k, v in CHANGES.items()
                if k.startswith(("proxyImage", "proxies", "limitsStore", "watch", "log"))
            }
        )
    )

    understood = settings.from_environment(told)

    digest = "sha256:" + "0" * 64
    assert (understood.proxy_image, understood.proxy_image_pull_policy) == (f"registry.test/proxy@{digest}", "Never")
    assert (understood.pull_secrets, understood.pod_user) == (("pull",), None)
    assert understood.children == ChildOptions(("team",), ("example.com/*",), ("monitoring",))
    assert understood.limits_store_image == "registry.test/valkey:1"
    assert understood.limits_store_resources == {
        "requests": {"cpu": "1", "memory": "64Mi"},
        "limits": {"memory": "256Mi"},
    }
    assert understood.watch_namespaces == ("team-a", "team-b")
    assert (understood.namespace, understood.pod_name) == ("from the pod", "from the pod")
    assert (understood.lease_name, understood.metrics_port) == ("llmproxy-operator", 8080)
    assert understood.log_level == "DEBUG"


def test_the_pod_may_do_nothing_that_it_need_not(helm: Helm) -> None:
    objects = helm.rendered()
    pod = deployment(objects)["spec"]["template"]["spec"]

    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 65532)
    assert container(objects)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def test_secrets_can_neither_be_listed_nor_deleted_and_nothing_is_a_wildcard(helm: Helm) -> None:
    objects = helm.rendered()
    rules = [rule for role in [*of_kind(objects, "ClusterRole"), *of_kind(objects, "Role")] for rule in role["rules"]]
    of_secrets = [set(rule["verbs"]) for rule in rules if "secrets" in rule["resources"]]

    assert of_secrets == [{"get", "create", "patch"}]
    assert not [rule for rule in rules if "*" in {*rule["verbs"], *rule["resources"], *rule["apiGroups"]}]


def test_named_namespaces_need_no_right_beyond_them(helm: Helm) -> None:
    objects = helm.rendered(watchNamespaces=["team-a"], **{"rbac.aggregate": False, "crds.install": False})

    assert of_kind(objects, "ClusterRole") == of_kind(objects, "ClusterRoleBinding") == []
    assert {role["metadata"]["namespace"] for role in of_kind(objects, "Role")} == {"team-a", "llmproxy-system"}


@pytest.mark.parametrize("name", ["llmproxy-operator", "other", "a" * 53])
def test_names_fit_whatever_the_release_is_called(helm: Helm, name: str) -> None:
    done = helm.run("template", name, str(CHART), "--namespace", "n")
    names = [found["metadata"]["name"] for found in yaml.safe_load_all(done.stdout) if found]

    assert done.returncode == 0, done.stderr
    assert max(map(len, names)) <= 63


def test_two_replicas_keep_one_and_one_does_not_hold_its_node(helm: Helm) -> None:
    [kept] = of_kind(helm.rendered(replicas=2), "PodDisruptionBudget")
    pod = deployment(helm.rendered(replicas=2))["spec"]["template"]

    assert kept["spec"]["minAvailable"] == 1
    assert kept["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert pod["spec"]["topologySpreadConstraints"][0]["labelSelector"] == kept["spec"]["selector"]
    assert of_kind(helm.rendered(), "PodDisruptionBudget") == []


def test_what_monitors_the_operator_finds_it(helm: Helm) -> None:
    objects = helm.rendered(**{"metrics.serviceMonitor.create": True})
    [monitor], [policy] = of_kind(objects, "ServiceMonitor"), of_kind(objects, "NetworkPolicy")
    [service] = of_kind(objects, "Service")
    pod = deployment(objects)["spec"]["template"]["metadata"]["labels"]

    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod.items()
    assert policy["spec"]["ingress"] == [{"ports": [{"port": "metrics", "protocol": "TCP"}]}]
    assert container(objects)["ports"][0]["name"] == "metrics"


@pytest.mark.parametrize(
    ("values", "ingress"),
    [
        pytest.param({}, [], id="nobody by default"),
        pytest.param(
            {"networkPolicy.from": [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}]},
            [
                {
                    "ports": [{"port": "metrics", "protocol": "TCP"}],
                    "from": [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}],
                }
            ],
            id="the peers given",
        ),
    ],
)
def test_the_operator_is_closed_to_all_but_who_reads_its_metrics(
    helm: Helm, values: dict[str, Any], ingress: list[Object]
) -> None:
    [policy] = of_kind(helm.rendered(**values), "NetworkPolicy")

    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert policy["spec"]["ingress"] == ingress


def test_the_store_is_a_restricted_pod_that_its_service_finds(helm: Helm) -> None:
    objects = helm.rendered(**{"lightningStore.create": True, "lightningStore.image": "store:1"})
    [store] = [found for found in of_kind(objects, "Deployment") if found["metadata"]["name"].endswith("-store")]
    [service] = [found for found in of_kind(objects, "Service") if found["metadata"]["name"].endswith("-store")]
    pod = store["spec"]["template"]
    [made] = pod["spec"]["containers"]

    assert service["spec"]["selector"] == pod["metadata"]["labels"]
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert made["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not [
        d
        for d in of_kind(objects, "Deployment")
        if d is not store and d["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    ]


def test_an_image_is_named_by_digest_else_by_tag_else_by_the_release(helm: Helm) -> None:
    digest = "sha256:" + "1" * 64

    assert container(helm.rendered())["image"] == "localhost/llmproxy-operator:0.1.0"
    assert container(helm.rendered(**{"image.tag": "2"}))["image"] == "localhost/llmproxy-operator:2"
    pinned = container(helm.rendered(**{"image.tag": "2", "image.digest": digest}))
    assert pinned["image"] == f"localhost/llmproxy-operator@{digest}"


def test_common_labels_are_on_every_object_and_pod(helm: Helm) -> None:
    on = {key: value for part in WITH.values() for key, value in part.items()}
    objects = helm.rendered(**on, replicas=2, commonLabels={"team": "a"})

    assert [item["kind"] for item in objects if item["metadata"]["labels"].get("team") != "a"] == []
    pods = [item["spec"]["template"]["metadata"]["labels"] for item in of_kind(objects, "Deployment")]
    assert [labels["team"] for labels in pods] == ["a", "a"]


def test_on_openshift_no_user_is_named(helm: Helm) -> None:
    objects = helm.rendered(
        **{"podSecurityContext.runAsUser": None, "podSecurityContext.runAsGroup": None, "proxies.user": "auto"}
    )
    context = deployment(objects)["spec"]["template"]["spec"]["securityContext"]

    assert context == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert environment(objects)["OPERATOR_POD_USER"] == "auto"


def test_a_parent_chart_may_switch_it_by_enabled(helm: Helm) -> None:
    assert helm.rendered(enabled=True) == helm.rendered()
