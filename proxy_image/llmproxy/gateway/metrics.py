"""What a pod counts. The request path adds to plain numbers; Prometheus reads them when it asks."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Histogram:
    """Durations in seconds."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.total += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        """Return the buckets as Prometheus wants them."""
        total = 0
        found: list[tuple[str, float]] = []
        for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), self.counts, strict=True):
            total += count
            found.append((bound, total))
        return found


class Counts:
    """All numbers of the request path."""

    def __init__(self) -> None:
        self.requests: defaultdict[tuple[str, str, int], int] = defaultdict(int)
        """By model, endpoint and status of the answer."""
        self.duration: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.first_byte: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.tokens: defaultdict[str, int] = defaultdict(int)
        self.rejected: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        """By model, kind of limit and scope."""
        self.tries: defaultdict[tuple[str, str | int], int] = defaultdict(int)
        """By deployment and outcome: a status, or a failure's code."""
        self.fallbacks: defaultdict[tuple[str, str], int] = defaultdict(int)
        """By the model that was asked for and the one that was tried in its place."""
        self.in_flight = 0
        self.streams_broken = 0
        self.client_gone = 0
        self.without_rollout = 0
        self.rollouts_unusable = 0


class Exporter(Collector):
    """Turns the numbers into Prometheus families."""

    def __init__(self, counts: Counts, extra: Iterable[Collector] = ()) -> None:
        self._counts = counts
        self._extra = tuple(extra)

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        c = self._counts
        requests = CounterMetricFamily(
            "llmproxy_requests", "Calls that were answered, also with an error", labels=["model", "endpoint", "status"]
        )
        for (model, endpoint, status), value in c.requests.items():
            requests.add_metric([model, endpoint, str(status)], value)
        yield requests
        yield from self._histograms()
        tokens = CounterMetricFamily("llmproxy_tokens", "Tokens that upstreams said they used", labels=["model"])
        for model, value in c.tokens.items():
            tokens.add_metric([model], value)
        yield tokens
        rejected = CounterMetricFamily(
            "llmproxy_rejected", "Calls over a limit of this proxy", labels=["model", "kind", "scope"]
        )
        for labels, value in c.rejected.items():
            rejected.add_metric(list(labels), value)
        yield rejected
        tries = CounterMetricFamily(
            "llmproxy_upstream_tries", "Requests to upstreams", labels=["deployment", "outcome"]
        )
        for (deployment, outcome), value in c.tries.items():
            tries.add_metric([deployment, str(outcome)], value)
        yield tries
        fallbacks = CounterMetricFamily(
            "llmproxy_fallbacks", "Calls that another model was tried for", labels=["model", "to"]
        )
        for pair, value in c.fallbacks.items():
            fallbacks.add_metric(list(pair), value)
        yield fallbacks
        yield GaugeMetricFamily(
            "llmproxy_in_flight", "Calls that are not finished, those that wait for a limit too", value=c.in_flight
        )
        for name, text, value in (
            ("llmproxy_streams_broken", "Streams whose upstream ended in the middle", c.streams_broken),
            ("llmproxy_client_gone", "Calls whose caller left before the end", c.client_gone),
            ("llmproxy_calls_without_rollout", "Calls that belong to no rollout and make no spans", c.without_rollout),
            ("llmproxy_rollouts_unusable", "Those of them whose rollout is named in vain", c.rollouts_unusable),
        ):
            yield CounterMetricFamily(name, text, value=value)
        for collector in self._extra:
            yield from collector.collect()

    def _histograms(self) -> Iterator[Metric]:
        for name, text, values in (
            ("llmproxy_request_duration_seconds", "From a call's arrival to its last byte", self._counts.duration),
            ("llmproxy_first_byte_seconds", "From a call's arrival to its first byte", self._counts.first_byte),
        ):
            family = HistogramMetricFamily(name, text, labels=["model"])
            for model, histogram in values.items():
                family.add_metric([model], buckets=histogram.cumulative(), sum_value=histogram.total)
            yield family
