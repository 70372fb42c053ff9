"""Reconciles of one proxy on a cluster in memory: its children and status, whatever happened before."""

import base64
import logging
import math
from typing import Any

import pytest

from fakes.cluster import FakeCluster
from fakes.reconciling import KEY, PROXY, Operator, a_proxy, a_secret, serve
from llmproxy_operator import names
from llmproxy_operator.cluster import ApplyResult
from llmproxy_operator.conditions import condition
from llmproxy_operator.errors import RefusedError, UnavailableError
from llmproxy_operator.manifest import Ref

Manifest = dict[str, Any]
CHILDREN = [
    "ConfigMap/p-endpoint",
    "Deployment/p",
    "Secret/p-control",
    "Secret/p-peers",
    "Service/p",
    "Service/p-peers",
]
NO_CHANGE: Manifest = {}


def documents(cluster: FakeCluster) -> list[str]:
    return [name for name in cluster.kinds() if name.startswith("ConfigMap/p-config-")]


async def test_a_proxy_gets_its_children_and_is_ready_when_its_pod_is(cluster: FakeCluster, operator: Operator) -> None:
    cluster.put(a_proxy(rateLimits={"rpm": 5}))

    await operator.reconcile()
    assert sorted({*cluster.kinds()} & {*CHILDREN}) == CHILDREN
    assert len(documents(cluster)) == 1
    assert operator.condition("Reconciling") == ("True", "RollingOut")

    serve(cluster)
    again_s = await operator.reconcile()
    assert operator.condition("Ready") == ("True", "AllReplicasReady")
    assert operator.condition("Available") == ("True", "MinimumReplicasAvailable")
    assert cluster.objects[PROXY]["status"]["limits"] == {"mode": "Local", "rpm": 5}
    assert again_s == math.inf


async def test_a_second_reconcile_writes_nothing(cluster: FakeCluster, operator: Operator) -> None:
    cluster.put(a_proxy(spans={"store": "http://store:4747"}))
    await operator.reconcile()
    serve(cluster)
    await operator.reconcile()
    before = cluster.writes.copy()

    operator.now_s += 10_000
    await operator.reconcile()
    await Operator(cluster).reconcile()  # one that remembers nothing

    assert cluster.writes == before


async def test_the_first_write_is_a_status_that_says_it_was_seen(cluster: FakeCluster, operator: Operator) -> None:
    cluster.put(a_proxy())
    cluster.fail_after = 1

    with pytest.raises(UnavailableError):
        await operator.reconcile()

    assert operator.condition("Ready") == ("Unknown", "Created")
    assert operator.condition("Reconciling") == ("True", "Created")


async def test_where_the_api_server_says_that_nobody_has_seen_it_one_status_is_enough(
    cluster: FakeCluster, operator: Operator
) -> None:
    cluster.put(a_proxy())
    cluster.objects[PROXY]["status"] = {"observedGeneration": -1}

    await operator.reconcile()

    assert cluster.writes["apply_status LLMProxy"] == 1
    assert cluster.objects[PROXY]["status"]["observedGeneration"] == 1
    assert operator.condition("Reconciling") == ("True", "RollingOut")


@pytest.mark.parametrize("writes", range(10))
async def test_a_reconcile_that_is_killed_anywhere_is_finished_by_the_next(cluster: FakeCluster, writes: int) -> None:
    cluster.put(a_proxy())
    cluster.fail_after = writes
    try:
        await Operator(cluster).reconcile()
    except UnavailableError:
        cluster.fail_after = None

    cluster.fail_after = None
    operator = Operator(cluster)
    await operator.reconcile()

    assert sorted({*cluster.kinds()} & {*CHILDREN}) == CHILDREN
    tokens = [cluster.one("Secret", name)["data"]["token"] for name in ("p-peers", "p-control")]
    await operator.reconcile()
    assert [cluster.one("Secret", name)["data"]["token"] for name in ("p-peers", "p-control")] == tokens
    assert all(tokens)


async def test_an_edit_makes_a_new_document_and_keeps_the_old_while_a_replicaset_has_it(
    cluster: FakeCluster, operator: Operator
) -> None:
    cluster.put(a_proxy(rateLimits={"rpm": 5}))
    await operator.reconcile()
    serve(cluster)
    deployment = cluster.one("Deployment", "p")
    [old] = documents(cluster)
    old_set = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": "p-1", "namespace": "n", "labels": names.labels("p", names.GATEWAY)},
        "spec": {"template": deployment["spec"]["template"]},
    }
    cluster.put(old_set, "kube-controller-manager")

    cluster.put(a_proxy(rateLimits={"rpm": 6}))
    await operator.reconcile()
    assert len(documents(cluster)) == 2
    assert old in documents(cluster)

    serve(cluster)
    cluster.remove(Ref("apps/v1", "ReplicaSet", "n", "p-1"))
    await operator.reconcile()
    assert len(documents(cluster)) == 1
    assert old not in documents(cluster)


