"""What the shipper counts, and how Prometheus reads it."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Gauges = Callable[[], dict[str, tuple[str, float]]]

INTAKE = {
    "arrivals": "Calls of rollouts that began",
    "accepted": "Calls that gateways handed over",
    "sequenced_late": "Calls whose sequence id was taken after they had ended",
    "abandoned": "Calls that began and whose gateway ended before they did",
}
DESTINATION = {
    "durable": "Calls that were on disk before they were acknowledged",
    "delivered": "Calls whose spans were taken",
    "parked": "Calls that were refused while others were taken; they are tried again",
    "rejected_spans": "Spans that were dropped of batches that were taken, as the receiver says",
    "damaged_bytes": "Bytes of segments that could not be read",
    "removed_letters_bytes": "Bytes of the oldest dead letters that made room for new ones",
}
_BY_REASON = {
    "refused": "Calls that were not kept",
    "dead_lettered": "Calls that were given up",
    "failures": "Requests that failed",
}


class Counts:
    """Plain numbers; whoever does something adds to them."""

    def __init__(self) -> None:
        self.arrivals = self.accepted = self.durable = self.delivered = 0
        self.sequenced_late = self.abandoned = self.parked = self.rejected_spans = 0
        self.damaged_bytes = self.removed_letters_bytes = 0
        self.refused: defaultdict[str, int] = defaultdict(int)
        self.dead_lettered: defaultdict[str, int] = defaultdict(int)
        self.failures: defaultdict[str, int] = defaultdict(int)


class Exporter(Collector):
    """Turns numbers, and what *gauges* says at the moment, into Prometheus families."""

    def __init__(self, counts: Counts, wanted: Mapping[str, str], gauges: Gauges, *, name: str = "") -> None:
        """*name* is the destination's, empty for what is of all."""
        self._counts = counts
        self._wanted = wanted
        self._gauges = gauges
        self._name = name

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        for name, text in self._wanted.items():
            yield CounterMetricFamily(self._called(name), text, value=getattr(self._counts, name))
        for name, text in _BY_REASON.items() if self._name else ():
            family = CounterMetricFamily(self._called(name), text, labels=["reason"])
            for reason, value in sorted(getattr(self._counts, name).items()):
                family.add_metric([reason], value)
            yield family
        for name, (text, value) in self._gauges().items():
            yield GaugeMetricFamily(self._called(name), text, value=value)

    def _called(self, name: str) -> str:
        """Return a metric's whole name: the store's are the plain ones, for it was there first."""
        if self._name == "store":
            return f"llmproxy_shipper_store_{name}" if name in {"up", "failures"} else f"llmproxy_shipper_{name}"
        return f"llmproxy_shipper_{self._name}_{name}" if self._name else f"llmproxy_shipper_{name}"
