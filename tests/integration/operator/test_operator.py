"""The operator against a real API server and its controllers: what it makes, keeps, repairs and leaves alone."""

import json
import signal
import time

import pytest

from e2e.kube import Kube, Object, eventually
from e2e.proxies import an_llmproxy
from integration.operator.conftest import Operator, an_operator, settled
from llmproxy_operator import names

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

CHILDREN = "deployments,services,configmaps,secrets,horizontalpodautoscalers,poddisruptionbudgets,networkpolicies"
MINE = "app.kubernetes.io/managed-by=llmproxy-operator"


def keyed(name: str, secret: str) -> Object:
    deployment = {
        "model": "hosted_vllm/echo",
        "apiBase": "http://echo:8000/v1",
        "apiKey": {"secretKeyRef": {"name": secret, "key": "api-key"}},
    }
    return an_llmproxy(name, models=[{"name": "echo", "deployments": [deployment]}])


def versions(kube: Kube) -> dict[str, str]:
    """Resource versions of the proxies and their children; a Deployment's moves with its status, so its generation."""
    found = [*kube.list(CHILDREN, MINE), *kube.list("llmproxies")]
    return {f"{o['kind']}/{o['metadata']['name']}": o["metadata"]["resourceVersion"] for o in found}


def children(kube: Kube) -> set[str]:
    return {f"{o['kind']}/{o['metadata']['name']}" for o in kube.list(CHILDREN, MINE)}


def wait_condition(kube: Kube, name: str, kind: str, reason: str, timeout_s: float = 30) -> Object:
    return eventually(
        lambda: kube.condition("llmproxy", name, kind),
        lambda c: (c.get("status"), c.get("reason")) == ("True", reason),
        timeout_s,
        f"{kind}=True {reason}",
    )


def template(kube: Kube, name: str) -> Object:
    found: Object = kube.get("deployment", name)["spec"]["template"]
    return found


def test_a_proxy_gets_its_children_and_a_status(team: Kube, operator: Operator) -> None:
    team.apply(an_llmproxy("five", rateLimits={"rpm": 5}))

    # The namespace's quota allows no pods, which the status says.
    stalled = wait_condition(team, "five", "Stalled", "QuotaExceeded")
    proxy = team.get("llmproxy", "five")
    assert "exceeded quota" in stalled["message"]
    assert proxy["status"]["observedGeneration"] == proxy["metadata"]["generation"]
    assert proxy["status"]["endpoint"] == f"http://five.{team.namespace}.svc:4000"
    assert {c["type"]: c["status"] for c in proxy["status"]["conditions"]} == {
        "Ready": "False",
        "Available": "False",
        "Reconciling": "False",
        "Stalled": "True",
        "Paused": "False",
    }
    made = children(team)
    document = next(name for name in made if name.startswith("ConfigMap/five-config-"))
    assert made == {
        "Deployment/five",
        "Service/five",
        "Service/five-peers",
        "Secret/five-peers",
        "Secret/five-control",
        "ConfigMap/five-endpoint",
        document,
    }
    owners = [o["metadata"]["ownerReferences"][0]["uid"] for o in team.list(CHILDREN, MINE)]
    assert set(owners) == {proxy["metadata"]["uid"]}


def test_what_no_operator_has_seen_says_so_by_the_rules_of_kstatus(team: Kube) -> None:
    team.apply(an_llmproxy("early"))
    team.apply(an_llmproxy("held") | {"metadata": {"name": "held", "annotations": {"llmproxy.dev/paused": "true"}}})

    # Else it would count as done until an operator comes: no condition says anything else.
    assert team.get("llmproxy", "early")["status"] == {"observedGeneration": -1}
    waited = team.run("wait", "llmproxy/early", "--for=condition=Ready", "--timeout=1s", check=False)
    assert "timed out" in waited
    with an_operator(team.namespace, "--no-leader-elect") as operator:
        wait_condition(team, "early", "Stalled", "QuotaExceeded")
        assert team.get("llmproxy", "early")["status"]["observedGeneration"] == 1
        wait_condition(team, "held", "Paused", "Paused")
        settled(lambda: operator.metric("llmproxy_operator_writes_total"))
        reconciles, written = (operator.metric(f"llmproxy_operator_{what}_total") for what in ("reconciles", "writes"))
        team.run("annotate", "llmproxy/held", "example.com/look=again")
        eventually(
            lambda: operator.metric("llmproxy_operator_reconciles_total"),
            lambda n: n > reconciles,
            30,
            "another reconcile",
        )
        settled(lambda: operator.metric("llmproxy_operator_reconciles_total"))
        assert operator.metric("llmproxy_operator_writes_total") == written


