"""HTTP server of the operator: /healthz for the kubelet, /readyz, and /metrics."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from llmproxy_operator.metrics import Metrics

STUCK_S = 180.0
"""Wait in the queue from which reconciles count as hanging: a restart is the cure."""


@dataclass
class Health:
    """Health of the process, set by its parts."""

    metrics: Metrics
    oldest_s: Callable[[], float] = lambda: 0.0
    """Wait of the first key of the queue, in seconds."""
    ready: bool = False
    """It is the leader, or a candidate that waits for the Lease."""

    def problem(self) -> str:
        """Return why the process should be restarted, empty if it should not."""
        waits_s = self.oldest_s()
        return f"an LLMProxy has been waiting {waits_s:.0f} s for a worker" if waits_s > STUCK_S else ""


@asynccontextmanager
async def serve(health: Health, *, port: int) -> AsyncIterator[int]:
    """Serve on *port* (0: any) of every IPv4 and IPv6 address while the context lasts; yield the port."""

    async def healthz(_: web.Request) -> web.Response:
        problem = health.problem()
        return web.Response(text=f"{problem or 'ok'}\n", status=503 if problem else 200)

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n" if health.ready else "starting\n", status=200 if health.ready else 503)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=health.metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4"})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        listener = _listener(port)
        await web.SockSite(runner, listener).start()
        yield int(listener.getsockname()[1])
    finally:
        await runner.cleanup()


def _listener(port: int) -> socket.socket:
    """Return a socket for IPv6 and IPv4, for IPv4 alone where the kernel has no IPv6."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))
