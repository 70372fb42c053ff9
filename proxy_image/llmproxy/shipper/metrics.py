"""Counters of the shipper, and their Prometheus families."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Gauges = Callable[[], dict[str, tuple[str, float]]]
Failure = Callable[[], tuple[str, str] | None]
"""Reason and advice of the last failure of a destination; None while it works."""

INTAKE = {
    "arrivals": "Calls of rollouts that started",
    "accepted": "Call records received from gateways",
    "sequenced_late": "Calls whose sequence id was taken after their end",
    "abandoned": "Calls whose gateway ended before they did",
    "token_ids_missing": "Calls whose answer lacks token ids that were requested: no trainer gets them",
    "journal_damaged_bytes": "Bytes of the journal of calls in flight that could not be read",
}
DESTINATION = {
    "durable": "Calls written to disk before their acknowledgement",
    "delivered": "Calls whose spans were accepted",
    "retry_queued": "Calls that were refused while others were accepted, and queued for a retry",
    "rejected_spans": "Spans that the receiver dropped from accepted batches, by its own count",
    "damaged_bytes": "Bytes of segments that could not be read",
    "evicted_dead_letter_bytes": "Bytes of the oldest dead letters that were evicted for new ones",
}
_BY_REASON = {
    "refused": "Calls that were not kept",
    "dead_lettered": "Calls moved to the dead-letter queue",
    "failures": "Failed requests",
}


class ShipperCounters:
    """Plain numbers, of one destination or of the intake."""

    def __init__(self) -> None:
        self.arrivals = self.accepted = self.durable = self.delivered = 0
        self.sequenced_late = self.abandoned = self.retry_queued = self.rejected_spans = 0
        self.token_ids_missing = 0
        self.damaged_bytes = self.journal_damaged_bytes = self.evicted_dead_letter_bytes = 0
        self.refused: defaultdict[str, int] = defaultdict(int)
        self.dead_lettered: defaultdict[str, int] = defaultdict(int)
        self.failures: defaultdict[str, int] = defaultdict(int)


class ShipperExporter(Collector):
    """Prometheus collector of one set of counters and gauges."""

    def __init__(
        self,
        counters: ShipperCounters,
        families: Mapping[str, str],
        gauges: Gauges,
        *,
        name: str = "",
        failure: Failure = lambda: None,
    ) -> None:
        """*families* are counters by name with help texts; *name* is the destination's, empty for the intake."""
        self._counters = counters
        self._families = families
        self._gauges = gauges
        self._name = name
        self._failure = failure

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        for name, text in self._families.items():
            yield CounterMetricFamily(self._full_name(name), text, value=getattr(self._counters, name))
        for name, text in _BY_REASON.items() if self._name else ():
            family = CounterMetricFamily(self._full_name(name), text, labels=["reason"])
            for reason, value in sorted(getattr(self._counters, name).items()):
                family.add_metric([reason], value)
            yield family
        for name, (text, value) in self._gauges().items():
            yield GaugeMetricFamily(self._full_name(name), text, value=value)
        failure = self._failure()
        if failure is not None:
            text = "1 while requests fail: the last reason, and the way out"
            info = GaugeMetricFamily(self._full_name("failure_info"), text, labels=["reason", "advice"])
            info.add_metric(failure, 1.0)
            yield info

    def _full_name(self, name: str) -> str:
        """Return a metric's full name. The store's have no prefix of their own, but for `up` and `failures`."""
        if self._name == "store":
            return (
                f"llmproxy_shipper_store_{name}"
                if name in {"up", "failures", "failure_info"}
                else f"llmproxy_shipper_{name}"
            )
        return f"llmproxy_shipper_{self._name}_{name}" if self._name else f"llmproxy_shipper_{name}"
