"""The admin port: health, readiness, metrics and limits. It only tells, so it asks for no token."""

from collections.abc import Awaitable, Callable, Iterable

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

Readiness = tuple[bool, dict[str, object]]


def make_admin(
    readiness: Callable[[], Readiness],
    collectors: Iterable[Collector],
    beside: Callable[[], Awaitable[bytes]] | None = None,
    limits: Callable[[], dict[str, object]] = dict,
) -> FastAPI:
    """Return the app.

    *readiness* says whether this pod should get calls, and in what state it is; *beside*, what another process of the
    pod tells Prometheus; *limits*, each limit and its use.
    """
    app = FastAPI(title="llmproxy gateway", openapi_url=None)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    for collector in collectors:
        registry.register(collector)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Say that the process runs: its event loop answered this."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """Say whether this pod should get calls."""
        ready, detail = readiness()
        return JSONResponse({"ready": ready, **detail}, status_code=200 if ready else 503)

    @app.get("/limits")
    async def limits_and_use() -> dict[str, object]:
        """Say each limit and how much of it is taken now, as the metrics do."""
        return limits()

    @app.get("/metrics")
    async def metrics() -> Response:
        """Return everything that is counted, for Prometheus."""
        more = await beside() if beside is not None else b""
        return Response(generate_latest(registry) + more, media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return app