def test_nothing_is_left_on_the_object_but_its_status(team: Kube, operator: Operator) -> None:
    team.apply(an_llmproxy("clean"))
    before = team.get("llmproxy", "clean")
    wait_condition(team, "clean", "Stalled", "QuotaExceeded")

    after = team.get("llmproxy", "clean")

    assert after["spec"] == before["spec"]
    assert "finalizers" not in after["metadata"]
    assert after["metadata"]["annotations"] == before["metadata"]["annotations"]
    assert after["metadata"]["generation"] == 1


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({}, id="defaults"),
        pytest.param(
            {
                "rateLimits": {"rpm": 5, "overflow": "Queue", "maxQueueTime": "1m"},
                "resources": {"requests": {"cpu": "0.5", "memory": "1024Mi"}, "limits": {"cpu": 2, "memory": "2048Mi"}},
                "spans": {"store": "http://store:4747", "spool": {"size": "1500M"}},
            },
            id="amounts that the API server spells otherwise",
        ),
        pytest.param(
            {"models": [{"name": "g", "deployments": [{"model": "gemini/gemini-2.0-flash", "apiBase": "http://g:1"}]}]},
            id="a translator",
        ),
        pytest.param({"replicas": 0}, id="no pods"),
        pytest.param({"replicas": 3, "rateLimits": {"rpm": 5}}, id="several that count together"),
        pytest.param(
            {"autoscaling": {"minReplicas": 2, "maxReplicas": 4}, "rateLimits": {"rpm": 5}}, id="an autoscaler"
        ),
    ],
)
def test_a_second_reconcile_writes_nothing(team: Kube, operator: Operator, spec: Object) -> None:
    team.apply(an_llmproxy("settled", **spec))
    eventually(lambda: children(team), lambda c: "Deployment/settled" in c, 30, "children")
    settled(lambda: (operator.metric("llmproxy_operator_writes_total"), versions(team)))
    before, written = versions(team), operator.metric("llmproxy_operator_writes_total")
    reconciles = operator.metric("llmproxy_operator_reconciles_total")

    team.run("label", "llmproxy", "settled", "touched=1")
    eventually(
        lambda: operator.metric("llmproxy_operator_reconciles_total"),
        lambda n: n > reconciles,
        30,
        "one reconcile more",
    )

    settled(lambda: operator.metric("llmproxy_operator_reconciles_total"))
    after = versions(team)
    del before["LLMProxy/settled"], after["LLMProxy/settled"]
    assert after == before
    assert operator.metric("llmproxy_operator_writes_total") == written


def test_a_restarted_operator_writes_nothing(team: Kube) -> None:
    with an_operator(team.namespace, "--no-leader-elect") as first:
        team.apply(an_llmproxy("again"))
        wait_condition(team, "again", "Stalled", "QuotaExceeded")
        settled(lambda: first.metric("llmproxy_operator_writes_total"))
    before = versions(team)

    with an_operator(team.namespace, "--no-leader-elect") as second:
        eventually(lambda: second.metric("llmproxy_operator_reconciles_total"), lambda n: n > 0, 30, "a reconcile")
        settled(lambda: second.metric("llmproxy_operator_reconciles_total"))

        assert second.metric("llmproxy_operator_writes_total") == 0
        assert versions(team) == before


def test_an_edit_of_the_limits_makes_another_document_and_template(team: Kube, operator: Operator) -> None:
    team.apply(an_llmproxy("edited", rateLimits={"rpm": 5}))
    wait_condition(team, "edited", "Stalled", "QuotaExceeded")
    before = template(team, "edited")

    team.patch("llmproxy", "edited", {"spec": {"rateLimits": {"rpm": 6}}})

    after = eventually(lambda: template(team, "edited"), lambda t: t != before, 15, "another template")
    hashes = [t["metadata"]["annotations"][names.ANNOTATION_CONFIG_HASH] for t in (before, after)]
    assert hashes[0] != hashes[1]
    mounted = [t["spec"]["volumes"][0]["configMap"]["name"] for t in (before, after)]
    assert mounted[0] != mounted[1]
    document = json.loads(team.get("configmap", mounted[1])["data"]["config.json"])
    assert document["rate_limits"]["rpm"] == 6
    # The old ReplicaSet may start pods again, and they need the document that they were made for.
    assert team.get("configmap", mounted[0])["immutable"] is True


