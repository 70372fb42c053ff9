"""Metrics of what has its own numbers: limits, the hand-over to the shipper, the health of deployments."""

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from llmproxy.gateway.limits import Limiter
from llmproxy.gateway.limits.limiter import LATENCY_S, Mode, StoreStats
from llmproxy.gateway.requests.pause import Pause
from llmproxy.gateway.shipping.shipper_client import Handover
from llmproxy.gateway.upstreams.balancer import Balancer


class LimitsCollector(Collector):
    """What the limiter decided, and how full the limits are."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        limiter = self._limiter
        decisions = CounterMetricFamily("llmproxy_limit_decisions", "Decisions of the limits", labels=["decision"])
        for name in ("granted", "rejected", "queued", "refunded"):
            decisions.add_metric([name], getattr(limiter.decisions, name))
        yield decisions
        mode = GaugeMetricFamily(
            "llmproxy_limiter_mode",
            "1 for whose counters decide: local, leader, shared (the store's) or offline_quota (the store is away)",
            labels=["mode"],
        )
        for name in get_args(Mode):
            mode.add_metric([name], limiter.mode == name)
        yield mode
        yield GaugeMetricFamily("llmproxy_limit_waiting", "Calls that wait for their turn", value=limiter.waiting)
        labels = ["kind", "scope", "model"]
        limit = GaugeMetricFamily("llmproxy_limit", "Each limit", labels=labels)
        used = GaugeMetricFamily("llmproxy_limit_used", "What counts against each limit now", labels=labels)
        quota = GaugeMetricFamily(
            "llmproxy_limit_quota", "Most that this pod admits of each limit; less in mode offline_quota", labels=labels
        )
        for use in limiter.usage():
            quota.add_metric([use.kind, use.scope, use.model], use.quota)
            limit.add_metric([use.kind, use.scope, use.model], use.limit)
            used.add_metric([use.kind, use.scope, use.model], use.used)
        yield limit
        yield used
        yield quota
        if limiter.shared is not None:
            yield from _store(limiter.shared.stats)


def _store(stats: StoreStats) -> Iterator[Metric]:
    latency = HistogramMetricFamily(
        "llmproxy_limit_store_seconds", "How long the store of shared limits took to answer", labels=[]
    )
    names = (*map(str, LATENCY_S), "+Inf")
    buckets = list(zip(names, map(float, accumulate(stats.latency)), strict=True))
    latency.add_metric([], buckets=buckets, sum_value=stats.seconds)
    yield latency
    yield CounterMetricFamily("llmproxy_limit_store_calls", "Calls of the store of shared limits", value=stats.calls)
    yield CounterMetricFamily(
        "llmproxy_limit_store_disconnects", "How often this pod went offline", value=stats.disconnects
    )
    failures = CounterMetricFamily(
        "llmproxy_limit_store_failures",
        "Failures of the store by cause: connection, timeout, store_restarted, expired",
        labels=["cause"],
    )
    for cause, number in stats.failures.items():
        failures.add_metric([cause], number)
    yield failures


class PauseCollector(Collector):
    """Whether calls are begun."""

    def __init__(self, pause: Pause) -> None:
        self._pause = pause

    def collect(self) -> Iterator[Metric]:
        """Yield the one family."""
        yield GaugeMetricFamily(
            "llmproxy_paused", "1 while no call is begun, because of /pause", value=self._pause.holds
        )


class HandoverCollector(Collector):
    """What the shipper was told and what it has on disk."""

    def __init__(self, handover: Handover) -> None:
        self._handover = handover

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        h = self._handover
        yield GaugeMetricFamily("llmproxy_shipper_connected", "1 while the shipper is there", value=h.connected)
        yield GaugeMetricFamily("llmproxy_handover_backlog", "Calls that the shipper has not on disk", value=h.backlog)
        for name, text, value in (
            ("llmproxy_handover_told", "Calls that were handed over", h.told),
            ("llmproxy_handover_durable", "Calls that the shipper has on disk", h.durable),
            ("llmproxy_handover_dropped", "Calls that found no room while the shipper was away", h.dropped),
            ("llmproxy_handover_refused", "Calls that the shipper had no room for", h.refused),
            ("llmproxy_handover_waited", "Answers that waited for room at the shipper", h.waited),
            ("llmproxy_handover_unstored", "Answers that did not wait for the store to the end", h.released_unstored),
        ):
            yield CounterMetricFamily(name, text, value=value)


class UpstreamCollector(Collector):
    """Which deployments are set aside, and what they have to do."""

    def __init__(self, balancers: Mapping[str, Balancer]) -> None:
        self._balancers = balancers

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        healthy = GaugeMetricFamily(
            "llmproxy_upstream_healthy", "0 while a deployment is set aside", labels=["model", "deployment"]
        )
        in_flight = GaugeMetricFamily(
            "llmproxy_upstream_in_flight", "Calls that a deployment is answering", labels=["model", "deployment"]
        )
        for model, balancer in self._balancers.items():
            for target in balancer.targets:
                ident = target.id
                healthy.add_metric([model, ident], not balancer.is_aside(ident))
                in_flight.add_metric([model, ident], balancer.health[ident].in_flight)
        yield healthy
        yield in_flight
