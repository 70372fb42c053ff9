"""Statistics of a pod's requests. The request path adds to plain numbers; a scrape turns them into metrics."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping
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
        """Return the cumulative buckets of Prometheus."""
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), self.counts, strict=True):
            total += count
            buckets.append((bound, total))
        return buckets


class RequestStats:
    """All numbers of the request path."""

    def __init__(self) -> None:
        self.requests: defaultdict[tuple[str, str, int], int] = defaultdict(int)
        """By model, endpoint and status of the response."""
        self.duration: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.time_to_first_byte: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.tokens: defaultdict[str, int] = defaultdict(int)
        self.rejections: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        """By model, kind of limit and scope."""
        self.upstream_requests: defaultdict[tuple[str, str | int], int] = defaultdict(int)
        """By deployment and outcome: a status, or a failure's code."""
        self.fallbacks: defaultdict[tuple[str, str], int] = defaultdict(int)
        """By the model of the request and the one in its place."""
        self.in_flight = 0
        self.stream_errors = 0
        self.client_disconnects = 0
        self.without_rollout = 0
        self.invalid_rollouts = 0


class RequestCollector(Collector):
    """Metrics of the requests."""

    def __init__(self, stats: RequestStats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        stats = self._stats
        requests = CounterMetricFamily(
            "llmproxy_requests", "Requests that got a response, errors included", labels=["model", "endpoint", "status"]
        )
        for (model, endpoint, status), value in stats.requests.items():
            requests.add_metric([model, endpoint, str(status)], value)
        yield requests
        yield _histogram("llmproxy_request_duration_seconds", "Arrival to last byte", stats.duration)
        yield _histogram("llmproxy_time_to_first_byte_seconds", "Arrival to first byte", stats.time_to_first_byte)
        tokens = CounterMetricFamily("llmproxy_tokens", "Tokens used, as upstreams count them", labels=["model"])
        for model, value in stats.tokens.items():
            tokens.add_metric([model], value)
        yield tokens
        rejections = CounterMetricFamily(
            "llmproxy_rejections", "Requests over a limit of this proxy", labels=["model", "kind", "scope"]
        )
        for labels, value in stats.rejections.items():
            rejections.add_metric(list(labels), value)
        yield rejections
        upstream_requests = CounterMetricFamily(
            "llmproxy_upstream_requests", "Requests to upstreams, retries included", labels=["deployment", "outcome"]
        )
        for (deployment, outcome), value in stats.upstream_requests.items():
            upstream_requests.add_metric([deployment, str(outcome)], value)
        yield upstream_requests
        fallbacks = CounterMetricFamily(
            "llmproxy_fallbacks", "Requests that fell back to another model", labels=["model", "fallback"]
        )
        for pair, value in stats.fallbacks.items():
            fallbacks.add_metric(list(pair), value)
        yield fallbacks
        yield GaugeMetricFamily(
            "llmproxy_requests_in_flight", "Unfinished requests, queued ones included", value=stats.in_flight
        )
        for name, text, value in (
            ("llmproxy_stream_errors", "Streams cut by the upstream or ended with an error", stats.stream_errors),
            ("llmproxy_client_disconnects", "Requests whose client disconnected early", stats.client_disconnects),
            ("llmproxy_requests_without_rollout", "Requests of no rollout: no spans", stats.without_rollout),
            ("llmproxy_invalid_rollouts", "Requests whose rollout or attempt id is invalid", stats.invalid_rollouts),
        ):
            yield CounterMetricFamily(name, text, value=value)


def _histogram(name: str, text: str, histograms: Mapping[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=["model"])
    for model, histogram in histograms.items():
        family.add_metric([model], buckets=histogram.cumulative(), sum_value=histogram.total)
    return family
