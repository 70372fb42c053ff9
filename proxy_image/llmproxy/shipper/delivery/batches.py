"""What is sent as one: a call's spans, encoded. How a refused batch is cut smaller. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from llmproxy.shipper.spool.records import Record
from llmproxy.shipper.spool.segments import Place

MAX_BATCH_CALLS = 170
"""About 512 spans, what agentlightning's store takes best."""
MAX_BATCH_BYTES = 512 << 10
"""Of records; their spans take about three times as much, for each batch under way."""


@dataclass(slots=True)
class Unit:
    """A call on its way."""

    place: Place
    record: Record
    spans: list[bytes]
    """Each with its resource, so that any selection of them, joined, is a batch."""
    delivered: set[int] = field(default_factory=set)
    """Numbers of the spans that the store has."""

    @property
    def body(self) -> bytes:
        """What is still to be sent."""
        return b"".join(s for i, s in enumerate(self.spans) if i not in self.delivered)

    @property
    def left(self) -> list[int]:
        """Numbers of the spans still to be sent."""
        return [i for i in range(len(self.spans)) if i not in self.delivered]


def by_group(units: Iterable[Unit]) -> list[list[Unit]]:
    """Return *units* by rollout and attempt, in the order in which those are met."""
    groups: dict[tuple[str, str], list[Unit]] = {}
    for unit in units:
        groups.setdefault(unit.record.group, []).append(unit)
    return list(groups.values())


def smaller(units: Sequence[Unit]) -> list[list[Unit]]:
    """Return parts of a refused batch of one group to try on their own: halves find one bad among many soonest."""
    middle = len(units) // 2
    return [list(units[:middle]), list(units[middle:])] if middle else [list(units)]
