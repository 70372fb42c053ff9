"""Which deployment of a model gets a call.

Calls of one rollout go to one deployment as long as it is healthy, since its prefix cache knows the conversation
(rendezvous hashing, so that a deployment that leaves moves only its own rollouts), unless it has far more than its
share of the calls already: then to the next in the rollout's own order (hashing with bounded load). Others go by
weight. A deployment that fails again and again is set aside for a while and brought back by real traffic, a call at a
time until one succeeds; never all of them.
"""

import hashlib
import math
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from llmproxy.gateway.upstreams.deployments import Target

FAILURES_TO_EJECT: Final = 5
"""Failures in a row; one or two happen to healthy servers."""
FIRST_EJECTION_S: Final = 5.0
MAX_EJECTION_S: Final = 60.0
OVERLOAD: Final = 1.25
"""How much more than its share of the calls in flight a deployment may have before rollouts pass it by."""
NEVER_OVERLOADED: Final = 8
"""Calls in flight that no deployment is passed by for: servers batch, and moving a rollout costs it its cache."""


@dataclass(slots=True)
class Health:
    """What real traffic says of a deployment."""

    failures: int = 0
    ejections: int = 0
    aside_until_s: float = 0.0
    in_flight: int = 0


class Balancer:
    """Chooses among the deployments of one model."""

    def __init__(self, targets: Sequence[Target], clock: Callable[[], float], rand: random.Random) -> None:
        self.targets = tuple(targets)
        self.health = {t.id: Health() for t in targets}
        self._clock = clock
        self._rand = rand

    def pick(self, rollout_id: str, tried: Collection[str] = (), among: Sequence[Target] = ()) -> Target:
        """Return the deployment for a call, one of *among* if they are said.

        One that is in *tried* is returned only when all have been tried.
        """
        targets = among or self.targets
        if len(targets) == 1:
            return targets[0]
        fresh = [t for t in targets if t.id not in tried] or list(targets)
        healthy = [t for t in fresh if self._is_open(t)] or fresh
        weighed = [t for t in healthy if t.weight > 0] or healthy
        if rollout_id:
            return self._bounded(rollout_id, weighed)
        weights = [t.weight or 1 for t in weighed]
        return self._rand.choices(weighed, weights)[0]

    def untried(self, tried: Collection[str], among: Sequence[Target] = ()) -> bool:
        """Whether a healthy deployment with a weight, one of *among* if they are said, has not been tried yet."""
        return any(t.id not in tried and t.weight > 0 and self._is_open(t) for t in among or self.targets)

    def began(self, target: Target) -> None:
        """A try of *target* is on its way; `ended` must follow."""
        self.health[target.id].in_flight += 1

    def ended(self, target: Target) -> None:
        """The try, or the answer that it led to, is over."""
        self.health[target.id].in_flight -= 1

    def _is_open(self, target: Target) -> bool:
        """Whether *target* takes calls: one that comes back from being set aside, only one at a time."""
        health = self.health[target.id]
        return health.aside_until_s <= self._clock() and not (health.ejections and health.in_flight)

    def _bounded(self, rollout_id: str, targets: Sequence[Target]) -> Target:
        """Return the first of *targets* in the rollout's order that has room; there is always one."""
        loads = [self.health[t.id].in_flight for t in targets]
        rooms = room([t.weight or 1 for t in targets], sum(loads))
        open_ = [t for t, load, most in zip(targets, loads, rooms, strict=True) if load < most]
        return max(open_, key=lambda t: score(rollout_id, t.id, t.weight))

    def is_aside(self, deployment_id: str) -> bool:
        """Whether a deployment is set aside now."""
        return self.health[deployment_id].aside_until_s > self._clock()

    def report(self, target: Target, *, ok: bool) -> None:
        """Remember how a call to *target* went."""
        health = self.health[target.id]
        if ok:
            if health.failures or health.ejections:
                health.failures = health.ejections = 0
            return
        health.failures += 1
        if health.failures >= FAILURES_TO_EJECT:
            health.aside_until_s = self._clock() + min(MAX_EJECTION_S, FIRST_EJECTION_S * 2**health.ejections)
            health.ejections = min(health.ejections + 1, 8)
            health.failures = FAILURES_TO_EJECT - 1  # one more failure on its return sets it aside again


def room(weights: Sequence[int], in_flight: int) -> list[int]:
    """Return how many calls each may have before rollouts pass it by, when *in_flight* are there and one more comes.

    Together it is more than there are calls, so one of them always has room.
    """
    share = OVERLOAD * (in_flight + 1) / sum(weights)
    return [max(NEVER_OVERLOADED, math.ceil(share * weight)) for weight in weights]


def score(rollout_id: str, deployment_id: str, weight: int) -> float:
    """Weighted rendezvous hashing: the highest score wins, in proportion to the weights."""
    digest = hashlib.blake2b(f"{rollout_id}\0{deployment_id}".encode(), digest_size=8).digest()
    part = (int.from_bytes(digest, "big") + 1) / (2**64 + 2)
    return -(weight or 1) / math.log(part)
