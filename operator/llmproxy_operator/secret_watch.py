"""Secrets that LLMProxies name: read in each reconcile, and polled in between.

Each is fetched by name, so the operator needs no right to list or watch Secrets. Contents are dropped at the end of a
reconcile; only the version of each Secret is remembered. The operator's own Secrets are cached for some seconds:
reconciles follow each other while a proxy starts or rolls.
"""

import asyncio
import base64
import binascii
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from llmproxy_operator.cluster import Cluster
from llmproxy_operator.errors import ClusterError
from llmproxy_operator.manifest import Manifest, Ref, owner_uid, ref
from llmproxy_operator.reasons import Reason
from llmproxy_operator.render import SecretRef, secret_digest
from llmproxy_operator.workqueue import Key

log = logging.getLogger(__name__)

INTERVAL_S = 30.0
"""Polling interval of a Secret; an edit rolls pods within this time."""
URGENT_INTERVAL_S = 3.0
"""Polling interval while a proxy waits for the Secret."""
OWN_INTERVAL_S = 120.0
"""Polling interval of our own Secrets, which nobody else has a reason to touch."""
OWN_CACHE_S = 30.0
"""A reconcile uses our own Secret from the cache if it was read within this time."""
PARALLEL = 4
_TICK_S = 0.5


@dataclass(frozen=True)
class Credentials:
    """Contents of the Secrets of one proxy."""

    digests: Mapping[SecretRef, str]
    versions: Mapping[str, str | None]
    """Version of each Secret; None: it does not exist."""
    missing: tuple[Reason, str] | None = None
    """Reason and message, if a Secret or key is missing."""
    contents: Sequence[str] = field(default=(), repr=False)
    """For redaction; never stored."""


async def read(
    cluster: Cluster, namespace: str, uid: str, refs: Sequence[SecretRef], whole: str | None = None
) -> Credentials:
    """Read every Secret of *refs*, and *whole*, whose values are all keys of callers and go into no digest.

    Raise ClusterError rather than take a failed read for a missing Secret.
    """
    secret_names = sorted({name for name, _ in refs} | ({whole} if whole is not None else set()))
    secrets = await asyncio.gather(*(cluster.get(_ref(namespace, name)) for name in secret_names))
    live = dict(zip(secret_names, secrets, strict=True))
    digests: dict[SecretRef, str] = {}
    contents: list[str] = []
    missing: list[tuple[Reason, str]] = []
    for name, key in refs:
        secret = live[name]
        if secret is None:
            missing.append((Reason.SECRET_NOT_FOUND, _absent(name, namespace)))
            continue
        content = decoded((secret.get("data") or {}).get(key))
        if not content:
            message = f"Secret {name!r} has no key {key!r}: add it, or name another key"
            missing.append((Reason.SECRET_KEY_NOT_FOUND, message))
            continue
        digests[name, key] = secret_digest(uid, content)
        contents.append(content.decode(errors="replace").strip())
    if whole is not None:
        keys = _keys(live[whole])
        contents.extend(keys)
        if live[whole] is None:
            missing.append((Reason.SECRET_NOT_FOUND, _absent(whole, namespace)))
        elif not keys:
            message = f"Secret {whole!r} is empty, and each of its values is a caller's key: add one under any name"
            missing.append((Reason.SECRET_KEY_NOT_FOUND, message))
    versions = {name: _version(item) for name, item in live.items()}
    return Credentials(digests, versions, missing[0] if missing else None, tuple(contents))


def _keys(secret: Manifest | None) -> list[str]:
    values = ((secret or {}).get("data") or {}).values()
    return [text for value in values if (text := decoded(value).decode(errors="replace").strip())]


def _absent(name: str, namespace: str) -> str:
    return f"Secret {name!r} does not exist in namespace {namespace!r}: create it"


def _version(secret: Manifest | None) -> str | None:
    return None if secret is None else str(secret["metadata"]["resourceVersion"])


def _ref(namespace: str, name: str) -> Ref:
    return Ref("v1", "Secret", namespace, name)


def decoded(encoded: str | None) -> bytes:
    """Return the content of a Secret's key; empty if it is not base64."""
    try:
        return base64.b64decode(encoded or "")
    except binascii.Error:
        return b""


