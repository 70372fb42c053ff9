"""From what pods tell Prometheus to what `llmproxy top` shows: counters to rates, histograms to percentiles. Pure.

A look is all pods at one moment. Two looks give increases; a counter that went back is that of a process that was
started again, and counts from zero. Nothing here knows where a look is from.
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
IN_FLIGHT = "llmproxy_in_flight"
MODE = "llmproxy_limiter_mode"
WAITING = "llmproxy_limit_waiting"
LIMIT = "llmproxy_limit"
USED = "llmproxy_limit_used"
HANDOVER = "llmproxy_handover_backlog"
UNDER_WAY = "llmproxy_shipper_under_way"
PARKED = "llmproxy_shipper_parked_calls"
WAITING_BYTES = "llmproxy_shipper_waiting_bytes"
OLDEST = "llmproxy_shipper_oldest_seconds"
READ = frozenset({
    *(REQUESTS, DURATION, IN_FLIGHT, MODE, WAITING, LIMIT, USED, HANDOVER),
    *(UNDER_WAY, PARKED, WAITING_BYTES, OLDEST),
})  # fmt: skip
"""Everything that is read; the rest of a pod's metrics is for Prometheus."""

SHARES = "shares"
"""The mode in which each pod has a part of each limit; in any other one pod's numbers are those of all."""
MODES = ("shared", "local", SHARES, "successor")
"""What a proxy is said to be in when its pods differ: the first of these."""


class MetricsError(Exception):
    """What a pod answered are no metrics of this project's gateway."""


