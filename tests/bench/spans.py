#!/usr/bin/env python3
"""What the shipper does a second, beside OpenTelemetry's own batch exporter: `make bench-spans`.

    durable intake   calls of 2 KB over the socket, acknowledged after fdatasync, while the store is away
    delivery         the same calls as spans in a store that takes everything
    end to end       both at once, with a sequence id taken for each
    a full spool     1 GiB of calls of 64 KB while the store is away: what matters is the memory
    hand-over        what a call costs the gateway: building its record, telling of it, hearing that it is durable

The sink answers as the store does and looks at nothing, so that the rows say what the sender costs. OpenTelemetry's
exporter keeps spans in memory only: it has no intake that is durable, and loses what it holds when it is killed. Its
Collector has a queue on disk (file_storage, here with fsync, which is not its default); it is sent the same spans.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import aiohttp
import uvloop

import otlprig
import procs
import spanrig
from cluster.errors import ClusterError
from llmproxy import shipping_protocol
from llmproxy.gateway.http.exchange import ByteBudget
from llmproxy.gateway.shipping.shipper_client import ShipperClient
from llmproxy.shipper.spans.agent_lightning import AgentLightningEncoder
from llmproxy.shipper.spool.records import SpoolRecord

WINDOW = 4000
"""Calls that are sent and not acknowledged, at most."""
BATCH = 64
NOWHERE = "http://127.0.0.1:9"
PREPARED_BYTES = 256 << 20
"""Of calls: so many are made before the clock starts."""
BODY = 900
"""Characters of a question and of an answer: about 2 KB a call in all."""


class Sink(asyncio.Protocol):
    """Answers every request as a store does; with `away`, with 503."""

    away = False
    batches = 0
    taken = 0

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (head := self._buffer.find(b"\r\n\r\n")) >= 0:
            start = self._buffer[:head].lower()
            length = int(start.split(b"content-length:")[1].split(b"\r\n")[0]) if b"content-length:" in start else 0
            end = head + 4 + length
            if len(self._buffer) < end:
                return
            asks = b"/spans/next" in start
            del self._buffer[:end]
            self._answer(asks=asks, length=length)

    def _answer(self, *, asks: bool, length: int) -> None:
        assert self._transport is not None
        if Sink.away:
            self._transport.write(b"HTTP/1.1 503 Away\r\ncontent-length: 0\r\n\r\n")
            return
        if not asks:
            Sink.batches += 1
            Sink.taken += length
        body = b'{"sequence_id": 1}' if asks else b""
        kind = b"application/json" if asks else b"application/x-protobuf"
        head = b"HTTP/1.1 200 OK\r\ncontent-type: " + kind + b"\r\ncontent-length: " + str(len(body)).encode()
        self._transport.write(head + b"\r\n\r\n" + body)


@dataclass
class Driver(asyncio.Protocol):
    """A gateway that sends as fast as it is acknowledged."""

    total: int
    arrivals: bool
    response: bytes = b""
    window: int = WINDOW
    confirmed: int = 0
    stored: int = 0
    sent: int = 0
    refused: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)
    all_stored: asyncio.Event = field(default_factory=asyncio.Event)
    transport: asyncio.Transport | None = None
    buffer: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        text = "word " * (BODY // 5)
        self._request = spanrig.chat_request(text)
        self._response = self.response or spanrig.chat_response("chatcmpl-1", text)
        numbers = range(1, self.total + 1)
        self._batch = max(1, min(BATCH, shipping_protocol.BATCH_BYTES // len(self._response)))  # as a gateway cuts them
        starts = range(0, self.total, self._batch)
        self._frames: Iterator[bytes] = (self._frame(numbers[start : start + self._batch]) for start in starts)
        if self.total * len(self._response) < PREPARED_BYTES:  # so that what is measured is not this program
            self._frames = iter(list(self._frames))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(
            shipping_protocol.frame([shipping_protocol.GatewayHello(shipping_protocol.PROTOCOL, f"bench{os.getpid()}")])
        )
        self._more()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while len(self.buffer) >= 4:
            (length,) = shipping_protocol.HEADER.unpack_from(self.buffer)
            if len(self.buffer) < 4 + length:
                break
            for message in shipping_protocol.decode_to_gateway(bytes(self.buffer[4 : 4 + length])):
                if isinstance(message, shipping_protocol.StoredAck):
                    self.stored += len(message.call_ids)
                else:
                    self.refused += len(message.call_ids) * isinstance(message, shipping_protocol.Nack)
                    self.confirmed += len(message.call_ids)
            del self.buffer[: 4 + length]
        if self.confirmed >= self.total:
            self.done.set()
        if self.stored >= self.total:
            self.all_stored.set()
        self._more()

    def _more(self) -> None:
        assert self.transport is not None
        while self.sent < self.total and self.sent - self.confirmed < self.window:
            self.transport.write(next(self._frames))
            self.sent = min(self.total, self.sent + self._batch)

    def _frame(self, numbers: range) -> bytes:
        batch: list[shipping_protocol.Arrival | shipping_protocol.CallRecord] = []
        for number in numbers:
            rollout = f"ro-{number % 500}"
            if self.arrivals:
                batch.append(shipping_protocol.Arrival(number, rollout, "at-1", time.time_ns()))
            known = 0 if self.arrivals else number
            same: dict[str, Any] = {"request": self._request, "response": self._response, "sequence_id": known}
            batch.append(spanrig.a_call(number, rollout, **same))
        return shipping_protocol.frame(batch)


def cpu_s(pid: int) -> float:
    """Return the processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measured(folder: Path, url: str, total: int) -> list[dict[str, Any]]:
    """Return the rows of the shipper."""
    rows = []
    store = type("Address", (), {"url": url})()
    loop = asyncio.get_running_loop()
    with spanrig.shipper(folder, store) as shipper:
        assert shipper.process is not None
        pid = shipper.process.pid
        Sink.away = True
        driver = Driver(total, arrivals=False)
        await loop.create_unix_connection(lambda: driver, str(folder / "shipper.sock"))
        cpu, began = cpu_s(pid), time.perf_counter()
        await driver.done.wait()
        rows.append(row("durable intake", total, began, cpu_s(pid) - cpu, shipper))
        assert driver.refused == 0
        Sink.away = False
        cpu, began = cpu_s(pid), time.perf_counter()
        await driver.all_stored.wait()
        rows.append(row("delivery", total, began, cpu_s(pid) - cpu, shipper))
        some = total // 4
        driver = Driver(some, arrivals=True)
        await loop.create_unix_connection(lambda: driver, str(folder / "shipper.sock"))
        cpu, began = cpu_s(pid), time.perf_counter()
        await driver.all_stored.wait()
        rows.append(row("end to end, with sequence ids", some, began, cpu_s(pid) - cpu, shipper))
    return rows


