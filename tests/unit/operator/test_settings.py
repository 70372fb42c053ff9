"""Settings of an installation that reach pods and children."""

import pytest

from fakes.reconciling import a_proxy
from llmproxy_api import parse
from llmproxy_operator.render import Inputs, digested, revision
from llmproxy_operator.settings import SettingsError, from_environment

ENVIRONMENT = {"OPERATOR_PROXY_IMAGE": "img:1"}


def test_user_and_groups_are_ours_unless_the_cluster_gives_them() -> None:
    assert from_environment(ENVIRONMENT).pod_user == 65532
    assert from_environment({**ENVIRONMENT, "OPERATOR_POD_USER": "1000"}).pod_user == 1000
    assert from_environment({**ENVIRONMENT, "OPERATOR_POD_USER": "auto"}).pod_user is None


@pytest.mark.parametrize("value", ["0", "root", "-1", "2147483648"])
def test_a_user_that_pods_may_not_have_is_refused(value: str) -> None:
    with pytest.raises(SettingsError, match="OPERATOR_POD_USER must be auto or a number"):
        from_environment({**ENVIRONMENT, "OPERATOR_POD_USER": value})


@pytest.mark.parametrize("user", [None, 1000])
def test_every_pod_has_the_user_of_the_installation(user: int | None) -> None:
    proxy = parse(a_proxy(replicas=2, rateLimits={"rpm": 5}, spans={"store": "http://store:4747"}))
    made = revision(proxy, Inputs("img:1", dict.fromkeys(digested(proxy), "d"), pod_user=user, pull_secrets=("pull",)))

    assert made.store is not None
    for pod in (made.template["spec"], made.store["spec"]):
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert [context.get(key) for key in ("runAsUser", "runAsGroup", "fsGroup")] == [user] * 3
        assert pod["imagePullSecrets"] == [{"name": "pull"}]
    modes = {item["secret"]["defaultMode"] for item in made.template["spec"]["volumes"] if "secret" in item}
    assert modes == {0o444 if user is None else 0o440}  # without an fsGroup of ours the files may be root's alone


def test_a_pull_secret_of_the_resource_comes_first_and_none_stands_twice() -> None:
    proxy = parse(a_proxy(pod={"imagePullSecrets": [{"name": "own"}, {"name": "pull"}]}))
    made = revision(proxy, Inputs("img:1", {}, pull_secrets=("pull", "more")))

    assert made.template["spec"]["imagePullSecrets"] == [{"name": "own"}, {"name": "pull"}, {"name": "more"}]


def test_allow_lists_for_children_are_read() -> None:
    children = from_environment(
        {
            **ENVIRONMENT,
            "OPERATOR_INHERITED_LABELS": "team, cost.example.com/*",
            "OPERATOR_INHERITED_ANNOTATIONS": "owner",
            "OPERATOR_METRICS_NAMESPACES": "monitoring",
        }
    ).children

    assert children.inherited_labels == ("team", "cost.example.com/*")
    assert (children.inherited_annotations, children.metrics_namespaces) == (("owner",), ("monitoring",))


def test_a_limits_store_has_the_resources_of_the_installation() -> None:
    amounts = '{"requests": {"cpu": 1}, "limits": {"cpu": "2000m", "memory": "1024Mi"}}'
    settings = from_environment({**ENVIRONMENT, "OPERATOR_LIMITS_STORE_RESOURCES": amounts})
    proxy = parse(a_proxy(replicas=2, rateLimits={"rpm": 5}))
    inputs = Inputs("img:1", dict.fromkeys(digested(proxy), "d"), store_resources=settings.limits_store_resources)
    store = revision(proxy, inputs).store

    assert store is not None
    [container] = store["spec"]["containers"]
    # As the API server stores them, so that a second reconcile finds no difference.
    assert container["resources"] == {"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "1Gi"}}


@pytest.mark.parametrize("text", ["{", "[]", '{"limits": {"cpu": "much"}}', '{"limits": "1"}'])
def test_resources_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="OPERATOR_LIMITS_STORE_RESOURCES must be requests and limits in JSON"):
        from_environment({**ENVIRONMENT, "OPERATOR_LIMITS_STORE_RESOURCES": text})