def test_documents_that_no_pod_can_need_are_deleted(team: Kube, operator: Operator) -> None:
    team.apply(an_llmproxy("many", replicas=0, rateLimits={"rpm": 1}))
    for rpm in range(2, 8):
        team.patch("llmproxy", "many", {"spec": {"rateLimits": {"rpm": rpm}}})
        generation = rpm
        eventually(
            lambda: team.get("llmproxy", "many").get("status", {}).get("observedGeneration"),
            lambda seen, wanted=generation: seen == wanted,  # type: ignore[misc]  # a default binds the loop's value
            15,
            "the edit seen",
        )
        wait_condition(team, "many", "Ready", "ScaledToZero")

    team.run("label", "llmproxy", "many", "touched=1")

    def documents() -> set[str]:
        return {name for name in children(team) if name.startswith("ConfigMap/many-config-")}

    def mounted() -> set[str]:
        sets = team.list("replicasets", names.selector(names.selector_labels("many")))
        volumes = [v for s in sets for v in s["spec"]["template"]["spec"]["volumes"]]
        return {f"ConfigMap/{v['configMap']['name']}" for v in volumes if "configMap" in v}

    found = eventually(documents, lambda d: len(d) <= 5, 30, "old documents gone")
    assert found >= mounted()


def test_a_field_of_ours_that_somebody_changed_or_added_to_is_put_right(team: Kube, operator: Operator) -> None:
    team.apply(an_llmproxy("meddled"))
    wait_condition(team, "meddled", "Stalled", "QuotaExceeded")

    team.patch("service", "meddled", {"spec": {"ports": [{"name": "http", "port": 81, "targetPort": 81}]}})
    team.run("delete", "configmap", "meddled-endpoint")
    team.run("annotate", "service", "meddled", "theirs=1")

    def ports() -> list[int]:
        return [port["port"] for port in team.get("service", "meddled")["spec"]["ports"]]

    eventually(ports, lambda found: 4000 in found, 15, "our port")
    eventually(lambda: children(team), lambda c: "ConfigMap/meddled-endpoint" in c, 15, "the ConfigMap")
    assert team.get("service", "meddled")["metadata"]["annotations"]["theirs"] == "1"


def test_a_part_that_is_not_wanted_any_more_is_taken_out(team: Kube, operator: Operator) -> None:
    team.apply(an_llmproxy("shrinking", spans={"store": "http://store:4747"}))
    wait_condition(team, "shrinking", "Stalled", "QuotaExceeded")
    assert [c["name"] for c in template(team, "shrinking")["spec"]["initContainers"]] == ["shipper"]

    team.run("patch", "llmproxy", "shrinking", "--type=json", "-p", '[{"op": "remove", "path": "/spec/spans"}]')

    after = eventually(
        lambda: template(team, "shrinking")["spec"], lambda s: "initContainers" not in s, 15, "no shipper"
    )
    assert "spool" not in {volume["name"] for volume in after["volumes"]}


def test_a_secret_that_comes_late_is_waited_for_and_found(team: Kube, operator: Operator) -> None:
    team.apply(keyed("waiting", "provider"))
    waiting = wait_condition(team, "waiting", "Reconciling", "SecretNotFound")
    assert "'provider'" in waiting["message"]
    assert children(team) == set()

    team.run("create", "secret", "generic", "provider", "--from-literal=another=x")
    wait_condition(team, "waiting", "Reconciling", "SecretKeyNotFound", 20)
    team.run("patch", "secret", "provider", "-p", '{"stringData": {"api-key": "x"}}')

    eventually(lambda: children(team), lambda c: "Deployment/waiting" in c, 20, "children")


def test_deleting_a_proxy_removes_its_children(team: Kube, operator: Operator) -> None:
    team.apply(an_llmproxy("leaving"))
    wait_condition(team, "leaving", "Stalled", "QuotaExceeded")

    team.run("delete", "llmproxy", "leaving")

    eventually(lambda: children(team), lambda left: not left, 60, "children gone")