def row(name: str, total: int, began: float, cpu: float, shipper: spanrig.ShipperProcess) -> dict[str, Any]:
    assert shipper.process is not None
    return row_of(name, total, began, cpu, shipper.process)


def row_of(name: str, total: int, began: float, cpu: float, process: procs.Process) -> dict[str, Any]:
    took = time.perf_counter() - began
    return {
        "what": name,
        "calls_per_s": round(total / took),
        "cpu_us_per_call": round(cpu / total * 1e6, 1),
        "rss_mb": round(process.rss_bytes / 2**20),
    }


async def full_spool(folder: Path, url: str, size: int) -> dict[str, Any]:
    """Return the row of a spool that holds *size* bytes."""
    store = type("Address", (), {"url": url})()
    Sink.away = True
    body = spanrig.chat_response("c", size=64_000)
    total = size // (len(body) + 700)
    with spanrig.shipper(folder, store, spool_bytes=2 * size) as shipper:
        assert shipper.process is not None
        driver = Driver(total, arrivals=False, response=body, window=200)
        await asyncio.get_running_loop().create_unix_connection(lambda: driver, str(folder / "shipper.sock"))
        cpu, began = cpu_s(shipper.process.pid), time.perf_counter()
        await driver.done.wait()
        held = spanrig.disk_bytes(folder / "spool") / 2**30
        used = cpu_s(shipper.process.pid) - cpu
        made = row(f"{held:.2f} GiB spooled, calls of 64 KB", total, began, used, shipper)
        assert driver.refused == 0
        await asyncio.to_thread(shipper.kill)
    return made


