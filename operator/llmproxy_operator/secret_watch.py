"""The Secrets that proxies name: read for a pass, and looked after between passes by asking again.

They are fetched by name, so the operator needs no right to list or watch Secrets. Contents are kept no longer than a
pass takes; between passes only the version of each Secret is remembered. Those that the operator made itself are kept
for some seconds: passes come one after another while a proxy starts or rolls.
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
from llmproxy_operator.render import SecretRef, secret_digest
from llmproxy_operator.workqueue import Key

log = logging.getLogger(__name__)

INTERVAL_S = 30.0
"""How often a Secret is asked for while all is well; an edit rolls pods within this time."""
URGENT_INTERVAL_S = 3.0
"""How often while a proxy waits for it."""
OWN_INTERVAL_S = 120.0
"""How often one that we made is asked for: nobody else has a reason to touch it."""
OWN_S = 30.0
"""A pass asks anew for one that it made if that is longer ago."""
PARALLEL = 4
_TICK_S = 0.5


@dataclass(frozen=True)
class Credentials:
    """What the Secrets of one proxy hold."""

    digests: Mapping[SecretRef, str]
    versions: Mapping[str, str | None]
    """Of each Secret; None: it is not there."""
    missing: tuple[str, str] | None = None
    """Reason and message, if something is not there."""
    contents: Sequence[str] = field(default=(), repr=False)
    """To keep them out of messages; never stored."""


async def read(
    cluster: Cluster, namespace: str, uid: str, refs: Sequence[SecretRef], whole: str | None = None
) -> Credentials:
    """Read every Secret of *refs*, and the one whose values are all keys of callers (*whole*), of which no digest is.

    Raise ClusterError rather than take a failed read for a missing Secret.
    """
    wanted = sorted({name for name, _ in refs} | ({whole} if whole is not None else set()))
    found = await asyncio.gather(*(cluster.get(_ref(namespace, name)) for name in wanted))
    live = dict(zip(wanted, found, strict=True))
    digests: dict[SecretRef, str] = {}
    contents: list[str] = []
    missing: list[tuple[str, str]] = []
    for name, key in refs:
        secret = live[name]
        if secret is None:
            missing.append(("SecretNotFound", _not_there(name, namespace)))
            continue
        content = decoded((secret.get("data") or {}).get(key))
        if not content:
            message = f"Secret {name!r} has nothing under the key {key!r}: add it, or name another key"
            missing.append(("SecretKeyNotFound", message))
            continue
        digests[name, key] = secret_digest(uid, content)
        contents.append(content.decode(errors="replace").strip())
    if whole is not None:
        keys = _keys(live[whole])
        contents.extend(keys)
        if live[whole] is None:
            missing.append(("SecretNotFound", _not_there(whole, namespace)))
        elif not keys:
            message = f"Secret {whole!r} has no value, and each is a key of a caller: add one under any name"
            missing.append(("SecretKeyNotFound", message))
    versions = {name: _version(item) for name, item in live.items()}
    return Credentials(digests, versions, missing[0] if missing else None, tuple(contents))


def _keys(secret: Manifest | None) -> list[str]:
    values = ((secret or {}).get("data") or {}).values()
    return [text for value in values if (text := decoded(value).decode(errors="replace").strip())]


def _not_there(name: str, namespace: str) -> str:
    return f"Secret {name!r} is not in namespace {namespace!r}: create it"


def _version(secret: Manifest | None) -> str | None:
    return None if secret is None else str(secret["metadata"]["resourceVersion"])


def _ref(namespace: str, name: str) -> Ref:
    return Ref("v1", "Secret", namespace, name)


def decoded(written: str | None) -> bytes:
    """Return the content that stands in a Secret's data; what is no base64 is as good as nothing."""
    try:
        return base64.b64decode(written or "")
    except binascii.Error:
        return b""


@dataclass
class _Followed:
    """One Secret, and the version that each of its proxies was rendered with."""

    due_s: float
    versions: dict[Key, str | None] = field(default_factory=dict)
    urgent: set[Key] = field(default_factory=set)
    made: bool = False
    """It is one that we made."""
    own: tuple[Manifest, float] | None = field(default=None, repr=False)
    """Then, for some seconds: what it is, and when it was so."""


