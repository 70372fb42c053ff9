"""Load balancing over the deployments of a model.

Calls of a rollout go to one deployment, whose prefix cache has the conversation: rendezvous hashing with bounded load.
A deployment that goes moves only its own rollouts. One with far more than its share of the calls is passed over for the
next in the rollout's order. Calls without a rollout go by weight. Outlier detection ejects a deployment that fails
several times in a row. It comes back with real traffic, one call at a time until one succeeds. When all are
ejected, all are used.
"""

import hashlib
import math
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from llmproxy.gateway.upstreams.deployments import Upstream

FAILURES_TO_EJECT: Final = 5
"""Failures in a row; one or two happen to healthy servers."""
FIRST_EJECTION_S: Final = 5.0
MAX_EJECTION_S: Final = 60.0
OVERLOAD: Final = 1.25
"""Factor over its share of the calls in flight above which rollouts pass a deployment over."""
NEVER_OVERLOADED: Final = 8
"""Calls in flight below which no deployment is passed over: servers batch, and a rollout that moves loses its cache."""


@dataclass(slots=True)
class DeploymentHealth:
    """Outlier detection of a deployment, by real traffic."""

    failures: int = 0
    ejections: int = 0
    ejected_until_s: float = 0.0
    in_flight: int = 0


class Balancer:
    """Balancer over the deployments of one model."""

    def __init__(self, upstreams: Sequence[Upstream], clock: Callable[[], float], rand: random.Random) -> None:
        self.upstreams = tuple(upstreams)
        self.health = {t.id: DeploymentHealth() for t in upstreams}
        self._clock = clock
        self._rand = rand

    def pick(self, rollout_id: str, tried: Collection[str] = (), among: Sequence[Upstream] = ()) -> Upstream:
        """Return the deployment for a call, one of *among* (default: all).

        One in *tried* is returned only when all have been tried.
        """
        upstreams = among or self.upstreams
        if len(upstreams) == 1:
            return upstreams[0]
        fresh = [t for t in upstreams if t.id not in tried] or list(upstreams)
        healthy = [t for t in fresh if self._is_open(t)] or fresh
        weighed = [t for t in healthy if t.weight > 0] or healthy
        if rollout_id:
            return self._bounded(rollout_id, weighed)
        weights = [t.weight or 1 for t in weighed]
        return self._rand.choices(weighed, weights)[0]

    def has_untried(self, tried: Collection[str], among: Sequence[Upstream] = ()) -> bool:
        """Return True when a healthy deployment with a weight, of *among* (default: all), is not in *tried*."""
        return any(t.id not in tried and t.weight > 0 and self._is_open(t) for t in among or self.upstreams)

    def start(self, upstream: Upstream) -> None:
        """Count an attempt in flight; `finish` must follow."""
        self.health[upstream.id].in_flight += 1

    def finish(self, upstream: Upstream) -> None:
        """Count the end of an attempt and of its response."""
        self.health[upstream.id].in_flight -= 1

    def _is_open(self, upstream: Upstream) -> bool:
        """Return True when *upstream* takes calls; after an ejection only one at a time."""
        health = self.health[upstream.id]
        return health.ejected_until_s <= self._clock() and not (health.ejections and health.in_flight)

    def _bounded(self, rollout_id: str, upstreams: Sequence[Upstream]) -> Upstream:
        """Return the first of *upstreams* in the rollout's order that has capacity; there is always one."""
        loads = [self.health[t.id].in_flight for t in upstreams]
        most = capacities([t.weight or 1 for t in upstreams], sum(loads))
        open_ = [t for t, load, limit in zip(upstreams, loads, most, strict=True) if load < limit]
        return max(open_, key=lambda t: score(rollout_id, t.id, t.weight))

    def is_ejected(self, deployment_id: str) -> bool:
        """Return True while a deployment is ejected."""
        return self.health[deployment_id].ejected_until_s > self._clock()

    def report(self, upstream: Upstream, *, ok: bool) -> None:
        """Record the outcome of an attempt."""
        health = self.health[upstream.id]
        if ok:
            if health.failures or health.ejections:
                health.failures = health.ejections = 0
            return
        health.failures += 1
        if health.failures >= FAILURES_TO_EJECT:
            health.ejected_until_s = self._clock() + min(MAX_EJECTION_S, FIRST_EJECTION_S * 2**health.ejections)
            health.ejections = min(health.ejections + 1, 8)
            health.failures = FAILURES_TO_EJECT - 1  # one more failure ejects it again


def capacities(weights: Sequence[int], in_flight: int) -> list[int]:
    """Return the calls of each above which rollouts pass it over, for *in_flight* calls and one more.

    Their sum is more than there are calls, so one of them always has capacity.
    """
    share = OVERLOAD * (in_flight + 1) / sum(weights)
    return [max(NEVER_OVERLOADED, math.ceil(share * weight)) for weight in weights]


def score(rollout_id: str, deployment_id: str, weight: int) -> float:
    """Return the score of weighted rendezvous hashing: the highest wins, in proportion to the weights."""
    digest = hashlib.blake2b(f"{rollout_id}\0{deployment_id}".encode(), digest_size=8).digest()
    part = (int.from_bytes(digest, "big") + 1) / (2**64 + 2)
    return -(weight or 1) / math.log(part)
