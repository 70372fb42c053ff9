"""Allow-lists of the operator's settings, and the message for a proxy that asks for more."""

from typing import Any

import pytest

from fakes.cluster import FakeCluster
from fakes.reconciling import PROXY, Operator, a_proxy, serve
from llmproxy_api import parse
from llmproxy_operator.conditions import condition
from llmproxy_operator.policy import Policy
from llmproxy_operator.settings import from_environment

OWN = "registry.example:5000/team/llmproxy:0.1.0"


def refused(policy: Policy, **spec: Any) -> list[str]:
    return [problem.path for problem in policy.problems(parse(a_proxy(**spec)))]


@pytest.mark.parametrize(
    ("image", "allowed"),
    [
        ("registry.example:5000/team/llmproxy:0.2.0", True),
        ("registry.example:5000/team/llmproxy", True),
        ("registry.example:5000/team/llmproxy@sha256:0", True),
        ("registry.example:5000/team/llmproxy-evil:1", False),
        ("registry.example:5000/team/llmproxy/evil", False),
        ("evil.example/team/llmproxy:0.1.0", False),
    ],
)
def test_without_a_list_any_tag_of_the_operators_own_repository_is_allowed(image: str, *, allowed: bool) -> None:
    assert refused(Policy(OWN), image=image) == ([] if allowed else ["spec.image"])


def test_a_tag_is_no_port_of_a_registry() -> None:
    assert refused(Policy("llmproxy:0.1.0"), image="llmproxy:0.2.0") == []
    assert refused(Policy("llmproxy:0.1.0"), image="llmproxy:5000/evil:1") == ["spec.image"]


def test_a_list_of_images_allows_what_it_names_and_the_operators_own() -> None:
    policy = Policy(OWN, images=("mirror.example/*",))

    assert refused(policy, image="mirror.example/llmproxy:1") == []
    assert refused(policy, image=OWN) == []
    assert refused(policy, image="registry.example:5000/team/llmproxy:9") == ["spec.image"]


def test_each_part_of_the_pod_has_a_list() -> None:
    tolerations = [{"key": "gpu"}, {"key": "control-plane"}, {"operator": "Exists"}]
    pod = {"priorityClassName": "high", "serviceAccountName": "admin", "tolerations": tolerations}
    narrow = Policy(OWN, priority_classes=("low",), service_accounts=("trainer-*",), toleration_keys=("gpu",))

    assert refused(Policy(OWN), pod=pod) == []
    assert refused(narrow, pod=pod) == [
        "spec.pod.priorityClassName",
        "spec.pod.serviceAccountName",
        "spec.pod.tolerations[1].key",
        "spec.pod.tolerations[2].key",
    ]


@pytest.mark.parametrize("field", ["labels", "annotations"])
@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("team", True),
        ("prometheus.io/scrape", True),
        ("cluster-autoscaler.kubernetes.io/safe-to-evict", True),
        ("karpenter.sh/do-not-disrupt", True),
        ("karpenter.sh/nodepool", False),
        ("sidecar.istio.io/userVolume", False),
        ("sidecar.istio.io/proxyImage", False),
        ("vault.hashicorp.com/agent-inject", False),
        ("k8s.v1.cni.cncf.io/networks", False),
        ("evil.prometheus.io/scrape", False),
        ("example.com/team", False),
    ],
)
def test_a_key_of_a_foreign_domain_may_be_an_order_and_needs_to_be_allowed(
    field: str, key: str, *, allowed: bool
) -> None:
    pod = {field: {key: "x"}}

    assert refused(Policy(OWN), pod=pod) == ([] if allowed else [f"spec.pod.{field}"])
    assert refused(Policy(OWN, metadata_keys=(key,)), pod=pod) == []
    assert refused(Policy(OWN, metadata_keys=("*",)), pod=pod) == []
    assert refused(Policy(OWN, metadata_keys=("other.example/*",)), pod=pod) == (
        [] if key == "team" else [f"spec.pod.{field}"]
    )


def test_a_refused_key_is_named_with_what_is_allowed() -> None:
    [problem] = Policy(OWN).problems(parse(a_proxy(pod={"annotations": {"sidecar.istio.io/inject": "true"}})))

    assert problem.message == (
        "'sidecar.istio.io/inject' is not allowed by the operator's settings, which allow keys without a domain, "
        "cluster-autoscaler.kubernetes.io/*, karpenter.sh/do-not-disrupt, prometheus.io/*: ask the cluster's "
        "administrator"
    )


def test_the_lists_come_from_the_environment() -> None:
    settings = from_environment(
        {
            "OPERATOR_PROXY_IMAGE": OWN,
            "OPERATOR_ALLOWED_IMAGES": "a/*, b/c:1",
            "OPERATOR_ALLOWED_PRIORITY_CLASSES": "low",
            "OPERATOR_ALLOWED_SERVICE_ACCOUNTS": "trainer",
            "OPERATOR_ALLOWED_TOLERATIONS": "gpu spot",
            "OPERATOR_ALLOWED_METADATA_KEYS": "example.com/*",
        }
    )

    narrow = Policy(OWN, ("a/*", "b/c:1"), ("low",), ("trainer",), ("gpu", "spot"), ("example.com/*",))
    assert settings.policy == narrow
    assert from_environment({"OPERATOR_PROXY_IMAGE": OWN}).policy == Policy(OWN)


async def test_what_is_not_allowed_is_reported_and_what_runs_stays() -> None:
    cluster = FakeCluster()
    operator = Operator(cluster, OWN)
    cluster.put(a_proxy())
    await operator.reconcile()
    serve(cluster)
    before = cluster.one("Deployment", "p")["spec"]

    cluster.put(a_proxy(image="evil.example/miner:1"))
    await operator.reconcile()

    assert operator.condition("Stalled") == ("True", "NotAllowed")
    assert "spec.image" in condition(cluster.objects[PROXY]["status"], "Stalled")["message"]
    assert operator.condition("Available")[0] == "True"
    assert cluster.one("Deployment", "p")["spec"] == before

    cluster.put(a_proxy())
    await operator.reconcile()
    assert operator.condition("Ready") == ("True", "AllReplicasReady")