class SecretWatch:
    """Asks for every followed Secret from time to time and calls *wake* for the proxies that have not seen it so."""

    def __init__(
        self, cluster: Cluster, wake: Callable[[Key], None], *, clock: Callable[[], float], jitter: Callable[[], float]
    ) -> None:
        """*clock* counts seconds; *jitter* gives numbers from 0 to 1 that spread the questions over time."""
        self._cluster = cluster
        self._wake = wake
        self._clock = clock
        self._jitter = jitter
        self._followed: dict[Ref, _Followed] = {}
        self._of: dict[Key, set[Ref]] = {}

    def follow(
        self, key: Key, versions: Mapping[str, str | None], *, own: Sequence[Manifest] = (), urgent: bool = False
    ) -> None:
        """Look after the Secrets of a proxy, by name with the versions it has seen, and no longer after others.

        *own* are those that we made for it, as they are now.
        """
        mine = {ref(item): item for item in own}
        seen = {_ref(key.namespace, name): version for name, version in versions.items()}
        seen |= {target: _version(item) for target, item in mine.items()}
        for target in self._of.pop(key, set()) - seen.keys():
            self._drop(target, key)
        for target, version in seen.items():
            first_s = self._next(urgent=urgent, own=target in mine)
            entry = self._followed.setdefault(target, _Followed(first_s))
            entry.versions[key] = version
            entry.made = target in mine
            if entry.made and (entry.own is None or _version(entry.own[0]) != version):
                entry.own = (mine[target], self._clock())
            if urgent:
                entry.urgent.add(key)
                entry.due_s = min(entry.due_s, first_s)
            else:
                entry.urgent.discard(key)
        if seen:
            self._of[key] = set(seen)

    async def own(self, target: Ref, uid: str) -> Manifest | None:
        """Return a Secret that we make for the proxy of that *uid*, as it was not long ago; None if there is none."""
        entry = self._followed.get(target)
        if entry is not None and entry.own is not None:
            known, at_s = entry.own
            if owner_uid(known) == uid and self._clock() - at_s < OWN_S:
                return known
        found = await self._cluster.get(target)
        if entry is not None:
            entry.own = None if found is None else (found, self._clock())
        return found

    def forget(self, key: Key) -> None:
        """Follow nothing for a proxy any more."""
        self.follow(key, {}, urgent=False)

    async def run(self) -> NoReturn:
        """Ask for ever."""
        while True:
            await self.poll()
            await asyncio.sleep(_TICK_S)

    async def poll(self) -> None:
        """Ask for every Secret whose time has come."""
        now_s = self._clock()
        for entry in self._followed.values():
            if entry.own is not None and now_s - entry.own[1] >= OWN_S:
                entry.own = None
        due = [target for target, entry in self._followed.items() if entry.due_s <= now_s]
        gate = asyncio.Semaphore(PARALLEL)

        async def ask(target: Ref) -> None:
            async with gate:
                await self._ask(target)

        await asyncio.gather(*(ask(target) for target in due))

    async def _ask(self, target: Ref) -> None:
        entry = self._followed.get(target)
        if entry is None:
            return
        entry.due_s = self._next(urgent=bool(entry.urgent), own=entry.made)
        try:
            secret = await self._cluster.get(target)
        except ClusterError as exc:
            place = {"namespace": target.namespace, "secret": target.name}
            log.warning("secret_unreadable", extra={**place, "error": str(exc)})
            return
        for key in [key for key, seen in entry.versions.items() if seen != _version(secret)]:
            entry.own = None  # what we know of it is not so any more
            self._wake(key)

    def _next(self, *, urgent: bool, own: bool) -> float:
        interval_s = URGENT_INTERVAL_S if urgent else OWN_INTERVAL_S if own else INTERVAL_S
        return self._clock() + interval_s * (0.8 + 0.2 * self._jitter())

    def _drop(self, target: Ref, key: Key) -> None:
        entry = self._followed[target]
        entry.versions.pop(key, None)
        entry.urgent.discard(key)
        if not entry.versions:
            del self._followed[target]
