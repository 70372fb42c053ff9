"""One reconcile of an LLMProxy: read, parse, resolve Secrets, render, compare, apply, prune, observe, write the status.

It acts on the present state, never on an event, and may run at any time, twice in a row, or be killed halfway. It
writes only where something differs. What it remembers between reconciles saves requests; without it the result is
the same.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from llmproxy_api import API_VERSION, KIND, LLMProxy, SpecError, parse
from llmproxy_operator import conditions as reporting
from llmproxy_operator import names, ownership
from llmproxy_operator.cluster import Cluster
from llmproxy_operator.conditions import Observation
from llmproxy_operator.diff import differences
from llmproxy_operator.errors import ClusterError, ConflictError, RefusedError, UnavailableError
from llmproxy_operator.event_recorder import EventRecorder
from llmproxy_operator.manifest import Manifest, Ref, owner_uid, ref
from llmproxy_operator.ownership import Child, Ownership, ownership_of
from llmproxy_operator.policy import Policy
from llmproxy_operator.reasons import Problem, Reason
from llmproxy_operator.render import (
    Inputs,
    Revision,
    client_secret,
    control_secret,
    inherit,
    latest,
    monitoring,
    peers_secret,
    render,
    revision,
    scaling,
    secret_digest,
    secret_references,
    stale_configs,
    store,
    with_pod_owners,
)
from llmproxy_operator.rollout_status import Rollout, is_quota, min_ready_of, rollout
from llmproxy_operator.secret_watch import Credentials, SecretWatch, decoded, read
from llmproxy_operator.workqueue import Key

log = logging.getLogger(__name__)

INVALID = 422
"""HTTP status for an object that contradicts itself or its schema."""
FAILURES = 3
"""Failed reconciles in a row from which the status reports the API server's error."""
MAX_FIELDS = 20
"""Names of changed fields in a line of the log."""
PRUNED_KINDS = (
    ("v1", "Service"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "ControllerRevision"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy/v1", "PodDisruptionBudget"),
    (monitoring.API_VERSION, monitoring.KIND),
)
"""Kinds of which an edit may leave objects behind; ConfigMaps too."""


@dataclass(frozen=True)
class Dependencies:
    """Dependencies of a reconcile besides the cluster; tests pass their own."""

    inputs: Inputs
    """Without digests: each reconcile reads those."""
    policy: Policy
    clock: Callable[[], float]
    """Monotonic clock, in seconds."""
    now: Callable[[], datetime]
    token: Callable[[], str]
    """Return a new random token for the pods of one proxy."""
    on_image: Callable[[Key, str | None], None] = lambda _key, _image: None
    """Called with the image in force of each proxy, with None if the proxy is gone."""
    before_status_write: Callable[[Key, dict[str, Any]], None] = lambda _key, _status: None
    """Called with each status before it is written, so that its echo wakes nobody."""


class Reconciler:
    """Reconciles the LLMProxy of a key; call it with the key."""

    def __init__(
        self, cluster: Cluster, dependencies: Dependencies, *, secrets: SecretWatch, recorder: EventRecorder
    ) -> None:
        self._cluster = cluster
        self._dependencies = dependencies
        self._secrets = secrets
        self._recorder = recorder
        self._failures: dict[Key, int] = {}
        self._missing_since: dict[Key, tuple[Reason, float]] = {}

    async def __call__(self, key: Key) -> float | None:
        """Reconcile once; return the delay of the next reconcile in seconds, None if the proxy is gone."""
        raw = await self._cluster.get(Ref(API_VERSION, KIND, key.namespace, key.name))
        if raw is None or raw["metadata"].get("deletionTimestamp"):
            self._dependencies.on_image(key, None)
            self._forget(key)  # owner references take the children along
            return None
        if reporting.is_paused(_annotations(raw)):
            self._forget(key)
            existing = await self._observe_existing(raw)
            observation = reporting.paused(reporting.reported(raw), existing, _annotations(raw))
            await self._write_status(key, raw, observation)
            return float("inf")
        if not raw.get("status"):  # the CRD's default says it, but not that of an older release
            created = Problem.of(Reason.CREATED, "accepted; creating resources")
            raw = await self._write_status(key, raw, Observation(_generation(raw), None, problem=created))
        try:
            observation = await self._reconcile(key, raw)
        except UnavailableError as exc:
            await self._report_failure(key, raw, exc)
            raise
        self._failures.pop(key, None)
        await self._write_status(key, raw, replace(observation, note=reporting.pause_note(_annotations(raw))))
        return self._requeue_after_s(key, observation)

    async def _report_failure(self, key: Key, raw: Manifest, error: UnavailableError) -> None:
        """Write *error* into the status if the reconciles before failed too; best effort."""
        self._failures[key] = self._failures.get(key, 0) + 1
        if self._failures[key] < FAILURES:
            return
        try:
            problem = Problem.of(Reason.API_SERVER_UNAVAILABLE, str(error))
            await self._write_status(key, raw, await self._not_applied(raw, None, problem))
        except ClusterError as exc:
            log.warning("status_not_written", extra={"proxy": str(key), "error": str(exc)})

    async def _reconcile(self, key: Key, raw: Manifest) -> Observation:
        """Apply the desired state as far as it can be applied; return the observed state."""
        try:
            proxy = parse(raw)
            if refused := self._dependencies.policy.problems(proxy):
                self._secrets.forget(key)
                problem = Problem.of(Reason.NOT_ALLOWED, str(SpecError(refused)))
                return await self._not_applied(raw, proxy, problem)
            credentials = await read(
                self._cluster, key.namespace, proxy.metadata.uid, secret_references(proxy), client_secret(proxy)
            )
            if credentials.missing is None:
                self._missing_since.pop(key, None)
                return await self._apply_desired_state(key, raw, proxy, credentials)
            self._secrets.follow(key, credentials.versions, urgent=True)
            problem = self._missing(key, raw, credentials.missing)
            last = latest(proxy, await self._revisions(key))
            if last is None:
                return await self._not_applied(raw, proxy, problem)
            # Only what needs no Secret is applied: the pods keep their revision.
            observation = await self._apply_desired_state(key, raw, proxy, credentials, last)
            return replace(observation, config_hash=None, problem=observation.problem or problem)
        except SpecError as exc:
            self._secrets.forget(key)
            return await self._not_applied(raw, None, Problem.of(Reason.INVALID_SPEC, str(exc)))
        except RefusedError as exc:
            reason = Reason.QUOTA_EXCEEDED if is_quota(str(exc)) else Reason.OBJECT_REFUSED
            return await self._not_applied(raw, parse(raw), Problem.of(reason, str(exc)))

    async def _not_applied(self, raw: Manifest, proxy: LLMProxy | None, problem: Problem | None) -> Observation:
        return Observation(_generation(raw), proxy, rollout=await self._observe_existing(raw), problem=problem)

    def _missing(self, key: Key, raw: Manifest, missing: tuple[Reason, str]) -> Problem:
        reason, message = missing
        since = self._missing_since.get(key)
        if since is None or since[0] != reason:
            since = self._missing_since[key] = (reason, self._dependencies.clock())
        before = reporting.condition(reporting.reported(raw), reporting.STALLED)
        stalled = before.get("status") == "True" and before.get("reason") == reason
        final = stalled or reason.is_final(self._dependencies.clock() - since[1])
        return Problem(reason, f"{message}; no pod rolls until then", final)

    async def _revisions(self, key: Key) -> tuple[Manifest, ...]:
        return await self._cluster.list("apps/v1", "ControllerRevision", key.namespace, {names.LABEL_NAME: key.name})

    async def _apply_desired_state(
        self, key: Key, raw: Manifest, proxy: LLMProxy, credentials: Credentials, last: Revision | None = None
    ) -> Observation:
        """Apply every child, with the pods of *last* if it is given; return the observed state."""
        (peers, token), (control, control_token), revisions = await asyncio.gather(
            self._own_secret(proxy, names.peers(key.name), names.PEER_TOKEN_KEY),
            self._own_secret(proxy, names.control(key.name), names.CONTROL_TOKEN_KEY),
            self._revisions(key),
        )
        if last is not None and (peers is None or control is None):
            return await self._not_applied(raw, proxy, None)  # a new token is a change of the pods
        pods = last or revision(proxy, self._inputs(proxy, credentials, token), revisions)
        rendered = await self._rendered(key, raw, proxy, pods)
        secondary = await self._unserved_kind(rendered)
        if secondary is not None:
            rendered = tuple(item for item in rendered if item["kind"] != monitoring.KIND)
        own = (
            Child(self._inherit(peers_secret(proxy, token), raw), peers, ownership_of(peers, proxy)),
            Child(self._inherit(control_secret(proxy, control_token), raw), control, ownership_of(control, proxy)),
        )
        children = [*own, *await self._children(proxy, rendered)]
        contents = [*credentials.contents, token, store.password(token), control_token]
        quoted = contents if credentials.missing is None else None  # a Secret that cannot be read cannot be redacted
        if (problem := _ownership_problem(children)) is not None:
            return await self._not_applied(raw, proxy, problem)
        live = await self._apply_all(children, proxy)
        urgent = credentials.missing is not None
        self._secrets.follow(key, credentials.versions, own=live[: len(own)], urgent=urgent)
        deployments = {item["metadata"]["name"]: item for item in live if item["kind"] == "Deployment"}
        deployment = deployments[names.deployment(key.name)]
        progress = await self._observe(deployment, quoted, scaling.min_ready(proxy))
        if any(child.live is not None for child in children):
            await self._prune(proxy, [child.desired for child in children], deployment, complete=progress.complete)
        store_progress = None
        if (store_deployment := deployments.get(names.limits(key.name))) is not None:
            store_progress = await self._observe(store_deployment, quoted, None)
            problem = reporting.store_problem(store_progress, proxy.metadata.generation, reporting.reported(raw))
            secondary = problem or secondary
        return Observation(
            proxy.metadata.generation,
            proxy,
            pods.config_hash,
            progress,
            secondary=secondary,
            store=store_progress,
            image=pods.image,
            scaling_note=scaling.inactive_note(live),
        )

    async def _rendered(self, key: Key, raw: Manifest, proxy: LLMProxy, pods: Revision) -> tuple[Manifest, ...]:
        """Return the desired children, with inherited keys and a policy that outlives the pods."""
        rendered = render(proxy, pods, self._dependencies.inputs.children)
        policy = Ref("networking.k8s.io/v1", "NetworkPolicy", key.namespace, names.policy(key.name))
        if any(ref(item) == policy for item in rendered):
            live = await self._cluster.list("v1", "Pod", key.namespace, names.selector_labels(key.name))
            rendered = tuple(with_pod_owners(item, live) if ref(item) == policy else item for item in rendered)
        return tuple(self._inherit(item, raw) for item in rendered)

    def _inherit(self, child: Manifest, raw: Manifest) -> Manifest:
        return inherit(child, raw["metadata"], self._dependencies.inputs.children)

    async def _own_secret(self, proxy: LLMProxy, name: str, field: str) -> tuple[Manifest | None, str]:
        """Return a Secret of the proxy's own and its token, a new one if there is none.

        An existing token stays: a new one would part the pods from each other, and trainers from the pods.
        """
        live = await self._secrets.own(Ref("v1", "Secret", proxy.metadata.namespace, name), proxy.metadata.uid)
        encoded = ((live or {}).get("data") or {}).get(field)
        return live, decoded(encoded).decode(errors="replace") or self._dependencies.token()

    def _inputs(self, proxy: LLMProxy, credentials: Credentials, token: str) -> Inputs:
        own = (names.peers(proxy.metadata.name), names.LIMITS_PASSWORD_KEY)
        digest = secret_digest(proxy.metadata.uid, store.password(token).encode())
        return replace(self._dependencies.inputs, secret_digests={**credentials.digests, own: digest})

    async def _unserved_kind(self, rendered: Sequence[Manifest]) -> Problem | None:
        """Return the problem of a desired object whose kind the cluster does not serve."""
        needed = any(item["kind"] == monitoring.KIND for item in rendered)
        if not needed or await self._cluster.serves(monitoring.API_VERSION, monitoring.KIND):
            return None
        message = (
            "the cluster has no PodMonitor CRD: install the prometheus-operator, or set "
            "spec.monitoring.podMonitor: false"
        )
        return Problem.of(Reason.POD_MONITOR_UNAVAILABLE, message)

    async def _children(self, proxy: LLMProxy, rendered: Sequence[Manifest]) -> list[Child]:
        """Return the desired objects with their live ones."""
        live = await asyncio.gather(*(self._cluster.get(ref(manifest)) for manifest in rendered))
        pairs = zip(rendered, live, strict=True)
        return [Child(manifest, item, ownership_of(item, proxy)) for manifest, item in pairs]

    async def _apply_all(self, children: Sequence[Child], proxy: LLMProxy) -> list[Manifest]:
        """Apply all, several at once; Deployments last, for their pods need the rest. Return the live ones in order."""
        last = [child.desired["kind"] == "Deployment" for child in children]
        live: dict[int, Manifest] = {}
        for turn in (False, True):
            places = [place for place, late in enumerate(last) if late is turn]
            # All of them end, also if one fails: no write may still run when the next reconcile begins.
            results = await asyncio.gather(
                *(self._apply_child(children[place], proxy) for place in places), return_exceptions=True
            )
            for place, item in zip(places, results, strict=True):
                if isinstance(item, BaseException):
                    raise item
                live[place] = item
        return [live[place] for place in range(len(children))]

    async def _apply_child(self, child: Child, proxy: LLMProxy) -> Manifest:
        """Apply one object; return the live one."""
        desired, live = child.desired, child.live
        scaled = child.ref == _gateways(proxy)
        if live is None:
            live = await self._create(scaling.first(desired, proxy) if scaled else desired)
        if scaled and (handover := scaling.replicas_handover(proxy, live)) is not None:
            # Forced, for the count may be one that the autoscaler would never leave.
            live = (await self._cluster.apply(handover, force=True, manager=scaling.HOLDER)).live
        fields = differences(desired, live, names.FIELD_MANAGER)
        if not fields:
            return live
        updated = await self._update(child, live)
        # A webhook may undo each of our writes: then nothing has changed.
        if updated["metadata"]["resourceVersion"] != live["metadata"]["resourceVersion"]:
            log.info("object_updated", extra={"object": str(child.ref), "fields": list(fields[:MAX_FIELDS])})
        return updated

    async def _update(self, child: Child, live: Manifest) -> Manifest:
        # With its uid: only the very object that was seen to be ours may be forced.
        metadata = live["metadata"]
        desired = {**child.desired, "metadata": {**child.desired["metadata"], "uid": metadata["uid"]}}
        try:
            return (await self._cluster.apply(desired, force=True)).live
        except RefusedError as exc:
            if exc.status != INVALID or "spec" not in desired:
                raise
            # Apply leaves list items of others alone. Where they contradict ours, as a second port of the same name
            # does, the lists must be replaced as a whole first.
            log.warning("object_replaced", extra={"object": str(child.ref), "error": str(exc)})
            same = {"resourceVersion": metadata["resourceVersion"]}
            await self._cluster.merge(child.ref, {"metadata": same, "spec": desired["spec"]})
            return (await self._cluster.apply(desired, force=True)).live

    async def _create(self, desired: Manifest) -> Manifest:
        result = await self._cluster.apply(desired, force=False)
        if not result.created and ownership.has_other_managers(result.live):
            # Somebody created it since it was read, and our fields are in it now: take them out again.
            metadata = {key: desired["metadata"][key] for key in ("name", "namespace")}
            await self._cluster.apply({**_head(desired), "metadata": metadata}, force=False)
            raise ConflictError(f"{ref(desired)}: somebody else created it at the same moment")
        log.info("object_created", extra={"object": str(ref(desired))})
        return result.live

    async def _prune(
        self, proxy: LLMProxy, desired: Sequence[Manifest], deployment: Manifest, *, complete: bool
    ) -> None:
        """Delete children that are not desired any more, and documents that no pod can need."""
        if not await self._obsolete(proxy, desired, deployment, uncached=False):
            return
        # Nothing is deleted on the word of a cache.
        for item in await self._obsolete(proxy, desired, deployment, uncached=True):
            if ownership.is_store(item) and not complete:
                continue  # older pods count in it until they terminate
            await self._cluster.delete(ref(item), uid=item["metadata"]["uid"])
            log.info("object_deleted", extra={"object": str(ref(item))})

    async def _obsolete(
        self, proxy: LLMProxy, desired: Sequence[Manifest], deployment: Manifest, *, uncached: bool
    ) -> list[Manifest]:
        """Return the children that nobody needs."""
        place = (proxy.metadata.namespace, {names.LABEL_NAME: proxy.metadata.name})
        maps, sets, *others = await asyncio.gather(
            self._cluster.list("v1", "ConfigMap", *place, uncached=uncached),
            self._cluster.list("apps/v1", "ReplicaSet", *place, uncached=uncached),
            *(self._cluster.list(*kind, *place, uncached=uncached) for kind in PRUNED_KINDS),
        )
        ours = [item for item in maps if ownership.is_ours(item, proxy)]
        keep = [item["metadata"]["name"] for item in desired if ownership.is_document(item)]
        stale = set(stale_configs(ours, [*sets, deployment], keep=keep))
        documents = [item for item in ours if item["metadata"]["name"] in stale]
        return documents + list(ownership.obsolete([*maps, *itertools.chain(*others)], proxy, desired))

    async def _observe_existing(self, raw: Manifest) -> Rollout:
        """Observe the existing Deployment, if it is ours, while nothing can be applied.

        No container is quoted: its pods may have Secrets of before, which no reconcile can read any more.
        """
        metadata = raw["metadata"]
        target = Ref("apps/v1", "Deployment", metadata["namespace"], names.deployment(metadata["name"]))
        deployment = await self._cluster.get(target)
        ours = deployment is not None and owner_uid(deployment) == metadata["uid"]
        return await self._observe(deployment if ours else None, None, min_ready_of(raw.get("spec") or {}))

    async def _observe(
        self, deployment: Manifest | None, contents: Sequence[str] | None, min_ready: int | None
    ) -> Rollout:
        now = self._dependencies.now()
        progress = rollout(deployment, (), now=now, min_ready=min_ready)
        if deployment is None or progress.complete or progress.desired == 0:
            return progress
        metadata = deployment["metadata"]
        pods = await self._cluster.list(
            "v1", "Pod", metadata["namespace"], deployment["spec"]["selector"]["matchLabels"]
        )
        return rollout(deployment, pods, now=now, secrets=contents, min_ready=min_ready)

    async def _write_status(self, key: Key, raw: Manifest, observation: Observation) -> Manifest:
        """Write the status if it changed; return the live object."""
        before = reporting.reported(raw)
        now = self._dependencies.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        status = reporting.status(observation, before, now=now)
        self._dependencies.on_image(key, status.get("image"))
        if reporting.same(status, before):
            return raw
        metadata = {name: raw["metadata"][name] for name in ("name", "namespace", "uid")}
        self._dependencies.before_status_write(key, status)
        live = await self._cluster.apply_status({**_head(raw), "metadata": metadata, "status": status})
        ready = reporting.condition(status, reporting.READY)
        log.info("status_written", extra={"proxy": str(key), "ready": ready["status"], "reason": ready["reason"]})
        await self._recorder.record(raw, before, status)
        return live

    def _requeue_after_s(self, key: Key, observation: Observation) -> float:
        problem = observation.problem
        if problem is None:
            problems = (observation.rollout.problem, observation.secondary)
            return min((item.requeue_after_s for item in problems if item is not None), default=float("inf"))
        if not problem.final and key in self._missing_since:
            reason, since_s = self._missing_since[key]
            return max(0.1, since_s + (reason.final_after_s or 0.0) - self._dependencies.clock())
        return problem.requeue_after_s

    def _forget(self, key: Key) -> None:
        self._secrets.forget(key)
        self._missing_since.pop(key, None)
        self._failures.pop(key, None)


def _head(manifest: Manifest) -> Manifest:
    return {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"]}


def _annotations(raw: Manifest) -> dict[str, str]:
    return raw["metadata"].get("annotations") or {}


def _generation(raw: Manifest) -> int:
    return int(raw["metadata"]["generation"])


def _gateways(proxy: LLMProxy) -> Ref:
    return Ref("apps/v1", "Deployment", proxy.metadata.namespace, names.deployment(proxy.metadata.name))


def _ownership_problem(children: Sequence[Child]) -> Problem | None:
    """Return why nothing may be written, None if it may: all objects are judged before the first is touched."""
    foreign = [str(child.ref) for child in children if child.ownership is Ownership.FOREIGN]
    if foreign:
        message = f"{', '.join(foreign)} exists and belongs to somebody else: delete it, or rename the LLMProxy"
        return Problem.of(Reason.NAME_CONFLICT, message)
    leaving = [str(child.ref) for child in children if child.ownership is Ownership.LEAVING]
    if leaving:
        return Problem.of(Reason.WAITING_FOR_DELETION, f"{', '.join(leaving)} is still being deleted")
    return None