def test_a_proxy_made_anew_under_its_old_name_waits_for_the_old_children_to_go(team: Kube, operator: Operator) -> None:
    team.apply(an_llmproxy("phoenix"))
    wait_condition(team, "phoenix", "Stalled", "QuotaExceeded")
    team.run("delete", "llmproxy", "phoenix")

    team.apply(an_llmproxy("phoenix"))

    wait_condition(team, "phoenix", "Stalled", "QuotaExceeded", 60)
    uid = team.get("llmproxy", "phoenix")["metadata"]["uid"]
    assert {o["metadata"]["ownerReferences"][0]["uid"] for o in team.list(CHILDREN, MINE)} == {uid}
    assert "NameConflict" not in operator.process.output


def test_children_without_an_owner_are_adopted(team: Kube, operator: Operator) -> None:
    """As a backup tool leaves them that strips owner references; here the garbage collector does."""
    team.apply(an_llmproxy("restored", replicas=2, rateLimits={"rpm": 5}, access={"namespaces": []}))
    wait_condition(team, "restored", "Stalled", "QuotaExceeded")
    before = {o["metadata"]["name"]: o["metadata"]["uid"] for o in team.list("deployments,services,secrets", MINE)}
    token = team.get("secret", "restored-peers")["data"]["token"]
    team.run("delete", "llmproxy", "restored", "--cascade=orphan")
    orphans = team.list(CHILDREN, MINE)
    assert len(orphans) >= len(before)
    assert not any(o["metadata"].get("ownerReferences") for o in orphans)

    team.apply(an_llmproxy("restored", replicas=2, rateLimits={"rpm": 5}, access={"namespaces": []}))

    wait_condition(team, "restored", "Stalled", "QuotaExceeded", 60)
    uid = team.get("llmproxy", "restored")["metadata"]["uid"]

    def owners() -> set[str]:
        kept = [o for o in team.list(CHILDREN, MINE) if "-config-" not in o["metadata"]["name"]]
        return {o["metadata"].get("ownerReferences", [{"uid": "nobody"}])[0]["uid"] for o in kept}

    eventually(owners, lambda found: found == {uid}, 30, "every child adopted")
    after = {o["metadata"]["name"]: o["metadata"]["uid"] for o in team.list("deployments,services,secrets", MINE)}
    assert after == before  # the very same objects
    assert team.get("secret", "restored-peers")["data"]["token"] == token


def test_what_needs_no_secret_is_applied_while_one_is_missing(team: Kube, operator: Operator) -> None:
    team.run("create", "secret", "generic", "provider", "--from-literal=api-key=x")
    team.apply(keyed("keyed", "provider"))
    wait_condition(team, "keyed", "Stalled", "QuotaExceeded")
    before = template(team, "keyed")
    team.run("delete", "secret", "provider")

    team.run("scale", "llmproxy/keyed", "--replicas=0")

    eventually(lambda: team.get("deployment", "keyed")["spec"]["replicas"], lambda n: n == 0, 15, "no pods wanted")
    assert wait_condition(team, "keyed", "Reconciling", "SecretNotFound")
    assert template(team, "keyed") == before


def test_allowed_labels_are_on_every_child(team: Kube) -> None:
    allowed = {"OPERATOR_INHERITED_LABELS": "team,cost.example.com/*", "OPERATOR_INHERITED_ANNOTATIONS": "*"}
    with an_operator(team.namespace, "--no-leader-elect", env=allowed) as operator:
        proxy = an_llmproxy("labelled", replicas=2, rateLimits={"rpm": 5}, access={"namespaces": []})
        labels = {"team": "rl", "cost.example.com/center": "7", "other": "x"}
        team.apply(proxy | {"metadata": {"name": "labelled", "labels": labels, "annotations": {"owner": "me"}}})
        wait_condition(team, "labelled", "Stalled", "QuotaExceeded")
        settled(lambda: operator.metric("llmproxy_operator_writes_total"))

        for child in team.list(CHILDREN, MINE):
            metadata = child["metadata"]
            assert (metadata["labels"]["team"], metadata["labels"]["cost.example.com/center"]) == ("rl", "7"), metadata
            assert "other" not in metadata["labels"]
            assert metadata["annotations"]["owner"] == "me"
            assert "kubectl.kubernetes.io/last-applied-configuration" not in metadata["annotations"]


