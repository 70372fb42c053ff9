"""Who works: a Lease that one process of several holds. The others wait; who loses it must end.

A holder that cannot renew gives up before anybody else may take over, judged by its own clock alone. Others judge the
Lease by how long they have seen it unchanged, so clocks of different machines need not agree.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NoReturn

from llmproxy_operator.cluster import Cluster
from llmproxy_operator.errors import ClusterError, ConflictError, LeaseLostError
from llmproxy_operator.manifest import Manifest, Ref

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Terms:
    """Times in seconds: retry < renew_deadline < duration, and what lies between the last two is the safety."""

    duration_s: float = 15.0
    renew_deadline_s: float = 10.0
    retry_s: float = 2.0


class Election:
    """One candidate for a Lease."""

    def __init__(
        self,
        cluster: Cluster,
        target: Ref,
        *,
        identity: str,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        terms: Terms | None = None,
    ) -> None:
        """*identity* tells this process from all others, also from the one before in the same pod."""
        self._cluster = cluster
        self._target = target
        self._identity = identity
        self._clock = clock
        self._now = now
        self._terms = terms or Terms()
        self._seen: tuple[str, float] | None = None
        self._renewed_s = -math.inf
        self.holder = ""
        """Who held the Lease when it was last read, for people."""

    async def acquire(self, told: Callable[[], None] = lambda: None) -> None:
        """Wait until the Lease is ours; *told* is called whenever the API server has answered."""
        waiting_for, complained = None, ""
        while True:
            began_s = self._clock()
            try:
                if await self._try():
                    self._renewed_s = began_s
                    log.info("lease_acquired", extra={"lease": str(self._target), "holder": self._identity})
                    told()
                    return
                told()
            except ConflictError:
                pass  # somebody else was faster
            except ClusterError as exc:
                if str(exc) != complained:  # not once more with every try
                    complained = str(exc)
                    log.warning("lease_unavailable", extra={"lease": str(self._target), "error": complained})
            if self.holder and self.holder != waiting_for:
                waiting_for = self.holder
                log.info("lease_awaited", extra={"lease": str(self._target), "holder": self.holder})
            await asyncio.sleep(self._terms.retry_s)

    async def keep(self) -> NoReturn:
        """Renew for ever; raise LeaseLostError once it is lost or could not be renewed in time."""
        while True:
            await asyncio.sleep(self._terms.retry_s)
            began_s = self._clock()
            try:
                async with asyncio.timeout(max(0.1, self._renewed_s + self._terms.renew_deadline_s - began_s)):
                    if await self._try():
                        self._renewed_s = began_s
                        continue
                raise LeaseLostError(f"{self._target} is held by {self.holder!r} now")
            except (ClusterError, TimeoutError) as exc:
                log.warning("lease_not_renewed", extra={"lease": str(self._target), "error": str(exc)})
                self.check()

    def check(self) -> None:
        """Raise LeaseLostError if the Lease may be another's by now.

        Ask before each write: a process that stood still goes on in the midst of a pass, before it looks at the Lease.
        """
        if self._clock() - self._renewed_s >= self._terms.renew_deadline_s:
            raise LeaseLostError(f"{self._target} could not be renewed for {self._terms.renew_deadline_s:.0f} s")

    async def release(self) -> None:
        """Give the Lease back, so that the next one need not wait; best effort."""
        try:
            lease = await self._cluster.get(self._target)
            if lease is not None and lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._cluster.replace(lease)
        except ClusterError as exc:
            log.warning("lease_not_released", extra={"lease": str(self._target), "error": str(exc)})

    async def _try(self) -> bool:
        """Take or renew the Lease if nobody else holds it; return whether it is ours."""
        lease = await self._cluster.get(self._target)
        if lease is None:
            await self._cluster.create(self._new())
            self.holder = self._identity
            return True
        spec = lease.setdefault("spec", {})
        self.holder = str(spec.get("holderIdentity") or "")
        if self.holder not in {"", self._identity} and not self._expired(lease):
            return False
        if self.holder != self._identity:
            spec["acquireTime"] = self._micro_time()
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + 1
        spec["holderIdentity"] = self._identity
        spec["leaseDurationSeconds"] = int(self._terms.duration_s)
        spec["renewTime"] = self._micro_time()
        await self._cluster.replace(lease)
        self.holder = self._identity
        return True

    def _expired(self, lease: Manifest) -> bool:
        """Whether the Lease has been seen unchanged for longer than it lasts."""
        version = str(lease["metadata"]["resourceVersion"])
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, self._clock())
        lasts_s = float(lease["spec"].get("leaseDurationSeconds") or self._terms.duration_s)
        return self._clock() - self._seen[1] >= lasts_s

    def _new(self) -> Manifest:
        at = self._micro_time()
        return {
            "apiVersion": self._target.api_version,
            "kind": self._target.kind,
            "metadata": {"name": self._target.name, "namespace": self._target.namespace},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": int(self._terms.duration_s),
                "acquireTime": at,
                "renewTime": at,
                "leaseTransitions": 0,
            },
        }

    def _micro_time(self) -> str:
        return self._now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