async def test_an_object_of_ours_that_is_not_wanted_any_more_is_deleted(
    cluster: FakeCluster, operator: Operator
) -> None:
    cluster.put(a_proxy())
    await operator.reconcile()
    uid = cluster.objects[PROXY]["metadata"]["uid"]
    extra = cluster.one("Service", "p")
    for name, owner in (("p-extra", uid), ("p-theirs", "another")):
        owners = [{**extra["metadata"]["ownerReferences"][0], "uid": owner}]
        labels = extra["metadata"]["labels"]
        metadata = {"name": name, "namespace": "n", "labels": labels, "ownerReferences": owners}
        cluster.put({**extra, "metadata": metadata}, names.FIELD_MANAGER)

    serve(cluster)
    await operator.reconcile()

    assert "Service/p-extra" not in cluster.kinds()
    assert "Service/p-theirs" in cluster.kinds()


async def test_what_somebody_changed_in_an_object_of_ours_is_put_right(
    cluster: FakeCluster, operator: Operator
) -> None:
    cluster.put(a_proxy())
    await operator.reconcile()
    cluster.one("Service", "p")["spec"]["ports"][0]["targetPort"] = 81

    await operator.reconcile()

    assert cluster.one("Service", "p")["spec"]["ports"][0]["targetPort"] == "http"


@pytest.mark.parametrize(("kind", "name"), [tuple(child.split("/")) for child in CHILDREN])
async def test_an_object_of_somebody_else_stops_everything_and_is_not_touched(
    cluster: FakeCluster, operator: Operator, kind: str, name: str
) -> None:
    version = "apps/v1" if kind == "Deployment" else "v1"
    foreign = {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "n"}, "spec": {"x": 1}}
    before = cluster.put(foreign)
    cluster.put(a_proxy())

    again_s = await operator.reconcile()

    assert operator.condition("Stalled") == ("True", "NameConflict")
    assert f"{kind} n/{name}" in condition(cluster.objects[PROXY]["status"], "Stalled")["message"]
    assert cluster.one(kind, name) == before
    assert operator.children() == [f"{kind}/{name}", "LLMProxy/p"] if kind < "L" else True
    assert again_s is not None
    assert again_s <= 60

    cluster.remove(Ref(version, kind, "n", name))
    await operator.reconcile()
    assert operator.condition("Stalled") == ("False", "NotStalled")