@dataclass
class _WatchedSecret:
    """One Secret, and the version that each of its proxies was rendered with."""

    due_s: float
    versions: dict[Key, str | None] = field(default_factory=dict)
    urgent: set[Key] = field(default_factory=set)
    is_own: bool = False
    """The operator created it."""
    cached: tuple[Manifest, float] | None = field(default=None, repr=False)
    """Our own Secret, and when it was read."""


class SecretWatch:
    """Polls every watched Secret and calls *wake* for the proxies that were rendered with another version."""

    def __init__(
        self, cluster: Cluster, wake: Callable[[Key], None], *, clock: Callable[[], float], jitter: Callable[[], float]
    ) -> None:
        """*clock* counts seconds; *jitter* gives numbers from 0 to 1 that spread the requests over time."""
        self._cluster = cluster
        self._wake = wake
        self._clock = clock
        self._jitter = jitter
        self._watched: dict[Ref, _WatchedSecret] = {}
        self._of: dict[Key, set[Ref]] = {}

    def follow(
        self, key: Key, versions: Mapping[str, str | None], *, own: Sequence[Manifest] = (), urgent: bool = False
    ) -> None:
        """Poll the Secrets of a proxy, by name with the versions it was rendered with, and no others for it.

        *own* are the live Secrets that the operator created for it.
        """
        mine = {ref(item): item for item in own}
        rendered = {_ref(key.namespace, name): version for name, version in versions.items()}
        rendered |= {target: _version(item) for target, item in mine.items()}
        for target in self._of.pop(key, set()) - rendered.keys():
            self._drop(target, key)
        for target, version in rendered.items():
            first_s = self._next(urgent=urgent, own=target in mine)
            entry = self._watched.setdefault(target, _WatchedSecret(first_s))
            entry.versions[key] = version
            entry.is_own = target in mine
            if entry.is_own and (entry.cached is None or _version(entry.cached[0]) != version):
                entry.cached = (mine[target], self._clock())
            if urgent:
                entry.urgent.add(key)
                entry.due_s = min(entry.due_s, first_s)
            else:
                entry.urgent.discard(key)
        if rendered:
            self._of[key] = set(rendered)

    async def own(self, target: Ref, uid: str) -> Manifest | None:
        """Return our own Secret for the proxy of that *uid*, possibly from the cache; None if there is none."""
        entry = self._watched.get(target)
        if entry is not None and entry.cached is not None:
            secret, at_s = entry.cached
            if owner_uid(secret) == uid and self._clock() - at_s < OWN_CACHE_S:
                return secret
        live = await self._cluster.get(target)
        if entry is not None:
            entry.cached = None if live is None else (live, self._clock())
        return live

    def forget(self, key: Key) -> None:
        """Poll nothing for a proxy any more."""
        self.follow(key, {}, urgent=False)

    async def run(self) -> NoReturn:
        """Poll for ever."""
        while True:
            await self.poll()
            await asyncio.sleep(_TICK_S)

    async def poll(self) -> None:
        """Read every Secret that is due."""
        now_s = self._clock()
        for entry in self._watched.values():
            if entry.cached is not None and now_s - entry.cached[1] >= OWN_CACHE_S:
                entry.cached = None
        due = [target for target, entry in self._watched.items() if entry.due_s <= now_s]
        gate = asyncio.Semaphore(PARALLEL)

        async def ask(target: Ref) -> None:
            async with gate:
                await self._ask(target)

        await asyncio.gather(*(ask(target) for target in due))

    async def _ask(self, target: Ref) -> None:
        entry = self._watched.get(target)
        if entry is None:
            return
        entry.due_s = self._next(urgent=bool(entry.urgent), own=entry.is_own)
        try:
            secret = await self._cluster.get(target)
        except ClusterError as exc:
            place = {"namespace": target.namespace, "secret": target.name}
            log.warning("secret_unreadable", extra={**place, "error": str(exc)})
            return
        for key in [key for key, version in entry.versions.items() if version != _version(secret)]:
            entry.cached = None  # stale
            self._wake(key)

    def _next(self, *, urgent: bool, own: bool) -> float:
        interval_s = URGENT_INTERVAL_S if urgent else OWN_INTERVAL_S if own else INTERVAL_S
        return self._clock() + interval_s * (0.8 + 0.2 * self._jitter())

    def _drop(self, target: Ref, key: Key) -> None:
        entry = self._watched[target]
        entry.versions.pop(key, None)
        entry.urgent.discard(key)
        if not entry.versions:
            del self._watched[target]
