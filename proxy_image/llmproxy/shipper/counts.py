"""What the shipper counts, and how Prometheus reads it."""

from collections import defaultdict
from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_COUNTERS = {
    "arrivals": "Calls of rollouts that began",
    "accepted": "Calls that gateways handed over",
    "durable": "Calls that were on disk before they were acknowledged",
    "delivered": "Calls whose spans are in the store",
    "sequenced_late": "Calls whose sequence id was taken after they had ended",
    "abandoned": "Calls that began and whose gateway ended before they did",
    "parked": "Calls that the store refused while it took others; they are tried again",
    "damaged_bytes": "Bytes of segments that could not be read",
    "removed_letters_bytes": "Bytes of the oldest dead letters that made room for new ones",
}
_BY_REASON = {
    "refused": "Calls that were not kept",
    "dead_lettered": "Calls that were given up",
    "store_failures": "Requests to the store that failed",
}


class Counts:
    """Plain numbers; whoever does something adds to them."""

    def __init__(self) -> None:
        self.arrivals = self.accepted = self.durable = self.delivered = 0
        self.sequenced_late = self.abandoned = self.parked = 0
        self.damaged_bytes = self.removed_letters_bytes = 0
        self.refused: defaultdict[str, int] = defaultdict(int)
        self.dead_lettered: defaultdict[str, int] = defaultdict(int)
        self.store_failures: defaultdict[str, int] = defaultdict(int)


class Exporter(Collector):
    """Turns numbers, and what *gauges* says at the moment, into Prometheus families."""

    def __init__(self, counts: Counts, gauges: Callable[[], dict[str, tuple[str, float]]]) -> None:
        self._counts = counts
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"llmproxy_shipper_{name}", text, value=getattr(self._counts, name))
        for name, text in _BY_REASON.items():
            family = CounterMetricFamily(f"llmproxy_shipper_{name}", text, labels=["reason"])
            for reason, value in sorted(getattr(self._counts, name).items()):
                family.add_metric([reason], value)
            yield family
        for name, (text, value) in self._gauges().items():
            yield GaugeMetricFamily(f"llmproxy_shipper_{name}", text, value=value)
