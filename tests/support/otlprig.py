"""A receiver of OTLP over HTTP, read by OpenTelemetry's own protobuf classes, that fails on demand; and a Collector."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

import procs
from cluster import build
from cluster.places import Places

Json = dict[str, Any]


@dataclass
class Received:
    """One span."""

    trace_id: str
    span_id: str
    name: str
    kind: int
    error: str | None
    """Its message if its status is ERROR."""
    attributes: Json
    resource: Json
    events: list[str]


@dataclass
class Receiver:
    """What came, and what is answered."""

    port: int = 0
    status: int = 200
    rejected: int = 0
    poison: str = ""
    """A batch with a span of that rollout is answered with 400."""
    headers: list[Json] = field(default_factory=list)
    spans: list[Received] = field(default_factory=list)
    requests: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def calls(self) -> set[str]:
        return {span.attributes["llmproxy.call"] for span in self.spans}

    async def traces(self, request: web.Request) -> web.Response:
        self.requests += 1
        self.headers.append(dict(request.headers))
        assert request.content_type == "application/x-protobuf"
        batch = ExportTraceServiceRequest.FromString(await request.read())
        found = list(read(batch))
        if self.poison and any(span.attributes.get("agentlightning.rollout_id") == self.poison for span in found):
            return web.Response(status=400)
        if self.status != 200:
            return web.Response(status=self.status, headers={"location": f"{self.url}/elsewhere"})
        self.spans += found
        answer = ExportTraceServiceResponse()
        answer.partial_success.rejected_spans = self.rejected
        return web.Response(body=answer.SerializeToString(), content_type="application/x-protobuf")


def read(batch: ExportTraceServiceRequest) -> Iterator[Received]:
    for there in batch.resource_spans:
        resource = {item.key: plain(item.value) for item in there.resource.attributes}
        for scope in there.scope_spans:
            for span in scope.spans:
                yield Received(
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.name,
                    span.kind,
                    span.status.message if span.status.code == 2 else None,
                    {item.key: plain(item.value) for item in span.attributes},
                    resource,
                    [event.name for event in span.events],
                )


def plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    return getattr(value, str(kind))


@contextlib.asynccontextmanager
async def receiver(port: int = 0) -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/traces", made.traces)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    made.port = runner.addresses[0][1]
    try:
        yield made
    finally:
        await runner.cleanup()


CONFIG = """
receivers:
  otlp:
    protocols:
      http:
        endpoint: 127.0.0.1:{port}
exporters:
  otlphttp:
    endpoint: {out}
    compression: none
    sending_queue: {{enabled: {queue}, {more}}}
{extensions}
service:
  {service}
  telemetry: {{metrics: {{level: none}}, logs: {{level: warn}}}}
  pipelines:
    traces: {{receivers: [otlp], exporters: [otlphttp]}}
"""


def collector_program() -> Path:
    """Return OpenTelemetry's Collector, built if it is not yet."""
    places = Places.from_environment()
    build.ensure(places, build.COLLECTOR)
    return build.program(places, build.COLLECTOR, "collector")


def write_collector_config(folder: Path, port: int, out: str, *, persistent: bool = False) -> Path:
    """Write what a Collector is told: OTLP in at *port*, OTLP out to *out*, with *persistent* by a queue on disk."""
    extensions = service = ""
    more = "queue_size: 1000"
    if persistent:
        storage = folder / "queue"
        storage.mkdir(exist_ok=True)
        extensions = f"extensions:\n  file_storage: {{directory: {storage}, fsync: true}}"
        service = "extensions: [file_storage]"
        more = "storage: file_storage, sizer: requests, queue_size: 1000000"
    path = folder / "collector.yaml"
    text = CONFIG.format(
        port=port, out=out, queue=str(persistent).lower(), more=more, extensions=extensions, service=service
    )
    path.write_text(text)
    return path


@contextlib.contextmanager
def collector(folder: Path, out: str, *, port: int = 0, persistent: bool = False) -> Iterator[procs.Process]:
    """Run a Collector; its `ready_line` ends in its port."""
    port = port or procs.free_port()
    config = write_collector_config(folder, port, out, persistent=persistent)
    with procs.running(str(collector_program()), "--config", str(config), port=port) as process:
        process.ready_line = f"at :{port}"
        yield process