async def hand_over(folder: Path, total: int) -> dict[str, Any]:
    """Return the row of the gateway's end: a call's record is built, told of at both ends, and heard to be durable."""
    store = type("Address", (), {"url": NOWHERE})()  # nothing of it is in this process
    text = "word " * (BODY // 5)
    same: dict[str, Any] = {"request": spanrig.chat_request(text), "response": spanrig.chat_response("c", text)}
    like = spanrig.a_call(1, "ro-1", **same)
    values = [getattr(like, name) for name in like.__struct_fields__[1:]]
    with spanrig.shipper(folder, store) as shipper:
        assert shipper.process is not None
        handover = ShipperClient(folder / "shipper.sock", ByteBudget(1 << 30))
        await spanrig.until(lambda: handover.connected)
        used, began = time.process_time(), time.perf_counter()
        for start in range(0, total, 50):
            for call_id in range(start, start + 50):
                handover.send_arrival(shipping_protocol.Arrival(call_id, "ro-1", "at-1", 1))
                handover.send_record(shipping_protocol.CallRecord(call_id, *values))
            await asyncio.sleep(0)
            while handover.backlog > 2000:  # noqa: ASYNC110 - the gateway waits for nobody, this rig must
                await asyncio.sleep(0.01)
        while handover.backlog:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        made = row_of("hand-over, in the gateway", total, began, time.process_time() - used, shipper.process)
        await handover.close(1.0)
    return {**made, "rss_mb": 0}


async def collector(folder: Path, url: str, total: int) -> list[dict[str, Any]]:
    """Return the rows of a Collector with its queue on disk, none where it cannot be built."""
    try:
        otlprig.collector_program()
    except (ClusterError, OSError) as exc:
        print(f"no Collector: {exc}", file=sys.stderr)
        return []
    encoder, text = AgentLightningEncoder(name="phi", namespace="bench"), "word " * (BODY // 5)
    same: dict[str, Any] = {"request": spanrig.chat_request(text), "response": spanrig.chat_response("c", text)}
    made = [b"".join(encoder.encode(SpoolRecord("gw", i, spanrig.a_call(i, "ro", **same)))) for i in range(BATCH)]
    batch, batches = b"".join(made), total // BATCH
    Sink.away, Sink.taken = True, 0
    with otlprig.collector(folder, url, persistent=True) as process:
        at = f"http://127.0.0.1:{process.port}/v1/traces"
        left = iter(range(batches))
        cpu, began = cpu_s(process.pid), time.perf_counter()
        async with aiohttp.ClientSession(headers={"content-type": "application/x-protobuf"}) as session:

            async def post() -> None:
                for _ in left:
                    async with session.post(at, data=batch) as answer:
                        assert answer.status == 200, await answer.text()

            await asyncio.gather(*(post() for _ in range(16)))
        rows = [row_of("Collector, queue on disk: intake", batches * BATCH, began, cpu_s(process.pid) - cpu, process)]
        Sink.away = False
        cpu, began = cpu_s(process.pid), time.perf_counter()
        while Sink.taken < 0.95 * batches * len(batch) and time.perf_counter() - began < 60:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        share = Sink.taken / (batches * len(batch))
        name = "Collector, queue on disk: delivery" if share >= 0.95 else f"Collector: {share:.0%} delivered in 60 s"
        count = round(batches * BATCH * min(1.0, share)) or 1
        return [*rows, row_of(name, count, began, cpu_s(process.pid) - cpu, process)]


OTEL = """
import json, resource, sys, time
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
url, total, text = sys.argv[1], int(sys.argv[2]), "word " * (int(sys.argv[3]) // 5)
provider = TracerProvider(resource=Resource.create({"agentlightning.rollout_id": "ro-1"}))
exporter = OTLPSpanExporter(endpoint=url + "/v1/traces")
sizes = {"max_queue_size": total * 3 + 1, "max_export_batch_size": 512, "schedule_delay_millis": 50}
processor = BatchSpanProcessor(exporter, **sizes)
provider.add_span_processor(processor)
tracer = provider.get_tracer("bench")
attributes = {f"llmproxy.a{i}": "value" for i in range(10)} | {
    "gen_ai.prompt.0.content": text, "gen_ai.completion.0.content": text, "prompt_token_ids": [1, 2, 3],
    "response_token_ids": [4, 5], "gen_ai.request.model": "phi", "gen_ai.response.id": "x"}
began = time.perf_counter()
for i in range(total):
    root = tracer.start_span("litellm_request", attributes=attributes)
    for name in ("raw_gen_ai_request", "openai.chat.completion"):
        tracer.start_span(name, attributes=attributes).end()
    root.end()
processor.force_flush(600000)
took = time.perf_counter() - began
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"what": "OpenTelemetry SDK, BatchSpanProcessor (not durable)", "calls_per_s": round(total / took),
  "cpu_us_per_call": round((used.ru_utime + used.ru_stime) / total * 1e6), "rss_mb": round(used.ru_maxrss / 1024)}))
"""


async def otel(url: str, total: int) -> dict[str, Any] | None:
    """Return the row of OpenTelemetry's exporter, None where it is not installed."""
    python = procs.AGL_PYTHON
    if not python.exists():
        return None
    line = (str(python), "-c", OTEL, url, str(total), str(BODY))
    process = await asyncio.create_subprocess_exec(*line, stdout=subprocess.PIPE)
    text, _ = await process.communicate()
    found: dict[str, Any] = json.loads(text)
    return found


async def run(total: int, gib: float) -> list[dict[str, Any]]:
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with tempfile.TemporaryDirectory() as folder:
        rows = await measured(Path(folder), url, total)
    with tempfile.TemporaryDirectory() as folder:
        rows.append(await full_spool(Path(folder), url, round(gib * 2**30)))
    Sink.away = False
    with tempfile.TemporaryDirectory() as folder:
        rows.append(await hand_over(Path(folder), total))
    with tempfile.TemporaryDirectory() as folder:
        rows += await collector(Path(folder), url, total // 4)
    Sink.away = False
    peer = await otel(url, total // 4)
    server.close()
    return rows if peer is None else [*rows, peer]


def main() -> int:
    parser = argparse.ArgumentParser(description="Measures the shipper, and OpenTelemetry's batch exporter beside it.")
    parser.add_argument("--calls", type=int, default=40_000)
    parser.add_argument("--gib", type=float, default=1.0, help="what the full spool holds")
    parser.add_argument("--json", action="store_true")
    flags = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rows = runner.run(run(flags.calls, flags.gib))
    if flags.json:
        print(json.dumps(rows))
        return 0
    print(f"{'three spans a call, 2 KB':52} {'calls/s':>9} {'CPU us/call':>12} {'memory MB':>10}")
    for item in rows:
        print(f"{item['what']:52} {item['calls_per_s']:9} {item['cpu_us_per_call']:12} {item['rss_mb']:10}")
    mine = resource.getrusage(resource.RUSAGE_SELF)
    print(f"driver and sink used {mine.ru_utime + mine.ru_stime:.1f} s of processor time on the same machine")
    return 0


if __name__ == "__main__":
    sys.exit(main())
