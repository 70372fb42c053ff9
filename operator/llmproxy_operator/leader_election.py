"""Leader election by a Lease: one process of several holds it, the others wait, and a process that loses it ends.

A holder that cannot renew gives up before anybody else may take over, by its own clock alone. Candidates judge the
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
class LeaseTiming:
    """Times in seconds: retry < renew_deadline < duration; the difference of the last two is the safety margin."""

    duration_s: float = 15.0
    renew_deadline_s: float = 10.0
    retry_s: float = 2.0


class LeaderElector:
    """One candidate for a Lease."""

    def __init__(
        self,
        cluster: Cluster,
        target: Ref,
        *,
        identity: str,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        timing: LeaseTiming | None = None,
    ) -> None:
        """*identity* is unique to this process, also among restarts of one pod."""
        self._cluster = cluster
        self._target = target
        self._identity = identity
        self._clock = clock
        self._now = now
        self._timing = timing or LeaseTiming()
        self._observed: tuple[str, float] | None = None
        self._renewed_s = -math.inf
        self.holder = ""
        """Holder of the Lease when it was last read, for people."""

    async def acquire(self, on_answer: Callable[[], None] = lambda: None) -> None:
        """Wait until the Lease is ours; *on_answer* is called whenever the API server has answered."""
        logged_holder, logged_error = None, ""
        while True:
            start_s = self._clock()
            try:
                if await self._try():
                    self._renewed_s = start_s
                    log.info("lease_acquired", extra={"lease": str(self._target), "holder": self._identity})
                    on_answer()
                    return
                on_answer()
            except ConflictError:
                pass  # somebody else was faster
            except ClusterError as exc:
                if str(exc) != logged_error:  # once, not with every try
                    logged_error = str(exc)
                    log.warning("lease_unavailable", extra={"lease": str(self._target), "error": logged_error})
            if self.holder and self.holder != logged_holder:
                logged_holder = self.holder
                log.info("lease_waiting", extra={"lease": str(self._target), "holder": self.holder})
            await asyncio.sleep(self._timing.retry_s)

    async def renew(self) -> NoReturn:
        """Renew for ever; raise LeaseLostError once it is lost or could not be renewed in time."""
        while True:
            await asyncio.sleep(self._timing.retry_s)
            start_s = self._clock()
            try:
                async with asyncio.timeout(max(0.1, self._renewed_s + self._timing.renew_deadline_s - start_s)):
                    if await self._try():
                        self._renewed_s = start_s
                        continue
                raise LeaseLostError(f"{self._target} is held by {self.holder!r} now")
            except (ClusterError, TimeoutError) as exc:
                log.warning("lease_not_renewed", extra={"lease": str(self._target), "error": str(exc)})
                self.check()

    def check(self) -> None:
        """Raise LeaseLostError if the Lease may be another's by now.

        Call it before each write: a suspended process resumes in the middle of a reconcile, before it reads the Lease.
        """
        if self._clock() - self._renewed_s >= self._timing.renew_deadline_s:
            raise LeaseLostError(f"{self._target} could not be renewed for {self._timing.renew_deadline_s:.0f} s")

    async def release(self) -> None:
        """Release the Lease, so that the next holder need not wait; best effort."""
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
        spec["leaseDurationSeconds"] = int(self._timing.duration_s)
        spec["renewTime"] = self._micro_time()
        await self._cluster.replace(lease)
        self.holder = self._identity
        return True

    def _expired(self, lease: Manifest) -> bool:
        """Return whether the Lease has been unchanged for longer than its duration."""
        version = str(lease["metadata"]["resourceVersion"])
        if self._observed is None or self._observed[0] != version:
            self._observed = (version, self._clock())
        duration_s = float(lease["spec"].get("leaseDurationSeconds") or self._timing.duration_s)
        return self._clock() - self._observed[1] >= duration_s

    def _new(self) -> Manifest:
        at = self._micro_time()
        return {
            "apiVersion": self._target.api_version,
            "kind": self._target.kind,
            "metadata": {"name": self._target.name, "namespace": self._target.namespace},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": int(self._timing.duration_s),
                "acquireTime": at,
                "renewTime": at,
                "leaseTransitions": 0,
            },
        }

    def _micro_time(self) -> str:
        return self._now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
