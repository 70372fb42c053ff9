"""Prometheus metrics of the operator. Every name of ours begins with llmproxy_operator_."""

from collections.abc import Callable, Hashable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The counters of one process, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._reconciles = Counter(
            "llmproxy_operator_reconciles", "Reconciles of an LLMProxy, by result", ["result"], registry=self._registry
        )
        self._seconds = Histogram(
            "llmproxy_operator_reconcile_duration_seconds",
            "Duration of a reconcile",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._writes = Counter(
            "llmproxy_operator_writes",
            "Write requests to the API server, by verb and kind; the operator's Lease is not among them",
            ["verb", "kind"],
            registry=self._registry,
        )
        self._leader = Gauge(
            "llmproxy_operator_leader", "1 if this process is the leader, 0 if it waits", registry=self._registry
        )
        self._watched = Gauge(
            "llmproxy_operator_watch_up",
            "1 while the LLMProxies of a namespace are watched, 0 while they cannot be read",
            ["watched_namespace"],
            registry=self._registry,
        )
        self._proxies = Gauge(
            "llmproxy_operator_proxies", "LLMProxies by the image of their pods", ["image"], registry=self._registry
        )
        self._images: dict[Hashable, str] = {}
        for result in ("success", "error"):
            self._reconciles.labels(result)  # so that a rate is there from the start

    def reconciled(self, *, failed: bool, took_s: float) -> None:
        """Count one reconcile."""
        self._reconciles.labels("error" if failed else "success").inc()
        self._seconds.observe(took_s)

    def wrote(self, verb: str, kind: str) -> None:
        """Count one write request. Renewals of the Lease are not writes about proxies."""
        if kind != "Lease":
            self._writes.labels(verb.lower(), kind).inc()

    def set_leader(self, *, leader: bool) -> None:
        """Set whether this process is the leader."""
        self._leader.set(1 if leader else 0)

    def set_watched(self, namespace: str, *, up: bool) -> None:
        """Set whether the LLMProxies of a namespace are watched."""
        self._watched.labels(namespace).set(1 if up else 0)

    def set_image(self, key: Hashable, image: str | None) -> None:
        """Set the image of the pods of one proxy, None if it has none or is gone."""
        old = self._images.pop(key, None)
        if image is not None:
            self._images[key] = image
        for name in {old, image} - {None}:
            count = sum(1 for value in self._images.values() if value == name)
            if count:
                self._proxies.labels(name).set(count)
            else:
                self._proxies.remove(name)

    def watch_queue(self, depth: Callable[[], float], oldest_s: Callable[[], float]) -> None:
        """Read the queue with each scrape."""
        due = Gauge("llmproxy_operator_workqueue_depth", "LLMProxies that wait for a worker", registry=self._registry)
        due.set_function(depth)
        age = Gauge(
            "llmproxy_operator_workqueue_oldest_seconds",
            "Wait of the first of them",
            registry=self._registry,
        )
        age.set_function(oldest_s)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def value(self, name: str) -> float:
        """Return the sum of a metric's samples, 0 if it is not there."""
        return sum(s.value for family in self._registry.collect() for s in family.samples if s.name == name)
