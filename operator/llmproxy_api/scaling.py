"""API models of the number of pods: replicas, autoscaling, disruption budget."""

from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from llmproxy_api.base import ApiModel, integral
from llmproxy_api.rules import Rule

MAX_REPLICAS = 64
"""A pod's share of a limit is an integer: with more pods most shares would be zero."""
DEFAULT_MIN_REPLICAS = 1
DEFAULT_TARGET_CPU = 70

Replicas = Annotated[int, Field(ge=0, le=MAX_REPLICAS), BeforeValidator(integral)]
PodCount = Annotated[int, Field(ge=1, le=MAX_REPLICAS), BeforeValidator(integral)]
ScaledPodCount = Annotated[int, Field(ge=2, le=MAX_REPLICAS), BeforeValidator(integral)]
Percent = Annotated[int, Field(ge=1, le=100), BeforeValidator(integral)]


class Autoscaling(ApiModel):
    """HorizontalPodAutoscaler of the pods."""

    min_replicas: PodCount | None = None
    """Minimum number of pods. Default: 1."""
    max_replicas: ScaledPodCount
    """Maximum number of pods."""
    target_cpu_utilization: Annotated[Percent | None, Field(alias="targetCPUUtilization")] = None
    """Target of the gateways' average CPU utilization, in percent of resources.requests.cpu. Default: 70. It requires
    the cluster's metrics server."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.minReplicas) || self.minReplicas <= self.maxReplicas",
            "must be at most maxReplicas",
            lambda a: a.min_replicas is None or a.min_replicas <= a.max_replicas,
            ".minReplicas",
        ),
    )


class DisruptionBudget(ApiModel):
    """PodDisruptionBudget of the pods, for drains of nodes."""

    max_unavailable: PodCount
    """Maximum number of pods that may be unavailable at once."""
