"""Metrics of the limits, the pause, the shipper client and the deployments."""

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from llmproxy.gateway.http.exchange import ByteBudget
from llmproxy.gateway.limits import Limiter
from llmproxy.gateway.limits.limiter import LATENCY_S, Mode, StoreStats
from llmproxy.gateway.loop_lag import LAG_S, LoopLag
from llmproxy.gateway.requests.pause import Pause
from llmproxy.gateway.shipping.shipper_client import ShipperClient
from llmproxy.gateway.upstreams.balancer import Balancer


class LimitsCollector(Collector):
    """Decisions of the limiter, and usage of the limits."""

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


class LoopLagCollector(Collector):
    """Lag of the event loop."""

    def __init__(self, lag: LoopLag) -> None:
        self._lag = lag

    def collect(self) -> Iterator[Metric]:
        """Yield the one family."""
        family = HistogramMetricFamily("llmproxy_event_loop_lag_seconds", "Lateness of the event loop", labels=[])
        names = (*map(str, LAG_S), "+Inf")
        buckets = list(zip(names, map(float, accumulate(self._lag.counts)), strict=True))
        family.add_metric([], buckets=buckets, sum_value=self._lag.seconds)
        yield family


class PauseCollector(Collector):
    """Metric of the pause."""

    def __init__(self, pause: Pause) -> None:
        self._pause = pause

    def collect(self) -> Iterator[Metric]:
        """Yield the one family."""
        yield GaugeMetricFamily(
            "llmproxy_paused", "1 while no call starts, because of /pause", value=self._pause.active
        )


class MemoryCollector(Collector):
    """Metrics of the memory for requests, responses and records."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        budget = self._budget
        yield GaugeMetricFamily("llmproxy_memory_budget_bytes", "Most bytes of bodies and records", value=budget.limit)
        yield GaugeMetricFamily("llmproxy_memory_used_bytes", "Bytes of bodies and records", value=budget.used)
        yield CounterMetricFamily(
            "llmproxy_memory_rejections", "Requests, responses and records without memory", value=budget.rejected
        )


class ShipperCollector(Collector):
    """Metrics of the records sent to the shipper."""

    def __init__(self, client: ShipperClient) -> None:
        self._client = client

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        client = self._client
        yield GaugeMetricFamily("llmproxy_shipper_connected", "1 while it is connected", value=client.connected)
        yield GaugeMetricFamily(
            "llmproxy_records_pending", "Records that the shipper has not on disk", value=client.backlog
        )
        for name, text, value in (
            ("llmproxy_records_sent", "Records sent to the shipper", client.sent),
            ("llmproxy_records_durable", "Records that the shipper has on disk", client.durable),
            ("llmproxy_records_dropped", "Records dropped while the shipper was unreachable", client.dropped),
            ("llmproxy_records_rejected", "Records that the shipper had no room for", client.rejected),
            ("llmproxy_records_delayed", "Responses that waited for room at the shipper", client.waited),
            ("llmproxy_records_unstored", "Responses sent before their spans were stored", client.released_unstored),
        ):
            yield CounterMetricFamily(name, text, value=value)


class UpstreamCollector(Collector):
    """Health and load of the deployments."""

    def __init__(self, balancers: Mapping[str, Balancer]) -> None:
        self._balancers = balancers

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        healthy = GaugeMetricFamily(
            "llmproxy_upstream_healthy", "0 while a deployment is ejected", labels=["model", "deployment"]
        )
        in_flight = GaugeMetricFamily(
            "llmproxy_upstream_requests_in_flight", "Unfinished requests by deployment", labels=["model", "deployment"]
        )
        for model, balancer in self._balancers.items():
            for upstream in balancer.upstreams:
                ident = upstream.id
                healthy.add_metric([model, ident], not balancer.is_ejected(ident))
                in_flight.add_metric([model, ident], balancer.health[ident].in_flight)
        yield healthy
        yield in_flight
