"""Rates and percentiles of `llmproxy top`, from counters and histograms of the pods' metrics. Pure.

A sample has the metrics of all pods at one moment. Rates come from two samples; a counter that decreased belongs to a
restarted process and counts from zero.
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]
Series = tuple[str, Labels]
Owner = tuple[str, str]
"""Namespace and name of an LLMProxy."""

REQUESTS = "llmproxy_requests_total"
DURATION = "llmproxy_request_duration_seconds_bucket"
IN_FLIGHT = "llmproxy_requests_in_flight"
MODE = "llmproxy_limiter_mode"
WAITING = "llmproxy_limit_waiting"
LIMIT = "llmproxy_limit"
USED = "llmproxy_limit_used"
RECORDS_PENDING = "llmproxy_records_pending"
IN_DELIVERY = "llmproxy_shipper_in_delivery"
RETRY_CALLS = "llmproxy_shipper_retry_calls"
WAITING_BYTES = "llmproxy_shipper_waiting_bytes"
WITHOUT_IDS = "llmproxy_shipper_token_ids_missing_total"
OLDEST_UNDELIVERED = "llmproxy_shipper_oldest_undelivered_seconds"
METRICS = frozenset({
    *(REQUESTS, DURATION, IN_FLIGHT, MODE, WAITING, LIMIT, USED, RECORDS_PENDING),
    *(IN_DELIVERY, RETRY_CALLS, WAITING_BYTES, OLDEST_UNDELIVERED, WITHOUT_IDS),
})  # fmt: skip
"""Metrics that `top` reads."""

OFFLINE_QUOTA = "offline_quota"
"""Mode in which each pod has a quota of each limit; in any other mode the numbers of one pod are those of all."""
MODES = ("shared", "local", OFFLINE_QUOTA, "leader")
"""Modes by priority: where pods differ, `top` shows the first of these."""


class MetricsError(Exception):
    """The response of a pod has no metrics of this project's gateway."""


