"""The operator's rights are what it uses and no more: the chart's rules beside a record of all that passes ask for."""

import copy
import itertools
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from crds.every_field import AUTOSCALED
from fakes.cluster import FakeCluster
from fakes.reconciling import Operator, a_proxy, a_secret, serve
from llmproxy_api import API_VERSION, KIND
from llmproxy_operator import names
from llmproxy_operator.cluster import PLURALS, ApplyResult
from llmproxy_operator.leader_election import LeaderElector, LeaseTiming
from llmproxy_operator.manifest import Manifest, Ref
from llmproxy_operator.watch.informer import KINDS

ROOT = Path(__file__).parents[3]
Right = tuple[str, str, str]
"""Group, resource, verb."""


def right(api_version: str, kind: str, verb: str, subresource: str = "") -> Right:
    return api_version.rpartition("/")[0], PLURALS[api_version, kind] + subresource, verb


class Recorded(FakeCluster):
    """Remembers which right each request takes, as the API server asks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.used: set[Right] = set()

    async def get(self, target: Ref, *, allow_stale: bool = False) -> Manifest | None:
        self.used.add(right(target.api_version, target.kind, "get"))
        return await super().get(target, allow_stale=allow_stale)

    async def list(
        self, api_version: str, kind: str, namespace: str, labels: Mapping[str, str], *, uncached: bool = False
    ) -> tuple[Manifest, ...]:
        self.used.add(right(api_version, kind, "list"))
        return await super().list(api_version, kind, namespace, labels, uncached=uncached)

    async def apply(self, manifest: Manifest, *, force: bool, manager: str = names.FIELD_MANAGER) -> ApplyResult:
        applied = await super().apply(manifest, force=force, manager=manager)
        verbs = ("patch", "create") if applied.created else ("patch",)
        self.used |= {right(manifest["apiVersion"], manifest["kind"], verb) for verb in verbs}
        return applied

    async def apply_status(self, manifest: Manifest) -> Manifest:
        self.used.add(right(manifest["apiVersion"], manifest["kind"], "patch", "/status"))
        return await super().apply_status(manifest)

    async def delete(self, target: Ref, *, uid: str) -> None:
        self.used.add(right(target.api_version, target.kind, "delete"))
        await super().delete(target, uid=uid)

    async def create(self, manifest: Manifest) -> Manifest:
        self.used.add(right(manifest["apiVersion"], manifest["kind"], "create"))
        return await super().create(manifest)

    async def replace(self, manifest: Manifest) -> Manifest:
        self.used.add(right(manifest["apiVersion"], manifest["kind"], "update"))
        return await super().replace(manifest)

    async def merge(self, target: Ref, change: Mapping[str, Any]) -> Manifest:
        self.used.add(right(target.api_version, target.kind, "patch"))
        return await super().merge(target, change)


def granted() -> set[Right]:
    """Return what the chart gives, which the base for kustomize has as it is rendered."""
    objects = list(yaml.safe_load_all((ROOT / "gitops/kustomize/operator.yaml").read_text()))
    roles = [item for item in objects if item["metadata"]["name"] in {"llmproxy-operator", "llmproxy-operator-leader"}]
    return {
        (group, resource, verb)
        for role in roles
        for rule in role.get("rules", ())
        for group, resource, verb in itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])
    }


def secrets() -> list[Manifest]:
    """Return those that the objects with every field name."""
    keys = {"provider": "api-key", "collector": "token", "trainers": "ann", "aws": "secret"}
    plain = [a_secret("content", key, name) for name, key in keys.items()]
    with_ca = [a_secret("content", "url", "redis"), a_secret("content", "org", "echo")]
    for secret in with_ca:
        secret["data"]["ca.crt"] = next(iter(secret["data"].values()))
    return [*plain, *with_ca]


async def life_of_a_proxy(cluster: FakeCluster) -> None:
    """Make one with every kind of child, then take from it all that it can do without."""
    operator = Operator(cluster)
    for secret in secrets():
        cluster.put(secret)
    everything = copy.deepcopy(AUTOSCALED)
    everything["rateLimits"]["shared"] = {"mode": "Managed"}
    del everything["image"]  # of a repository that is not the operator's
    for spec in (everything, a_proxy()["spec"]):
        cluster.put({**a_proxy(), "spec": spec})
        for _ in range(3):
            await operator.reconcile()
            for deployment in [target.name for target in cluster.objects if target.kind == "Deployment"]:
                serve(cluster, deployment)
            operator.now_s += 120
        assert operator.condition("Ready") == ("True", "AllReplicasReady")


async def life_of_a_lease(cluster: FakeCluster) -> None:
    lease = Ref("coordination.k8s.io/v1", "Lease", "n", "operator")
    election = LeaderElector(
        cluster,
        lease,
        identity="a",
        clock=time.monotonic,
        now=lambda: datetime.now(UTC),
        timing=LeaseTiming(retry_s=0.01),
    )
    await election.acquire()
    await election.release()


async def test_the_rights_are_those_that_are_used_and_no_more() -> None:
    cluster = Recorded()
    await life_of_a_proxy(cluster)
    await life_of_a_lease(cluster)

    watched = {right(*kind, verb) for kind in KINDS for verb in ("list", "watch")}
    of_kopf = {right(API_VERSION, KIND, verb) for verb in ("list", "watch")}
    # Where it is enforced that an owner reference which blocks deletion needs it.
    of_owners = {right(API_VERSION, KIND, "update", "/finalizers")}
    assert granted() == cluster.used | watched | of_kopf | of_owners
