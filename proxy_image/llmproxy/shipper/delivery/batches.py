"""Batches: the encoded spans of several calls in one request, and how a refused batch is split. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from llmproxy.shipper.spool.records import SpoolRecord
from llmproxy.shipper.spool.segments import Place

MAX_BATCH_CALLS = 170
"""About 512 spans, the best batch size for agentlightning's store."""
MAX_BATCH_BYTES = 512 << 10
"""Bytes of records; their spans take about three times as much, for each batch in delivery."""


@dataclass(slots=True)
class DeliveryUnit:
    """One call in delivery: its record and its encoded spans."""

    place: Place
    record: SpoolRecord
    spans: list[bytes]
    """Each with its resource: any selection of them, concatenated, is a valid batch."""
    delivered: set[int] = field(default_factory=set)
    """Indexes of the spans that the destination has."""

    @property
    def body(self) -> bytes:
        """Concatenation of the undelivered spans."""
        return b"".join(s for i, s in enumerate(self.spans) if i not in self.delivered)

    @property
    def undelivered(self) -> list[int]:
        """Indexes of the spans still to be sent."""
        return [i for i in range(len(self.spans)) if i not in self.delivered]


def by_group(units: Iterable[DeliveryUnit]) -> list[list[DeliveryUnit]]:
    """Return *units* grouped by rollout and attempt, in order of first appearance."""
    groups: dict[tuple[str, str], list[DeliveryUnit]] = {}
    for unit in units:
        groups.setdefault(unit.record.group, []).append(unit)
    return list(groups.values())


def split(units: Sequence[DeliveryUnit]) -> list[list[DeliveryUnit]]:
    """Return the halves of a refused batch of one group: bisection finds one bad call among many soonest."""
    middle = len(units) // 2
    return [list(units[:middle]), list(units[middle:])] if middle else [list(units)]
