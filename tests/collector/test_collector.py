"""A real OpenTelemetry Collector takes what the shipper sends, and hands it on as it is."""

import asyncio
import json
from pathlib import Path

import otlprig
import procs
import spanrig
from llmproxy.contract import Otlp, OtlpHeader
from spanrig import until


def otlp_of(port: int) -> Otlp:
    return Otlp(endpoint=f"http://127.0.0.1:{port}", headers=(OtlpHeader(name="x-key", value_env="KEY"),))


ENV = {"KEY": "k"}


async def test_calls_go_through_it_whole(tmp_path: Path) -> None:
    async with otlprig.receiver() as behind:
        with (
            otlprig.collector(tmp_path, behind.url) as between,
            spanrig.shipper(tmp_path, spanrig.NoStore(), otlp=otlp_of(between.port), env=ENV) as process,
        ):
            async with spanrig.gateway(tmp_path) as gateway:
                for i in range(100):
                    await gateway.call(f"ro-{i % 7}")
                await gateway.call("", attempt="")
                await gateway.call("ro-failed", status=503, error="http_503", response=b"{}")
                await until(lambda: len(behind.calls) == 102)
            assert process.metrics()["otlp_delivered_total"] == 102
            assert process.metrics()["otlp_rejected_spans_total"] == 0
        told = {span.attributes.get("agentlightning.rollout_id"): span for span in behind.spans}
        span = told["ro-3"]
        assert (span.name, span.kind, span.error) == ("chat phi-2", 3, None)
        assert span.resource["service.name"] == "phi"
        assert span.attributes["gen_ai.usage.input_tokens"] == 3
        assert json.loads(span.attributes["gen_ai.output.messages"])[0]["parts"] == [
            {"type": "text", "content": "hello"}
        ]
        assert (told["ro-failed"].error, told["ro-failed"].attributes["error.type"]) == ("http_503", "503")
        assert None in told  # of no rollout: a store is not told of it, a collector is


async def test_one_that_was_away_gets_everything_and_the_store_has_not_waited(tmp_path: Path) -> None:
    port = procs.free_port()
    async with otlprig.receiver() as behind:
        with (
            spanrig.store_double() as store,
            spanrig.shipper(tmp_path, store, otlp=otlp_of(port), env=ENV) as process,
        ):
            async with spanrig.gateway(tmp_path) as gateway:
                for i in range(50):
                    assert await gateway.call(f"ro-{i % 7}", wait_s=20.0)
                assert len(store.ledger()["calls"]) == 50
                assert process.metrics()["otlp_up"] == 0
                await asyncio.to_thread(process.kill)
                await asyncio.to_thread(process.start)
                with otlprig.collector(tmp_path, behind.url, port=port):
                    await until(lambda: len(behind.calls) == 50, 30.0)
                await gateway.connected()  # starting a Collector has held up this loop, the gateway's too
                assert await gateway.call("ro-after", wait_s=20.0)
