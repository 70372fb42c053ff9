"""One pass over one LLMProxy: read, parse, resolve Secrets, render, compare, apply, tidy, observe, report.

It looks at what is, never at what changed, and may run at any time, twice in a row, or be killed halfway. It writes
only where something differs. What it remembers between passes saves requests; without it a pass does the same.
"""

import asyncio
import itertools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from llmproxy_api import API_VERSION, KIND, LLMProxy, SpecError, parse
from llmproxy_operator import conditions as reporting
from llmproxy_operator import names, ownership
from llmproxy_operator.cluster import Cluster
from llmproxy_operator.conditions import Trouble, View
from llmproxy_operator.diff import differences
from llmproxy_operator.errors import ConflictError, RefusedError
from llmproxy_operator.event_recorder import Announcer
from llmproxy_operator.manifest import Manifest, Ref, owner_uid, ref
from llmproxy_operator.ownership import Child, Standing, standing
from llmproxy_operator.policy import Policy
from llmproxy_operator.render import (
    Inputs,
    client_secret,
    control_secret,
    monitoring,
    peers_secret,
    render,
    revision,
    scaling,
    secret_digest,
    secret_references,
    stale_configs,
    store,
)
from llmproxy_operator.rollout_status import Rollout, floor_of, rollout
from llmproxy_operator.secret_watch import Credentials, SecretWatch, decoded, read
from llmproxy_operator.workqueue import Key

log = logging.getLogger(__name__)

