"""Admin server: metrics and health over a unix socket, since the pod's ports are the gateway's."""

from collections.abc import Iterable
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from llmproxy.shipper.intake import sockets
from llmproxy.shipper.metrics import ShipperExporter

SOCKET = "shipper-admin.sock"


class Admin:
    """HTTP server of `/metrics` and `/healthz`."""

    def __init__(self, exporters: Iterable[ShipperExporter]) -> None:
        self._registry = CollectorRegistry()
        for exporter in exporters:
            self._registry.register(exporter)
        self._runner: web.AppRunner | None = None

    async def listen(self, path: Path) -> None:
        """Serve at *path*."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        sockets.remove_stale(path)
        await web.UnixSite(self._runner, str(path)).start()
        sockets.allow_group(path)

    async def close(self) -> None:
        """Stop serving."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        text = generate_latest(self._registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")
