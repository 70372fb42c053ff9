"""API models of a container's CPU and memory."""

from typing import ClassVar

from llmproxy_api import quantities
from llmproxy_api.base import ApiModel
from llmproxy_api.quantities import Quantity
from llmproxy_api.rules import Rule


class ResourceAmounts(ApiModel):
    """CPU and memory."""

    cpu: Quantity | None = None
    """Cores: `2` or `500m`. Default of a request: the container's, at most the limit. Default of a limit: none."""
    memory: Quantity | None = None
    """Bytes: `512Mi`. Default: the container's; a request is at most the limit, a limit at least the request."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.cpu) || quantity(string(self.cpu)).compareTo(quantity('1m')) >= 0",
            "must be at least 1m",
            lambda a: a.cpu is None or quantities.value(a.cpu) >= quantities.value("1m"),
            ".cpu",
        ),
        Rule(
            "!has(self.memory) || quantity(string(self.memory)).compareTo(quantity('64Mi')) >= 0",
            "must be at least 64Mi, which the gateway needs to start",
            lambda a: a.memory is None or quantities.value(a.memory) >= quantities.value("64Mi"),
            ".memory",
        ),
    )


def _request_fits(name: str) -> Rule:
    def holds(resources: "Resources") -> bool:
        request = getattr(resources.requests, name, None)
        limit = getattr(resources.limits, name, None)
        return request is None or limit is None or quantities.value(request) <= quantities.value(limit)

    both = " || ".join(f"!has(self.{part})" + f" || !has(self.{part}.{name})" for part in ("requests", "limits"))
    return Rule(
        f"{both} || quantity(string(self.requests.{name})).compareTo(quantity(string(self.limits.{name}))) <= 0",
        f"must be at most limits.{name}",
        holds,
        f".requests.{name}",
    )


class Resources(ApiModel):
    """CPU and memory of one container. Unset fields get defaults that fit the others."""

    requests: ResourceAmounts | None = None
    """Reserved amounts, used for scheduling. Default: the container's."""
    limits: ResourceAmounts | None = None
    """Upper bounds. Default: the memory of the container, and no CPU limit: throttling slows streams down."""

    RULES: ClassVar[tuple[Rule, ...]] = (_request_fits("cpu"), _request_fits("memory"))