@dataclass(frozen=True)
class Pod:
    """What one pod said."""

    owner: Owner
    name: str
    series: Mapping[Series, float]

    def total(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        return sum(value for (found, _), value in self.series.items() if found == name)

    @property
    def mode(self) -> str:
        """Whose counters decide in it; empty if it does not say."""
        said = [dict(labels)["mode"] for (name, labels), value in self.series.items() if name == MODE and value]
        return said[0] if said else ""

    @property
    def records(self) -> bool:
        """Whether it keeps calls for a store."""
        return any(name == WAITING_BYTES for name, _ in self.series)


@dataclass(frozen=True)
class Look:
    """All pods at one moment, and what could not be read."""

    at_s: float
    pods: tuple[Pod, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Use:
    """One limit, and how much of it is taken."""

    model: str
    """Empty for the whole proxy's."""
    kind: str
    used: float
    limit: float


@dataclass(frozen=True)
class Row:
    """What is shown of one proxy. Rates and percentiles are over the looks there are; None: there is nothing to say."""

    namespace: str
    name: str
    pods: int
    mode: str
    requests_per_s: float | None
    limited_per_s: float | None
    """Answers with 429, by a limit of the proxy or of an upstream."""
    failed_per_s: float | None
    """Answers with 500 and above."""
    in_flight: int
    waiting: int
    """Calls that wait for their turn."""
    p50_s: float | None
    p99_s: float | None
    backlog: "Backlog | None"
    """None: it records no calls."""
    limits: tuple[Use, ...]

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Backlog:
    """Records of calls that are not in the store."""

    calls: int
    """Not on disk yet, on their way, or refused and tried again."""
    waiting_bytes: int
    """On disk, and not on their way."""
    oldest_s: float


def parse(text: str) -> dict[Series, float]:
    """Return the series of *text* that are shown; raise MetricsError."""
    found: dict[Series, float] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name in READ:
                    found[sample.name, frozenset(sample.labels.items())] = float(sample.value)
    except (ValueError, KeyError, IndexError) as exc:
        raise MetricsError(f"cannot be read as metrics: {exc}") from exc
    if not any(name == IN_FLIGHT for name, _ in found):
        raise MetricsError(f"are no metrics of a gateway: {IN_FLIGHT} is missing")
    return found


@dataclass
class History:
    """The last looks, *length* of them."""

    length: int
    _steps: "deque[tuple[float, dict[Owner, Counter[Series]]]]" = field(init=False)
    _last: Look | None = None

    def __post_init__(self) -> None:
        self._steps = deque(maxlen=self.length)

    def add(self, look: Look) -> None:
        """Take the next look."""
        if self._last is not None:
            self._steps.append((look.at_s - self._last.at_s, _increases(self._last, look)))
        self._last = look

    @property
    def over_s(self) -> float:
        """The time that rates and percentiles are over."""
        return sum(took for took, _ in self._steps)

    def rows(self) -> list[Row]:
        """Return a row a proxy, by namespace and name."""
        pods = self._last.pods if self._last is not None else ()
        owners = sorted({pod.owner for pod in pods})
        return [self._row(owner, [pod for pod in pods if pod.owner == owner]) for owner in owners]

    def _row(self, owner: Owner, pods: list[Pod]) -> Row:
        grown: Counter[Series] = Counter()
        for _, increases in self._steps:
            grown.update(increases.get(owner, {}))
        modes = {pod.mode for pod in pods}
        return Row(
            namespace=owner[0],
            name=owner[1],
            pods=len(pods),
            mode=next((mode for mode in MODES if mode in modes), ""),
            requests_per_s=self._rate(grown, 0, 1000),
            limited_per_s=self._rate(grown, 429, 430),
            failed_per_s=self._rate(grown, 500, 1000),
            in_flight=int(sum(pod.total(IN_FLIGHT) for pod in pods)),
            waiting=int(sum(pod.total(WAITING) for pod in pods)),
            p50_s=quantile(0.5, _buckets(grown)),
            p99_s=quantile(0.99, _buckets(grown)),
            backlog=_backlog([pod for pod in pods if pod.records]),
            limits=uses(pods),
        )

    def _rate(self, grown: Mapping[Series, float], low: int, high: int) -> float | None:
        """Return how many answers a second had a status of at least *low* and below *high*."""
        if not self.over_s:
            return None
        statuses = [(dict(labels)["status"], value) for (name, labels), value in grown.items() if name == REQUESTS]
        return sum(value for status, value in statuses if low <= int(status) < high) / self.over_s


def _increases(before: Look, after: Look) -> dict[Owner, Counter[Series]]:
    """Return by how much the counters of the pods that are in both have grown."""
    known = {(pod.owner, pod.name): pod.series for pod in before.pods}
    found: dict[Owner, Counter[Series]] = {}
    for pod in after.pods:
        old = known.get((pod.owner, pod.name))
        if old is None:
            continue  # its counters are older than the look before
        grown = found.setdefault(pod.owner, Counter())
        for series, value in pod.series.items():
            if series[0] in {REQUESTS, DURATION}:
                was = old.get(series, 0.0)
                grown[series] += value - was if value >= was else value  # type: ignore[assignment] # counts are floats
    return found


def _buckets(grown: Mapping[Series, float]) -> dict[float, float]:
    """Return the cumulative counts by upper bound, of all models together."""
    found: dict[float, float] = {}
    for (name, labels), value in grown.items():
        if name == DURATION:
            bound = float(dict(labels)["le"])
            found[bound] = found.get(bound, 0.0) + value
    return found


def quantile(share: float, buckets: Mapping[float, float]) -> float | None:
    """Return the value below which *share* of the counted ones lie; None if none was counted.

    Within a bucket they are taken to lie evenly, as Prometheus' histogram_quantile does; what is above the last bound
    is given as that bound.
    """
    bounds = sorted(buckets)
    if not bounds or not buckets[bounds[-1]]:
        return None
    wanted = share * buckets[bounds[-1]]
    low, below = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= wanted:
            if bound == float("inf"):
                return low
            return low + (bound - low) * (wanted - below) / (buckets[bound] - below)
        low, below = bound, buckets[bound]
    return low


def uses(pods: Iterable[Pod]) -> tuple[Use, ...]:
    """Return every limit once, the proxy's before the models'.

    Pods that share their counters all tell the same, as far as they know it, so the largest is the truest. Pods on
    shares tell of their own calls only.
    """
    pods = tuple(pods)
    parted = bool(pods) and all(pod.mode == SHARES for pod in pods)
    limits: dict[tuple[str, str], float] = {}
    used: dict[tuple[str, str], float] = {}
    for pod in pods:
        for (name, labels), value in pod.series.items():
            if name not in {LIMIT, USED}:
                continue
            said = dict(labels)
            key = said["model"], said["kind"]
            if name == LIMIT:
                limits[key] = max(value, limits.get(key, 0.0))
            else:
                used[key] = used.get(key, 0.0) + value if parted else max(value, used.get(key, 0.0))
    return tuple(Use(*key, used.get(key, 0.0), limit) for key, limit in sorted(limits.items()))


def _backlog(pods: list[Pod]) -> Backlog | None:
    if not pods:
        return None
    return Backlog(
        calls=int(sum(pod.total(name) for pod in pods for name in (HANDOVER, UNDER_WAY, PARKED))),
        waiting_bytes=int(sum(pod.total(WAITING_BYTES) for pod in pods)),
        oldest_s=max(pod.total(OLDEST) for pod in pods),
    )