def test_of_two_operators_one_works_and_the_other_takes_over(team: Kube) -> None:
    with an_operator(team.namespace) as first:
        first.process.wait_for("lease_acquired")
        with an_operator(team.namespace) as second:
            second.process.wait_for("lease_waiting")
            team.apply(an_llmproxy("shared"))
            wait_condition(team, "shared", "Stalled", "QuotaExceeded")
            assert second.metric("llmproxy_operator_reconciles_total") == 0
            assert second.get("/readyz") == "ok\n"

            first.process.signal(signal.SIGTERM)

            second.process.wait_for("lease_acquired", 10)  # given back, so nobody waits for it to run out
            assert first.process.wait(15) == 0
            eventually(lambda: second.metric("llmproxy_operator_reconciles_total"), lambda n: n > 0, 30, "a reconcile")


def test_an_operator_that_loses_its_lease_ends(team: Kube) -> None:
    with an_operator(team.namespace) as operator:
        operator.process.wait_for("lease_acquired")

        team.patch("lease", "llmproxy-operator", {"spec": {"holderIdentity": "somebody-else"}})

        assert operator.process.wait(20) == 1
        assert "is held by 'somebody-else' now" in operator.process.output


def test_an_operator_killed_at_any_moment_leaves_nothing_that_the_next_cannot_finish(team: Kube) -> None:
    for attempt in range(6):
        with an_operator(team.namespace, "--no-leader-elect") as victim:
            team.apply(*[an_llmproxy(f"many-{attempt}-{i}", rateLimits={"rpm": i + 1}) for i in range(4)])
            # Between the first object and the last: somewhere else in each attempt.
            deadline = time.monotonic() + 10
            while victim.log_count("object_created") < 2 + attempt * 3 and time.monotonic() < deadline:
                time.sleep(0.002)
            victim.process.signal(signal.SIGKILL)

    with an_operator(team.namespace, "--no-leader-elect"):
        wanted = [f"many-{attempt}-{i}" for attempt in range(6) for i in range(4)]
        for name in wanted:
            wait_condition(team, name, "Stalled", "QuotaExceeded", 60)
        made = children(team)

    assert len(made) == 7 * len(wanted)


def test_who_may_call_is_a_policy_that_goes_when_it_is_switched_off(team: Kube, operator: Operator) -> None:
    team.apply(an_llmproxy("guarded", access={"namespaces": ["agents"]}))
    policy = eventually(lambda: team.list("networkpolicies", MINE), lambda found: len(found) == 1, 30, "a policy")[0]
    assert policy["spec"]["ingress"][0]["from"][1]["namespaceSelector"]["matchExpressions"][0]["values"] == ["agents"]
    settled(lambda: operator.metric("llmproxy_operator_writes_total"))
    version = policy["metadata"]["resourceVersion"]

    team.run("label", "llmproxy", "guarded", "touched=1")
    settled(lambda: operator.metric("llmproxy_operator_reconciles_total"))
    assert team.get("networkpolicy", "guarded")["metadata"]["resourceVersion"] == version
    team.patch("networkpolicy", "guarded", {"spec": {"ingress": []}})
    eventually(
        lambda: team.get("networkpolicy", "guarded")["spec"], lambda spec: spec == policy["spec"], 15, "repaired"
    )

    team.patch("llmproxy", "guarded", {"spec": {"access": {"egress": [{"cidr": "10.0.0.0/8"}]}}})
    both = eventually(
        lambda: team.get("networkpolicy", "guarded")["spec"], lambda spec: "egress" in spec, 15, "egress too"
    )
    assert (both["ingress"], both["policyTypes"]) == (policy["spec"]["ingress"], ["Ingress", "Egress"])
    assert both["egress"][-1] == {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}
    team.patch("llmproxy", "guarded", {"spec": {"access": {"egress": None}}})
    eventually(
        lambda: team.get("networkpolicy", "guarded")["spec"],
        lambda spec: spec == policy["spec"],
        15,
        "no egress policy",
    )

    team.patch("llmproxy", "guarded", {"spec": {"access": None}})
    eventually(lambda: team.list("networkpolicies", MINE), lambda found: found == [], 15, "no policy")


