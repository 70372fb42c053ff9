"""Response of an upstream whose body has started: how it ends is reported once, and its connection released."""

import time

from llmproxy import shipping_protocol
from llmproxy.gateway.adapters.base import Adapter
from llmproxy.gateway.http.client import ClientConnection
from llmproxy.gateway.metrics import RequestStats
from llmproxy.gateway.upstreams.balancer import Balancer
from llmproxy.gateway.upstreams.deployments import Upstream


class UpstreamResponse:
    """The last of *tries*; `settle`, then `release`."""

    __slots__ = (
        "_balancer", "_settled", "_stats", "_tries",
        "adapter", "attempts", "body", "connection", "headers", "model", "prefix", "status", "upstream",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913 - an attempt, and who learns of its end
        self,
        model: str,
        upstream: Upstream,
        adapter: Adapter,
        connection: ClientConnection,
        status: int,
        headers: dict[bytes, bytes],
        *,
        attempts: int,
        tries: list[shipping_protocol.Try],
        balancer: Balancer,
        stats: RequestStats,
    ) -> None:
        self._tries = tries
        self._balancer = balancer
        self._stats = stats
        self._settled = False
        self.model = model
        self.upstream = upstream
        self.adapter = adapter
        self.connection = connection
        self.status = status
        self.headers = headers
        self.body: bytes | None = None
        """The whole body, where it was read to decide on a retry."""
        self.prefix: list[bytes] = []
        """Bytes of a stream that were read for its first content."""
        self.attempts = attempts
        """Attempts of the model so far, this one included."""

    def settle(self, code: str = "") -> None:
        """Report, once, the end of the attempt: its response was whole, or failed with *code*."""
        if self._settled:
            return
        self._settled = True
        self._stats.upstream_requests[self.upstream.id, code or self.status] += 1
        if code:
            last = self._tries[-1]
            self._tries[-1] = shipping_protocol.Try(last.deployment, last.started_ns, time.time_ns(), last.status, code)
        self._balancer.report(self.upstream, ok=not code)

    def release(self) -> None:
        """Give the connection back: to its pool if the response is whole, closed if more of it is to come.

        A response that is not settled was dropped by its client, which tells nothing about the deployment.
        """
        if not self._settled:
            self._settled = True
            self._stats.upstream_requests[self.upstream.id, self.status] += 1
        self.connection.release()
        self._balancer.finish(self.upstream)