async def test_an_object_that_somebody_makes_while_we_look_is_given_back(operator: Operator) -> None:
    class Race(FakeCluster):
        async def get(self, target: Ref, *, allow_stale: bool = False) -> Manifest | None:
            found = await super().get(target)
            if target.kind == "Service" and target.name == "p" and found is None:
                spec = {"selector": {"app": "theirs"}}
                metadata = {"name": "p", "namespace": "n"}
                self.put({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
                return None
            return found

    cluster = Race()
    cluster.put(a_proxy())
    racing = Operator(cluster)

    with pytest.raises(UnavailableError):
        await racing.reconcile()
    theirs = cluster.one("Service", "p")
    assert theirs["spec"] == {"selector": {"app": "theirs"}}
    assert "ownerReferences" not in theirs["metadata"]

    await racing.reconcile()
    assert racing.condition("Stalled") == ("True", "NameConflict")


async def test_children_of_a_deleted_proxy_of_this_name_are_waited_for(
    cluster: FakeCluster, operator: Operator
) -> None:
    cluster.put(a_proxy())
    await operator.reconcile()
    old = cluster.objects.pop(PROXY)  # the garbage collector has not come yet
    cluster.put(a_proxy())

    again_s = await operator.reconcile()

    assert operator.condition("Reconciling") == ("True", "WaitingForDeletion")
    assert operator.condition("Stalled")[0] == "False"
    assert again_s == 1.0
    for item in list(cluster.objects.values()):
        if (item["metadata"].get("ownerReferences") or [{}])[0].get("uid") == old["metadata"]["uid"]:
            cluster.remove(Ref(item["apiVersion"], item["kind"], "n", item["metadata"]["name"]))
    await operator.reconcile()
    assert operator.condition("Reconciling") == ("True", "RollingOut")


async def test_a_missing_secret_rolls_nothing_and_stalls_after_a_minute(
    cluster: FakeCluster, operator: Operator
) -> None:
    cluster.put(a_secret("first"))
    cluster.put(a_proxy("provider"))
    await operator.reconcile()
    serve(cluster)
    await operator.reconcile()
    before = cluster.one("Deployment", "p")["spec"]
    cluster.remove(Ref("v1", "Secret", "n", "provider"))

    again_s = await operator.reconcile()
    assert operator.condition("Reconciling") == ("True", "SecretNotFound")
    assert operator.condition("Available")[0] == "True"
    assert again_s == 60.0

    operator.now_s += 60
    await operator.reconcile()
    assert operator.condition("Stalled") == ("True", "SecretNotFound")
    assert cluster.one("Deployment", "p")["spec"] == before
    # A restart of the operator does not begin the minute anew.
    restarted = Operator(cluster)
    await restarted.reconcile()
    assert restarted.condition("Stalled") == ("True", "SecretNotFound")

    cluster.put(a_secret("first"))
    await restarted.reconcile()
    assert restarted.condition("Ready") == ("True", "AllReplicasReady")
    assert cluster.one("Deployment", "p")["spec"] == before


async def test_a_missing_key_is_named(cluster: FakeCluster, operator: Operator) -> None:
    cluster.put(a_secret("x", key="another"))
    cluster.put(a_proxy("provider"))

    await operator.reconcile()

    assert operator.condition("Reconciling") == ("True", "SecretKeyNotFound")
    message = condition(cluster.objects[PROXY]["status"], "Ready")["message"]
    assert "'provider'" in message
    assert "'api-key'" in message


async def test_another_content_makes_another_template_without_the_content(
    cluster: FakeCluster, operator: Operator
) -> None:
    cluster.put(a_secret("planted-first"))
    cluster.put(a_proxy("provider"))
    await operator.reconcile()
    before = cluster.one("Deployment", "p")["spec"]["template"]["metadata"]["annotations"]

    cluster.put(a_secret("planted-second"))
    await operator.reconcile()

    after = cluster.one("Deployment", "p")["spec"]["template"]["metadata"]["annotations"]
    assert after != before
    seen = [item for item in cluster.objects.values() if item["kind"] != "Secret"]
    assert "planted" not in repr(seen)
    assert base64.b64encode(b"planted-second").decode() not in repr(seen)


async def test_a_secret_that_cannot_be_read_fails_the_reconcile_and_rolls_nothing(
    cluster: FakeCluster, operator: Operator
) -> None:
    cluster.put(a_secret("first"))
    cluster.put(a_proxy("provider"))
    await operator.reconcile()
    before = cluster.one("Deployment", "p")
    cluster.failures[Ref("v1", "Secret", "n", "provider")] = UnavailableError("timeout")

    with pytest.raises(UnavailableError):
        await operator.reconcile()

    assert cluster.one("Deployment", "p") == before


async def test_a_secret_that_may_not_be_read_is_reported(cluster: FakeCluster, operator: Operator) -> None:
    cluster.put(a_proxy("provider"))
    cluster.failures[Ref("v1", "Secret", "n", "provider")] = RefusedError("secrets is forbidden", status=403)

    again_s = await operator.reconcile()

    assert operator.condition("Stalled") == ("True", "ObjectRefused")
    assert again_s is not None
    assert again_s <= 60


async def test_secrets_are_watched_from_one_reconcile_to_the_next(cluster: FakeCluster, operator: Operator) -> None:
    cluster.put(a_secret("first"))
    cluster.put(a_proxy("provider"))
    await operator.reconcile()

    operator.now_s += 31
    await operator.secrets.poll()
    assert operator.woken == []
    cluster.put(a_secret("second"))
    operator.now_s += 31
    await operator.secrets.poll()
    assert operator.woken == [KEY]

    await operator.reconcile()
    operator.woken.clear()
    cluster.remove(Ref("v1", "Secret", "n", "p-peers"))  # the peers' own is followed too
    operator.now_s += 121
    await operator.secrets.poll()
    assert operator.woken == [KEY]

    cluster.remove(PROXY)
    await operator.reconcile()
    operator.woken.clear()
    cluster.remove(Ref("v1", "Secret", "n", "provider"))
    operator.now_s += 31
    await operator.secrets.poll()
    assert operator.woken == []


async def test_a_missing_secret_is_asked_for_every_few_seconds(cluster: FakeCluster, operator: Operator) -> None:
    cluster.put(a_proxy("provider"))
    await operator.reconcile()
    cluster.put(a_secret("late"))

    operator.now_s += 3
    await operator.secrets.poll()

    assert operator.woken == [KEY]


async def test_a_spec_that_the_operator_cannot_use_is_reported_and_what_runs_stays(
    cluster: FakeCluster, operator: Operator
) -> None:
    cluster.put(a_proxy())
    await operator.reconcile()
    serve(cluster)
    await operator.reconcile()
    before = [name for name in cluster.kinds() if not name.startswith("Event")]
    cluster.objects[PROXY]["spec"]["from_a_newer_release"] = True

    await operator.reconcile()

    assert operator.condition("Stalled") == ("True", "InvalidSpec")
    assert operator.condition("Available")[0] == "True"
    assert "from_a_newer_release" in condition(cluster.objects[PROXY]["status"], "Stalled")["message"]
    assert [name for name in cluster.kinds() if not name.startswith("Event")] == before


@pytest.mark.parametrize(
    ("words", "reason"), [("exceeded quota: q", "QuotaExceeded"), ("spec.x: Invalid value", "ObjectRefused")]
)
async def test_an_object_that_the_api_server_refuses_is_reported(
    cluster: FakeCluster, operator: Operator, words: str, reason: str
) -> None:
    class Refusing(FakeCluster):
        async def apply(self, manifest: Manifest, *, force: bool, manager: str = "llmproxy-operator") -> Any:
            if manifest["kind"] == "Deployment":
                raise RefusedError(words, status=403)
            return await super().apply(manifest, force=force, manager=manager)

    refusing = Refusing()
    refusing.put(a_proxy())
    stopped = Operator(refusing)

    await stopped.reconcile()

    assert stopped.condition("Stalled") == ("True", reason)


async def test_no_pods_wanted_is_a_state_of_its_own(cluster: FakeCluster, operator: Operator) -> None:
    cluster.put(a_proxy(replicas=0))
    await operator.reconcile()
    serve(cluster)

    await operator.reconcile()

    assert operator.condition("Ready") == ("True", "ScaledToZero")
    assert operator.condition("Available") == ("False", "ScaledToZero")


async def test_a_proxy_that_is_gone_or_going_is_left_alone(cluster: FakeCluster, operator: Operator) -> None:
    assert await operator.reconcile() is None
    cluster.put(a_proxy())
    cluster.objects[PROXY]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"

    assert await operator.reconcile() is None
    assert cluster.kinds() == ["LLMProxy/p"]


async def test_the_spec_is_never_written(cluster: FakeCluster, operator: Operator) -> None:
    before = cluster.put(a_proxy())
    await operator.reconcile()
    serve(cluster)
    await operator.reconcile()

    after = cluster.objects[PROXY]
    assert {k: v for k, v in after.items() if k not in {"status", "metadata"}} == {
        k: v for k, v in before.items() if k != "metadata"
    }
    assert "apply LLMProxy" not in cluster.writes


OPEN = {"apiKeys": {"secretRef": {"name": "trainers"}}}


async def test_keys_of_callers_are_waited_for_and_another_set_of_them_rolls_nothing(
    cluster: FakeCluster, operator: Operator
) -> None:
    cluster.put(a_proxy(access=OPEN))
    await operator.reconcile()
    operator.now_s += 61
    await operator.reconcile()
    assert operator.condition("Stalled") == ("True", "SecretNotFound")
    assert "'trainers'" in condition(cluster.objects[PROXY]["status"], "Stalled")["message"]

    cluster.put(a_secret(" ", "alice", "trainers"))
    await operator.reconcile()
    assert operator.condition("Reconciling") == ("True", "SecretKeyNotFound")

    cluster.put(a_secret("first", "alice", "trainers"))
    await operator.reconcile()
    serve(cluster)
    await operator.reconcile()
    assert operator.condition("Ready") == ("True", "AllReplicasReady")
    before = cluster.one("Deployment", "p")["spec"]
    [document] = documents(cluster)

    cluster.put(a_secret("second", "bob", "trainers"))
    await operator.reconcile()
    assert cluster.one("Deployment", "p")["spec"] == before
    assert documents(cluster) == [document]
    assert "first" not in str(cluster.one("Deployment", "p"))


async def test_an_access_that_only_says_from_where_is_nothing_to_the_pods(
    cluster: FakeCluster, operator: Operator
) -> None:
    cluster.put(a_proxy())
    await operator.reconcile()
    before = cluster.one("Deployment", "p")["spec"]["template"]
    cluster.put(a_proxy(access={"namespaces": ["agents"]}))
    await operator.reconcile()
    assert cluster.one("Deployment", "p")["spec"]["template"] == before

    cluster.put(a_secret("first", "alice", "trainers"))
    cluster.put(a_proxy(access=OPEN))
    await operator.reconcile()
    pod = cluster.one("Deployment", "p")["spec"]["template"]["spec"]
    assert {"name": "keys", "secret": {"secretName": "trainers", "defaultMode": 0o440}} in pod["volumes"]
    assert "--keys-dir" in pod["containers"][0]["args"]


async def test_a_secret_of_our_own_is_asked_for_once_in_a_while_and_then_forgotten() -> None:
    class Asked(FakeCluster):
        secrets = 0

        async def get(self, target: Ref, *, allow_stale: bool = False) -> Manifest | None:
            self.secrets += target.kind == "Secret"
            return await super().get(target)

    cluster = Asked()
    cluster.put(a_proxy())
    operator = Operator(cluster)
    await operator.reconcile()
    assert cluster.secrets == 2

    operator.now_s += 20
    await operator.reconcile()
    await operator.secrets.poll()
    assert cluster.secrets == 2
    operator.now_s += 11  # 31 s after they were made
    await operator.secrets.poll()
    kept = str([vars(entry) for entry in vars(operator.secrets)["_watched"].values()])
    assert base64.b64encode(b"token-1").decode() not in kept
    await operator.reconcile()
    await operator.reconcile()
    assert cluster.secrets == 4


async def test_a_control_token_that_was_deleted_is_made_anew_and_rolls_nothing(
    cluster: FakeCluster, operator: Operator
) -> None:
    cluster.put(a_proxy())
    await operator.reconcile()
    before = cluster.one("Deployment", "p")["spec"]
    token = cluster.one("Secret", "p-control")["data"]["token"]
    cluster.remove(Ref("v1", "Secret", "n", "p-control"))
    operator.now_s += 121
    await operator.secrets.poll()
    assert operator.woken == [KEY]
    await operator.reconcile()
    assert cluster.one("Secret", "p-control")["data"]["token"] != token
    assert cluster.one("Deployment", "p")["spec"] == before


async def test_children_that_a_backup_restored_without_their_owner_are_adopted(
    cluster: FakeCluster, operator: Operator
) -> None:
    cluster.put(a_proxy(replicas=2, rateLimits={"rpm": 5}))
    await operator.reconcile()
    tokens = {name: cluster.one("Secret", name)["data"] for name in ("p-peers", "p-control")}
    [document] = documents(cluster)
    restored = [item for target, item in cluster.objects.items() if target != PROXY]
    for item in restored:
        del item["metadata"]["ownerReferences"]
        for entry in item["metadata"]["managedFields"]:
            entry["fieldsV1"].get("f:metadata", {}).pop("f:ownerReferences", None)
    cluster.objects.pop(PROXY)
    cluster.put(a_proxy(replicas=2, rateLimits={"rpm": 5}))
    uid = cluster.objects[PROXY]["metadata"]["uid"]
    again = Operator(cluster)

    await again.reconcile()

    assert again.condition("Reconciling") == ("True", "RollingOut")
    children = [item for target, item in cluster.objects.items() if target.kind not in {"LLMProxy", "Event"}]
    kept = [item for item in children if f"{item['kind']}/{item['metadata']['name']}" != document]
    assert {item["metadata"]["ownerReferences"][0]["uid"] for item in kept} == {uid}
    assert {name: cluster.one("Secret", name)["data"] for name in tokens} == tokens
    before = cluster.writes.copy()
    await again.reconcile()
    assert cluster.writes == before


async def test_an_error_that_lasts_is_in_the_status_in_the_words_of_the_api_server(
    cluster: FakeCluster, operator: Operator
) -> None:
    cluster.put(a_proxy())
    cluster.objects[PROXY]["status"] = {"observedGeneration": -1}
    words = 'failed calling webhook "validate.kyverno.svc": no endpoints available'
    cluster.failures[Ref("apps/v1", "Deployment", "n", "p")] = UnavailableError(words, status=500)

    for _ in range(2):
        with pytest.raises(UnavailableError):
            await operator.reconcile()
    assert "conditions" not in cluster.objects[PROXY]["status"]  # that may be a hiccup

    with pytest.raises(UnavailableError):
        await operator.reconcile()
    assert "conditions" not in cluster.objects[PROXY]["status"]  # its Deployment cannot even be read

    cluster.failures.clear()
    cluster.write_failures["Deployment"] = UnavailableError(words, status=500)
    with pytest.raises(UnavailableError):
        await operator.reconcile()
    assert operator.condition("Ready") == ("False", "ApiServerUnavailable")
    assert operator.condition("Reconciling") == ("True", "ApiServerUnavailable")
    assert words in condition(cluster.objects[PROXY]["status"], "Ready")["message"]
    [event] = [item for target, item in cluster.objects.items() if target.kind == "Event"]
    assert (event["type"], event["reason"], words in event["message"]) == ("Warning", "ApiServerUnavailable", True)

    cluster.write_failures.clear()
    await operator.reconcile()
    assert operator.condition("Reconciling") == ("True", "RollingOut")
    cluster.write_failures["Deployment"] = UnavailableError(words, status=500)
    cluster.put(a_proxy(replicas=0))
    with pytest.raises(UnavailableError):
        await operator.reconcile()
    assert operator.condition("Reconciling") == ("True", "RollingOut")  # it is counted anew


async def test_what_needs_no_secret_is_applied_while_one_is_missing(cluster: FakeCluster, operator: Operator) -> None:
    cluster.put(a_secret("first"))
    cluster.put(a_proxy("provider"))
    await operator.reconcile()
    serve(cluster)
    await operator.reconcile()
    template = cluster.one("Deployment", "p")["spec"]["template"]
    cluster.remove(Ref("v1", "Secret", "n", "provider"))

    cluster.put(a_proxy("provider", replicas=0, access={"namespaces": ["train"]}))
    await operator.reconcile()

    assert cluster.one("Deployment", "p")["spec"]["replicas"] == 0
    assert cluster.one("Deployment", "p")["spec"]["template"] == template
    assert {"NetworkPolicy/p"} <= {*cluster.kinds()}
    assert operator.condition("Reconciling") == ("True", "SecretNotFound")

    cluster.put(a_proxy("provider", autoscaling={"maxReplicas": 3}))
    await operator.reconcile()
    assert "HorizontalPodAutoscaler/p" in cluster.kinds()  # without limits any number of pods is right
    assert "NetworkPolicy/p" not in cluster.kinds()
    assert cluster.one("Deployment", "p")["spec"]["template"] == template


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param({"rateLimits": {"rpm": 5}, "replicas": 2}, id="pods that would each admit the whole limit"),
        pytest.param({"rateLimits": {"rpm": 5}, "autoscaling": {"maxReplicas": 2}}, id="or may come to"),
        pytest.param(
            {"rateLimits": {"rpm": 5}, "access": {"apiKeys": {"secretRef": {"name": "keys"}}, "namespaces": ["*"]}},
            id="callers who are let in because they need keys",
        ),
    ],
)
async def test_while_a_secret_is_missing_nothing_is_applied_that_the_pods_of_before_do_not_bear(
    cluster: FakeCluster, operator: Operator, edit: Manifest
) -> None:
    cluster.put(a_secret("first"))
    cluster.put(a_proxy("provider", rateLimits={"rpm": 5}))
    await operator.reconcile()
    serve(cluster)
    await operator.reconcile()
    cluster.remove(Ref("v1", "Secret", "n", "provider"))
    before = cluster.writes.copy()

    cluster.put(a_proxy("provider", **edit))
    await operator.reconcile()

    changed = cluster.writes - before
    assert {verb for verb in changed if "LLMProxy" not in verb and "Event" not in verb} == set()


async def test_a_write_that_a_webhook_undoes_is_not_logged_as_a_change(
    cluster: FakeCluster, operator: Operator, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.put(a_proxy())
    await operator.reconcile()
    service = cluster.one("Service", "p")
    service["spec"]["selector"]["injected"] = "x"  # every apply ends so
    caplog.set_level(logging.INFO, "llmproxy_operator")
    apply = cluster.apply

    async def undone(manifest: Manifest, **more: Any) -> ApplyResult:
        before = cluster.objects.get(Ref("v1", "Service", "n", "p"))
        if manifest["kind"] != "Service" or manifest["metadata"]["name"] != "p":
            return await apply(manifest, **more)
        assert before is not None
        return ApplyResult(before, created=False)

    monkeypatch.setattr(cluster, "apply", undone)
    await operator.reconcile()

    assert [record for record in caplog.records if record.message == "object_updated"] == []