def test_a_cluster_without_the_prometheus_operator_is_told_of_after_all_else(team: Kube, operator: Operator) -> None:
    team.apply(an_llmproxy("watched", replicas=0, monitoring={"podMonitor": True}))

    wait_condition(team, "watched", "Stalled", "PodMonitorUnavailable")
    assert "Deployment/watched" in children(team)

    team.patch("llmproxy", "watched", {"spec": {"monitoring": {"podMonitor": False}}})
    wait_condition(team, "watched", "Ready", "ScaledToZero")


def test_what_is_taken_out_of_the_pod_is_gone(team: Kube, operator: Operator) -> None:
    pod: Object = {
        "labels": {"team": "a"},
        "nodeSelector": {"a": "b", "c": "d"},
        "tolerations": [{"operator": "Exists"}, {"key": "a", "effect": "NoExecute", "tolerationSeconds": 5}],
        "serviceAccountName": "trainer",
        "imagePullSecrets": [{"name": "one"}, {"name": "two"}],
    }
    team.apply(an_llmproxy("placed", replicas=0, pod=pod))
    wait_condition(team, "placed", "Ready", "ScaledToZero")
    placed = template(team, "placed")["spec"]
    assert {key: placed[key] for key in pod if key != "labels"} == {k: v for k, v in pod.items() if k != "labels"}

    team.patch(
        "llmproxy", "placed", {"spec": {"pod": {"nodeSelector": {"c": None}, "imagePullSecrets": [{"name": "two"}]}}}
    )
    eventually(lambda: template(team, "placed")["spec"]["nodeSelector"], lambda now: now == {"a": "b"}, 15, "one label")
    assert template(team, "placed")["spec"]["imagePullSecrets"] == [{"name": "two"}]

    team.patch("llmproxy", "placed", {"spec": {"pod": None}})
    after = eventually(lambda: template(team, "placed"), lambda t: "tolerations" not in t["spec"], 15, "a plain pod")
    assert after["spec"]["serviceAccountName"] == "default"
    assert not {"nodeSelector", "imagePullSecrets"} & set(after["spec"])
    assert "team" not in after["metadata"]["labels"]


def test_a_pause_holds_an_edit_back(team: Kube, operator: Operator) -> None:
    team.apply(an_llmproxy("held", replicas=0, rateLimits={"rpm": 5}))
    wait_condition(team, "held", "Ready", "ScaledToZero")
    before = template(team, "held")
    team.run("annotate", "llmproxy", "held", "llmproxy.dev/paused=true")
    wait_condition(team, "held", "Paused", "Paused")

    team.patch("llmproxy", "held", {"spec": {"rateLimits": {"rpm": 6}}})
    settled(lambda: operator.metric("llmproxy_operator_reconciles_total"))
    held = team.get("llmproxy", "held")
    assert template(team, "held") == before
    assert held["status"]["observedGeneration"] == held["metadata"]["generation"] - 1

    team.run("annotate", "llmproxy", "held", "llmproxy.dev/paused-")
    eventually(lambda: template(team, "held"), lambda t: t != before, 15, "the edit applied")


def test_an_upgrade_of_the_operator_alone_rolls_nothing(team: Kube) -> None:
    with an_operator(team.namespace, "--no-leader-elect"):
        team.apply(an_llmproxy("pinned", replicas=0, rateLimits={"rpm": 5}))
        wait_condition(team, "pinned", "Ready", "ScaledToZero")
    before, unchanged = template(team, "pinned"), versions(team)

    newer = {"OPERATOR_PROXY_IMAGE": "localhost/llmproxy-of-tests:2"}
    with an_operator(team.namespace, "--no-leader-elect", env=newer) as operator:
        eventually(lambda: operator.metric("llmproxy_operator_reconciles_total"), lambda n: n > 0, 30, "a reconcile")
        settled(lambda: operator.metric("llmproxy_operator_reconciles_total"))
        assert operator.metric("llmproxy_operator_writes_total") == 0
        assert (template(team, "pinned"), versions(team)) == (before, unchanged)

        team.patch("llmproxy", "pinned", {"spec": {"rateLimits": {"rpm": 6}}})
        after = eventually(lambda: template(team, "pinned"), lambda t: t != before, 15, "another template")
        assert after["spec"]["containers"][0]["image"] == "localhost/llmproxy-of-tests:2"
        eventually(lambda: team.list("controllerrevisions", MINE), lambda found: len(found) == 1, 15, "one revision")