PATIENCE_S = 60.0
"""A Secret may be applied after the proxy that names it; only then does someone have to act."""
FOREIGN_RETRY_S = 20.0
"""Other people's objects are not watched: look again whether a conflict is gone."""
INVALID = 422
"""HTTP's number for an object that contradicts itself or its schema."""
MAX_FIELDS = 20
"""Names of changed fields in a line of the log."""
LEAVING_RETRY_S = 1.0
PULL_RETRY_S = 5.0
"""A failing pull counts for final after a while, by the clock alone; every other failure ends with an event."""
TIDIED = (
    ("v1", "Service"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "ControllerRevision"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy/v1", "PodDisruptionBudget"),
    (monitoring.API_VERSION, monitoring.KIND),
)
"""Kinds of objects that a proxy may have now and not any more after an edit; ConfigMaps too."""


@dataclass(frozen=True)
class Surroundings:
    """What a pass needs besides the cluster; tests hand in their own."""

    inputs: Inputs
    """Without digests: those are read in each pass."""
    policy: Policy
    clock: Callable[[], float]
    """Seconds, never jumping."""
    now: Callable[[], datetime]
    token: Callable[[], str]
    """A new random token for the pods of one proxy."""
    about_to_write: Callable[[Key, dict[str, Any]], None] = lambda _key, _status: None
    """Told of each status before it is written, so that its echo wakes nobody."""


class Reconciler:
    """Does passes; call it with a key."""

    def __init__(self, cluster: Cluster, around: Surroundings, *, secrets: SecretWatch, announcer: Announcer) -> None:
        self._cluster = cluster
        self._around = around
        self._secrets = secrets
        self._announcer = announcer
        self._waiting: dict[Key, tuple[str, float]] = {}

    async def __call__(self, key: Key) -> float | None:
        """Do one pass; return after how many seconds it wants another, None if the proxy is gone."""
        raw = await self._cluster.get(Ref(API_VERSION, KIND, key.namespace, key.name))
        if raw is None or raw["metadata"].get("deletionTimestamp"):
            self._forget(key)  # the children go by their owner references
            return None
        if reporting.is_paused(_annotations(raw)):
            self._forget(key)
            seen = await self._present(raw)
            await self._report(key, raw, reporting.paused(reporting.reported(raw), seen, _annotations(raw)))
            return math.inf
        if not raw.get("status"):  # the API server's default says it, but not with the definition of an older release
            created = Trouble("Created", "the operator has seen it and makes its objects", final=False)
            raw = await self._report(key, raw, View(_generation(raw), None, trouble=created))
        view = await self._bring_about(key, raw)
        await self._report(key, raw, replace(view, note=reporting.pause_note(_annotations(raw))))
        return self._again_s(key, view)

    async def _bring_about(self, key: Key, raw: Manifest) -> View:
        """Make what is as wanted, as far as it can be made; return what is now."""
        try:
            proxy = parse(raw)
            if refused := self._around.policy.problems(proxy):
                self._secrets.forget(key)
                trouble = Trouble("NotAllowed", str(SpecError(refused)), final=True)
                return View(_generation(raw), proxy, rollout=await self._present(raw), trouble=trouble)
            credentials = await read(
                self._cluster, key.namespace, proxy.metadata.uid, secret_references(proxy), client_secret(proxy)
            )
            if credentials.missing is not None:
                self._secrets.follow(key, credentials.versions, urgent=True)
                trouble = self._missing(key, raw, credentials.missing)
                return View(_generation(raw), proxy, rollout=await self._present(raw), trouble=trouble)
            self._waiting.pop(key, None)
            return await self._converge(key, raw, proxy, credentials)
        except SpecError as exc:
            self._secrets.forget(key)
            invalid = Trouble("InvalidSpec", str(exc), final=True)
            return View(_generation(raw), None, rollout=await self._present(raw), trouble=invalid)
        except RefusedError as exc:
            reason = "QuotaExceeded" if "exceeded quota" in str(exc) else "ObjectRefused"
            present = await self._present(raw)
            return View(_generation(raw), parse(raw), rollout=present, trouble=Trouble(reason, str(exc), final=True))

    def _missing(self, key: Key, raw: Manifest, missing: tuple[str, str]) -> Trouble:
        reason, message = missing
        since = self._waiting.get(key)
        if since is None or since[0] != reason:
            since = self._waiting[key] = (reason, self._around.clock())
        before = reporting.condition(reporting.reported(raw), reporting.STALLED)
        known = before.get("status") == "True" and before.get("reason") == reason
        final = known or self._around.clock() - since[1] >= PATIENCE_S
        return Trouble(reason, f"{message}; nothing is rolled until then", final=final)

    async def _converge(self, key: Key, raw: Manifest, proxy: LLMProxy, credentials: Credentials) -> View:
        (peers, token), (control, control_token), kept = await asyncio.gather(
            self._own_secret(proxy, names.peers(key.name), names.PEER_TOKEN_KEY),
            self._own_secret(proxy, names.control(key.name), names.CONTROL_TOKEN_KEY),
            self._cluster.list("apps/v1", "ControllerRevision", key.namespace, {names.LABEL_NAME: key.name}),
        )
        pods = revision(proxy, self._inputs(proxy, credentials, token), kept)
        rendered = render(proxy, pods)
        lacks = await self._lacking(rendered)
        if lacks is not None:
            rendered = tuple(item for item in rendered if item["kind"] != monitoring.KIND)
        own = (
            Child(peers_secret(proxy, token), peers, standing(peers, proxy)),
            Child(control_secret(proxy, control_token), control, standing(control, proxy)),
        )
        found = [*own, *await self._children(proxy, rendered)]
        contents = [*credentials.contents, token, store.password(token), control_token]
        if (blocked := _blocked(found)) is not None:
            present = await self._present(raw)
            return View(proxy.metadata.generation, proxy, rollout=present, trouble=blocked)
        live = await self._settle_all(found, proxy)
        self._secrets.follow(key, credentials.versions, own=live[: len(own)])
        deployments = {item["metadata"]["name"]: item for item in live if item["kind"] == "Deployment"}
        deployment = deployments[names.deployment(key.name)]
        seen = await self._observe(deployment, contents, scaling.floor(proxy))
        if any(child.live is not None for child in found):
            await self._tidy(proxy, [child.wanted for child in found], deployment, complete=seen.complete)
        beside = None
        if (of_store := deployments.get(names.limits(key.name))) is not None:
            beside = await self._observe(of_store, contents, None)
            trouble = reporting.store_trouble(beside, proxy.metadata.generation, reporting.reported(raw))
            lacks = trouble or lacks
        return View(proxy.metadata.generation, proxy, pods.config_hash, seen, lacks=lacks, store=beside)

    async def _own_secret(self, proxy: LLMProxy, name: str, field: str) -> tuple[Manifest | None, str]:
        """Return a Secret of the proxy's own and its token, a new one if there is none.

        One that is there stays: a new one would part the pods from each other, and trainers from the pods.
        """
        live = await self._secrets.own(Ref("v1", "Secret", proxy.metadata.namespace, name), proxy.metadata.uid)
        written = ((live or {}).get("data") or {}).get(field)
        return live, decoded(written).decode(errors="replace") or self._around.token()

    def _inputs(self, proxy: LLMProxy, credentials: Credentials, token: str) -> Inputs:
        own = (names.peers(proxy.metadata.name), names.LIMITS_PASSWORD_KEY)
        digest = secret_digest(proxy.metadata.uid, store.password(token).encode())
        return replace(self._around.inputs, secret_digests={**credentials.digests, own: digest})

    async def _lacking(self, rendered: Sequence[Manifest]) -> Trouble | None:
        """Return what is wanted of a kind that the cluster does not know."""
        wanted = any(item["kind"] == monitoring.KIND for item in rendered)
        if not wanted or await self._cluster.serves(monitoring.API_VERSION, monitoring.KIND):
            return None
        message = (
            "the cluster knows no PodMonitor: install the prometheus-operator, or set spec.monitoring.podMonitor: false"
        )
        return Trouble("PodMonitorUnavailable", message, final=True)

    async def _children(self, proxy: LLMProxy, rendered: Sequence[Manifest]) -> list[Child]:
        """Return what is wanted with what is there."""
        found = await asyncio.gather(*(self._cluster.get(ref(manifest)) for manifest in rendered))
        pairs = zip(rendered, found, strict=True)
        return [Child(manifest, live, standing(live, proxy)) for manifest, live in pairs]

    async def _settle_all(self, found: Sequence[Child], proxy: LLMProxy) -> list[Manifest]:
        """Make all as wanted, several at once; Deployments last, for their pods need the rest. Return them in order."""
        last = [child.wanted["kind"] == "Deployment" for child in found]
        live: dict[int, Manifest] = {}
        for turn in (False, True):
            places = [place for place, late in enumerate(last) if late is turn]
            # All of them end, also if one fails: none may still be written to when the next pass begins.
            made = await asyncio.gather(
                *(self._settle(found[place], proxy) for place in places), return_exceptions=True
            )
            for place, item in zip(places, made, strict=True):
                if isinstance(item, BaseException):
                    raise item
                live[place] = item
        return [live[place] for place in range(len(found))]

    async def _settle(self, child: Child, proxy: LLMProxy) -> Manifest:
        """Make one object as wanted; return it as it is then."""
        wanted, live = child.wanted, child.live
        scaled = child.ref == _gateways(proxy)
        if live is None:
            live = await self._make(scaling.first(wanted, proxy) if scaled else wanted)
        if scaled and (held := scaling.handed_over(proxy, live)) is not None:
            # Forced, for the count may be one that the autoscaler would never leave.
            live = (await self._cluster.apply(held, force=True, manager=scaling.HOLDER)).live
        changed = differences(wanted, live, names.FIELD_MANAGER)
        if not changed:
            return live
        applied = await self._change(child, live)
        log.info("object_changed", extra={"object": str(child.ref), "fields": list(changed[:MAX_FIELDS])})
        return applied

    async def _change(self, child: Child, live: Manifest) -> Manifest:
        # With its uid: only the very object that was seen to be ours may be forced.
        metadata = live["metadata"]
        owned = {**child.wanted, "metadata": {**child.wanted["metadata"], "uid": metadata["uid"]}}
        try:
            return (await self._cluster.apply(owned, force=True)).live
        except RefusedError as exc:
            if exc.status != INVALID or "spec" not in owned:
                raise
            # Apply leaves list items of others alone. Where they contradict ours, as a second port of the same name
            # does, the lists must be replaced as a whole first.
            log.warning("object_replaced", extra={"object": str(child.ref), "error": str(exc)})
            same = {"resourceVersion": metadata["resourceVersion"]}
            await self._cluster.merge(child.ref, {"metadata": same, "spec": owned["spec"]})
            return (await self._cluster.apply(owned, force=True)).live

    async def _make(self, wanted: Manifest) -> Manifest:
        applied = await self._cluster.apply(wanted, force=False)
        if not applied.created and ownership.made_by_others(applied.live):
            # Somebody made it since we looked, and our fields are in it now: take them out again.
            metadata = {key: wanted["metadata"][key] for key in ("name", "namespace")}
            await self._cluster.apply({**_head(wanted), "metadata": metadata}, force=False)
            raise ConflictError(f"{ref(wanted)}: somebody else made it at the same moment")
        log.info("object_made", extra={"object": str(ref(wanted))})
        return applied.live

    async def _tidy(self, proxy: LLMProxy, wanted: Sequence[Manifest], deployment: Manifest, *, complete: bool) -> None:
        """Delete children that are not wanted any more, and documents that no pod can need."""
        if not await self._left(proxy, wanted, deployment, fresh=False):
            return
        # Nothing is deleted because of what was so a moment ago.
        for item in await self._left(proxy, wanted, deployment, fresh=True):
            if ownership.is_store(item) and not complete:
                continue  # the pods before count in it until they are told to end
            await self._cluster.delete(ref(item), uid=item["metadata"]["uid"])
            log.info("object_deleted", extra={"object": str(ref(item))})

    async def _left(
        self, proxy: LLMProxy, wanted: Sequence[Manifest], deployment: Manifest, *, fresh: bool
    ) -> list[Manifest]:
        """Return the children that nobody needs."""
        place = (proxy.metadata.namespace, {names.LABEL_NAME: proxy.metadata.name})
        maps, sets, *others = await asyncio.gather(
            self._cluster.list("v1", "ConfigMap", *place, fresh=fresh),
            self._cluster.list("apps/v1", "ReplicaSet", *place, fresh=fresh),
            *(self._cluster.list(*kind, *place, fresh=fresh) for kind in TIDIED),
        )
        ours = [item for item in maps if standing(item, proxy) is Standing.OURS]
        keep = [item["metadata"]["name"] for item in wanted if ownership.is_document(item)]
        stale = set(stale_configs(ours, [*sets, deployment], keep=keep))
        gone = [item for item in ours if item["metadata"]["name"] in stale]
        return gone + list(ownership.unwanted([*maps, *itertools.chain(*others)], proxy, wanted))

    async def _present(self, raw: Manifest) -> Rollout:
        """Observe the Deployment that is there, if it is ours, while nothing can be changed.

        Without the words of its containers: its pods may know Secrets of before, which no pass can read any more.
        """
        metadata = raw["metadata"]
        target = Ref("apps/v1", "Deployment", metadata["namespace"], names.deployment(metadata["name"]))
        deployment = await self._cluster.get(target)
        ours = deployment is not None and owner_uid(deployment) == metadata["uid"]
        return await self._observe(deployment if ours else None, None, floor_of(raw.get("spec") or {}))

    async def _observe(self, deployment: Manifest | None, contents: Sequence[str] | None, floor: int | None) -> Rollout:
        seen = rollout(deployment, (), now=self._around.now(), floor=floor)
        if deployment is None or seen.complete or seen.wanted == 0:
            return seen
        metadata = deployment["metadata"]
        pods = await self._cluster.list(
            "v1", "Pod", metadata["namespace"], deployment["spec"]["selector"]["matchLabels"]
        )
        return rollout(deployment, pods, now=self._around.now(), secrets=contents, floor=floor)

    async def _report(self, key: Key, raw: Manifest, view: View) -> Manifest:
        """Write the status if it says something new; return the object as it is then."""
        before = reporting.reported(raw)
        made = reporting.status(view, before, now=self._around.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        if reporting.same(made, before):
            return raw
        metadata = {name: raw["metadata"][name] for name in ("name", "namespace", "uid")}
        self._around.about_to_write(key, made)
        live = await self._cluster.apply_status({**_head(raw), "metadata": metadata, "status": made})
        ready = reporting.condition(made, reporting.READY)
        log.info("status_written", extra={"proxy": str(key), "ready": ready["status"], "reason": ready["reason"]})
        await self._announcer.announce(raw, before, made)
        return live

    def _again_s(self, key: Key, view: View) -> float:
        trouble, failure = view.trouble, view.rollout.failure
        if trouble is None and view.lacks is not None:
            return FOREIGN_RETRY_S
        if trouble is None:
            pulls = failure is not None and failure.reason == "ImagePullFailed" and not failure.final
            return PULL_RETRY_S if pulls else math.inf
        if trouble.reason == "WaitingForDeletion":
            return LEAVING_RETRY_S
        if trouble.reason in {"NameConflict", "ObjectRefused", "QuotaExceeded"}:
            return FOREIGN_RETRY_S
        if not trouble.final and key in self._waiting:
            return max(0.1, self._waiting[key][1] + PATIENCE_S - self._around.clock())
        return math.inf

    def _forget(self, key: Key) -> None:
        self._secrets.forget(key)
        self._waiting.pop(key, None)


def _head(manifest: Manifest) -> Manifest:
    return {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"]}


def _annotations(raw: Manifest) -> dict[str, str]:
    return raw["metadata"].get("annotations") or {}


def _generation(raw: Manifest) -> int:
    return int(raw["metadata"]["generation"])


def _gateways(proxy: LLMProxy) -> Ref:
    return Ref("apps/v1", "Deployment", proxy.metadata.namespace, names.deployment(proxy.metadata.name))


def _blocked(found: Sequence[Child]) -> Trouble | None:
    """Return why nothing may be written, None if it may: all objects are judged before the first is touched."""
    foreign = [str(child.ref) for child in found if child.standing is Standing.FOREIGN]
    if foreign:
        message = f"{', '.join(foreign)} is there and not ours: delete it, or give the LLMProxy another name"
        return Trouble("NameConflict", message, final=True)
    leaving = [str(child.ref) for child in found if child.standing is Standing.LEAVING]
    if leaving:
        return Trouble("WaitingForDeletion", f"{', '.join(leaving)} is still being deleted", final=False)
    return None