@dataclass(frozen=True)
class PodMetrics:
    """Metrics of one pod."""

    owner: Owner
    name: str
    series: Mapping[Series, float]

    def total(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        return sum(value for (metric, _), value in self.series.items() if metric == name)

    @property
    def mode(self) -> str:
        """Mode of its limiter; empty if the metric is missing."""
        modes = (dict(labels)["mode"] for (name, labels), value in self.series.items() if name == MODE and value)
        return next(modes, "")

    @property
    def records(self) -> bool:
        """True if it records requests."""
        return any(name == WAITING_BYTES for name, _ in self.series)


@dataclass(frozen=True)
class Sample:
    """Metrics of all pods at one moment, and errors of pods that could not be read."""

    at_s: float
    pods: tuple[PodMetrics, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class LimitUsage:
    """One limit and its usage."""

    model: str
    """Empty for the whole proxy's."""
    kind: str
    used: float
    limit: float


@dataclass(frozen=True)
class ProxyRow:
    """One proxy in the table. Rates and percentiles are over the samples of the history; None without data."""

    namespace: str
    name: str
    pods: int
    mode: str
    requests_per_s: float | None
    limited_per_s: float | None
    """Responses with 429, by a limit of the proxy or of an upstream."""
    failed_per_s: float | None
    """Responses with 500 and above."""
    in_flight: int
    waiting: int
    """Requests in the queue of the limits."""
    p50_s: float | None
    p99_s: float | None
    backlog: "Backlog | None"
    """None: it records no requests."""
    limits: tuple[LimitUsage, ...]

    def plain(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class Backlog:
    """Records that are not in the store yet."""

    calls: int
    """Records not on disk yet, in delivery, or refused and retried."""
    waiting_bytes: int
    """Records on disk whose delivery has not begun."""
    oldest_s: float
    without_token_ids: int = 0
    """Calls so far whose answers lack token ids that were requested."""


def parse(text: str) -> dict[Series, float]:
    """Return the series of *text* that `top` reads; raise MetricsError."""
    series: dict[Series, float] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name in METRICS:
                    series[sample.name, frozenset(sample.labels.items())] = float(sample.value)
    except (ValueError, KeyError, IndexError) as exc:
        raise MetricsError(f"cannot be read as metrics: {exc}") from exc
    if not any(name == IN_FLIGHT for name, _ in series):
        raise MetricsError(f"are no metrics of a gateway: {IN_FLIGHT} is missing")
    return series


@dataclass
class History:
    """The last samples, *length* of them."""

    length: int
    _steps: "deque[tuple[float, dict[Owner, Counter[Series]]]]" = field(init=False)
    _last: Sample | None = None

    def __post_init__(self) -> None:
        self._steps = deque(maxlen=self.length)

    def add(self, sample: Sample) -> None:
        """Add the next sample."""
        if self._last is not None:
            self._steps.append((sample.at_s - self._last.at_s, _increases(self._last, sample)))
        self._last = sample

    @property
    def over_s(self) -> float:
        """Interval of rates and percentiles."""
        return sum(took for took, _ in self._steps)

    def rows(self) -> list[ProxyRow]:
        """Return one row for each proxy, by namespace and name."""
        pods = self._last.pods if self._last is not None else ()
        owners = sorted({pod.owner for pod in pods})
        return [self._row(owner, [pod for pod in pods if pod.owner == owner]) for owner in owners]

    def _row(self, owner: Owner, pods: list[PodMetrics]) -> ProxyRow:
        increases: Counter[Series] = Counter()
        for _, step in self._steps:
            increases.update(step.get(owner, {}))
        modes = {pod.mode for pod in pods}
        return ProxyRow(
            namespace=owner[0],
            name=owner[1],
            pods=len(pods),
            mode=next((mode for mode in MODES if mode in modes), ""),
            requests_per_s=self._rate(increases, 0, 1000),
            limited_per_s=self._rate(increases, 429, 430),
            failed_per_s=self._rate(increases, 500, 1000),
            in_flight=int(sum(pod.total(IN_FLIGHT) for pod in pods)),
            waiting=int(sum(pod.total(WAITING) for pod in pods)),
            p50_s=quantile(0.5, _buckets(increases)),
            p99_s=quantile(0.99, _buckets(increases)),
            backlog=_backlog([pod for pod in pods if pod.records]),
            limits=limit_usages(pods),
        )

    def _rate(self, increases: Mapping[Series, float], low: int, high: int) -> float | None:
        """Return responses by second with a status of at least *low* and below *high*."""
        if not self.over_s:
            return None
        statuses = [(dict(labels)["status"], value) for (name, labels), value in increases.items() if name == REQUESTS]
        return sum(value for status, value in statuses if low <= int(status) < high) / self.over_s


def _increases(before: Sample, after: Sample) -> dict[Owner, Counter[Series]]:
    """Return the increases of the counters of pods in both samples."""
    previous = {(pod.owner, pod.name): pod.series for pod in before.pods}
    increases: dict[Owner, Counter[Series]] = {}
    for pod in after.pods:
        old = previous.get((pod.owner, pod.name))
        if old is None:
            continue  # its counters may be older than the previous sample
        counter = increases.setdefault(pod.owner, Counter())
        for series, value in pod.series.items():
            if series[0] in {REQUESTS, DURATION}:
                was = old.get(series, 0.0)
                counter[series] += value - was if value >= was else value  # type: ignore[assignment] # counts are floats
    return increases


def _buckets(increases: Mapping[Series, float]) -> dict[float, float]:
    """Return the cumulative counts by upper bound, of all models together."""
    buckets: dict[float, float] = {}
    for (name, labels), value in increases.items():
        if name == DURATION:
            bound = float(dict(labels)["le"])
            buckets[bound] = buckets.get(bound, 0.0) + value
    return buckets


def quantile(share: float, buckets: Mapping[float, float]) -> float | None:
    """Return the quantile of a histogram; None if it is empty.

    As in Prometheus' histogram_quantile, values are interpolated linearly within a bucket, and the last finite bound is
    the maximum.
    """
    bounds = sorted(buckets)
    if not bounds or not buckets[bounds[-1]]:
        return None
    rank = share * buckets[bounds[-1]]
    low, below = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            if bound == float("inf"):
                return low
            return low + (bound - low) * (rank - below) / (buckets[bound] - below)
        low, below = bound, buckets[bound]
    return low


def limit_usages(pods: Iterable[PodMetrics]) -> tuple[LimitUsage, ...]:
    """Return every limit once, the proxy's before the models'.

    Pods with shared counters report the same usage with different delays, so the maximum is the most recent. Pods on
    quotas report only their own requests.
    """
    pods = tuple(pods)
    by_quota = bool(pods) and all(pod.mode == OFFLINE_QUOTA for pod in pods)
    limits: dict[tuple[str, str], float] = {}
    used: dict[tuple[str, str], float] = {}
    for pod in pods:
        for (name, labels), value in pod.series.items():
            if name not in {LIMIT, USED}:
                continue
            label_values = dict(labels)
            key = label_values["model"], label_values["kind"]
            if name == LIMIT:
                limits[key] = max(value, limits.get(key, 0.0))
            else:
                used[key] = used.get(key, 0.0) + value if by_quota else max(value, used.get(key, 0.0))
    return tuple(LimitUsage(*key, used.get(key, 0.0), limit) for key, limit in sorted(limits.items()))


def _backlog(pods: list[PodMetrics]) -> Backlog | None:
    if not pods:
        return None
    return Backlog(
        calls=int(sum(pod.total(name) for pod in pods for name in (RECORDS_PENDING, IN_DELIVERY, RETRY_CALLS))),
        waiting_bytes=int(sum(pod.total(WAITING_BYTES) for pod in pods)),
        oldest_s=max(pod.total(OLDEST_UNDELIVERED) for pod in pods),
        without_token_ids=int(sum(pod.total(WITHOUT_IDS) for pod in pods)),
    )
