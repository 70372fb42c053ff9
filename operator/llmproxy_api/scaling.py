"""The part of the resource that is about how many pods there are, and how many may be away."""

from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from llmproxy_api.base import Part, whole
from llmproxy_api.rules import Rule

MAX_REPLICAS = 64
"""A pod's share of a limit is a whole number: more pods than this would leave most of them none."""
DEFAULT_MIN_REPLICAS = 1
DEFAULT_TARGET_CPU = 70

Replicas = Annotated[int, Field(ge=0, le=MAX_REPLICAS), BeforeValidator(whole)]
Several = Annotated[int, Field(ge=1, le=MAX_REPLICAS), BeforeValidator(whole)]
MoreThanOne = Annotated[int, Field(ge=2, le=MAX_REPLICAS), BeforeValidator(whole)]
Percent = Annotated[int, Field(ge=1, le=100), BeforeValidator(whole)]


class Autoscaling(Part):
    """Lets a HorizontalPodAutoscaler say how many pods serve."""

    min_replicas: Several | None = None
    """How many pods there are at least. Default: 1."""
    max_replicas: MoreThanOne
    """How many pods there are at most, also under load."""
    target_cpu_utilization: Annotated[Percent | None, Field(alias="targetCPUUtilization")] = None
    """How busy the gateways should be: the average use of the processor in percent of what resources.requests.cpu sets
    aside. Default: 70. It needs the cluster's metrics server."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.minReplicas) || self.minReplicas <= self.maxReplicas",
            "must be at most maxReplicas",
            lambda a: a.min_replicas is None or a.min_replicas <= a.max_replicas,
            ".minReplicas",
        ),
    )


class DisruptionBudget(Part):
    """How many pods may be away because a node is emptied, as upgrades of a cluster do."""

    max_unavailable: Several
    """How many pods may be away at once."""
