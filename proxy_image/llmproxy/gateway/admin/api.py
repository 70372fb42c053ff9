"""The admin port: health, readiness, metrics and limits. It is read-only, so it needs no token."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

Readiness = tuple[bool, dict[str, object]]


def admin_app(
    readiness: Callable[[], Readiness],
    collectors: Iterable[Collector],
    sidecar_metrics: Callable[[], Awaitable[bytes]] | None = None,
    limits: Callable[[], dict[str, object]] = dict,
) -> FastAPI:
    """Return the app.

    *readiness* returns readiness and state of this pod; *sidecar_metrics*, the metrics of another process of the pod;
    *limits*, each limit and its usage.
    """
    app = FastAPI(title="llmproxy gateway", openapi_url=None)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    for collector in collectors:
        registry.register(collector)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Report that the process runs: its event loop sent this."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """Report whether this pod should get requests."""
        ready, detail = readiness()
        return JSONResponse({"ready": ready, **detail}, status_code=200 if ready else 503)

    @app.get("/limits")
    async def limits_and_usage() -> dict[str, object]:
        """Return each limit and its usage, as the metrics do."""
        return limits()

    exposition = _Paced(lambda: generate_latest(registry))

    @app.get("/metrics")
    async def metrics() -> Response:
        """Return all metrics in Prometheus' text format."""
        more = await sidecar_metrics() if sidecar_metrics is not None else b""
        return Response(await exposition.get() + more, media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return app


class _Paced:
    """Results of a costly function, which takes a tenth of the event loop's time at most.

    Calls that come before a run starts share it, so that a result is never older than the call.
    """

    def __init__(self, run: Callable[[], bytes]) -> None:
        self._run = run
        self._next: asyncio.Task[bytes] | None = None
        self._earliest_s = 0.0

    async def get(self) -> bytes:
        if self._next is None:
            self._next = asyncio.create_task(self._result())
        return await asyncio.shield(self._next)

    async def _result(self) -> bytes:
        await asyncio.sleep(max(0.0, self._earliest_s - time.monotonic()))
        self._next = None
        started_s = time.monotonic()
        result = self._run()
        ended_s = time.monotonic()
        self._earliest_s = ended_s + 9 * (ended_s - started_s)
        return result
