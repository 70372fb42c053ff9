"""Processor and memory of a container, with the rules that keep requests and limits together."""

from typing import ClassVar

from llmproxy_api import quantities
from llmproxy_api.base import Part
from llmproxy_api.quantities import Quantity
from llmproxy_api.rules import Rule


class Amounts(Part):
    """Processor and memory."""

    cpu: Quantity | None = None
    """Cores: `2` or `500m`. Default: of a request that of the container, or the limit if that is smaller; of a limit
    none."""
    memory: Quantity | None = None
    """Bytes: `512Mi`. Default: that of the container; a request is then at most the limit, a limit at least the
    request."""

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


class Resources(Part):
    """Processor and memory of one container; what is left open is a default that does not contradict the rest."""

    requests: Amounts | None = None
    """What is set aside for it, by which a node is chosen. Default: that of the container."""
    limits: Amounts | None = None
    """What it may use at most. Default: the memory of the container, and no limit of cpu, which would slow streams
    down."""

    RULES: ClassVar[tuple[Rule, ...]] = (_request_fits("cpu"), _request_fits("memory"))
