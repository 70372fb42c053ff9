"""A collector as a destination: beside a store or instead of one, and neither in the other's way."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import otlprig
import procs
import spanrig
from llmproxy.contract import Otlp, OtlpHeader
from spanrig import NoStore, until

HEADERS = (OtlpHeader(name="authorization", value_env="TOKEN"),)
ENV = {"TOKEN": " Bearer a-secret\n"}


def to(receiver: otlprig.Receiver, *, key: bool = False) -> Otlp:
    return Otlp(endpoint=receiver.url, headers=HEADERS if key else ())


async def test_instead_of_a_store_every_call_is_one_span_under_opentelemetrys_names(tmp_path: Path) -> None:
    async with otlprig.receiver() as there:
        with spanrig.shipper(tmp_path, NoStore(), otlp=to(there, key=True), env=ENV) as process:
            async with spanrig.gateway(tmp_path) as gateway:
                await gateway.call("ro-1")
                await gateway.call("", attempt="")
                await until(lambda: len(there.spans) == 2)
            assert {header["authorization"] for header in map(lower, there.headers)} == {"Bearer a-secret"}
            numbers = process.metrics()
            assert (numbers["otlp_durable_total"], numbers["otlp_delivered_total"]) == (2, 2)
            assert not [name for name in numbers if name.startswith("store_")]
            assert await asyncio.to_thread(process.end) == 0
        ours = next(span for span in there.spans if "agentlightning.rollout_id" in span.attributes)
        assert ours.name == "chat phi-2"
        assert ours.attributes["gen_ai.response.id"] == "chatcmpl-ro-1-2"
        assert [event["destination"] for event in process.events("spool_empty")] == ["otlp"]
        assert "a-secret" not in "".join(process.outputs)
        assert b"a-secret" not in (tmp_path / "config.json").read_bytes()


def lower(headers: otlprig.Json) -> otlprig.Json:
    return {name.lower(): value for name, value in headers.items()}


@pytest.mark.parametrize("status", [503, 429, 401, 404, 307], ids=str)
async def test_one_that_does_not_take_calls_holds_the_store_up_in_nothing(tmp_path: Path, status: int) -> None:
    async with otlprig.receiver() as there:
        there.status = status
        with spanrig.store_double() as store, spanrig.shipper(tmp_path, store, otlp=to(there)) as process:
            async with spanrig.gateway(tmp_path) as gateway:
                for i in range(60):
                    assert await gateway.call(f"ro-{i % 7}", wait_s=20.0)
                assert len(store.ledger()["calls"]) == 60
                await until(lambda: process.metrics()[f'otlp_failures_total{{reason="http_{status}"}}'] > 0)
                numbers = process.metrics()
                assert (numbers["delivered_total"], numbers["otlp_delivered_total"]) == (60, 0)
                assert (numbers["store_up"], numbers["otlp_up"]) == (1, 0)
                assert numbers["otlp_retry_queued_total"] == 0
                there.status = 200
                await until(lambda: len(there.calls) == 60)


async def test_a_store_that_is_away_holds_the_collector_up_in_nothing(tmp_path: Path) -> None:
    async with otlprig.receiver() as there:
        with spanrig.store_double() as store, spanrig.shipper(tmp_path, store, otlp=to(there)):
            store.faults(unavailable=1.0)
            async with spanrig.gateway(tmp_path) as gateway:
                for i in range(60):
                    await gateway.call(f"ro-{i % 7}")
                await until(lambda: len(there.calls) == 60)
                assert store.ledger()["calls"] == []
                store.faults(unavailable=0.0)
                await until(lambda: len(store.ledger()["calls"]) == 60)


async def test_a_collectors_full_spool_refuses_for_it_alone(tmp_path: Path) -> None:
    async with otlprig.receiver() as there:
        there.status = 503
        with (
            spanrig.store_double() as store,
            spanrig.shipper(tmp_path, store, otlp=to(there), spool_bytes=2 << 20) as process,
        ):
            async with spanrig.gateway(tmp_path) as gateway:
                for i in range(60):
                    answer = spanrig.chat_response(f"c-{i}", size=50_000)
                    assert await gateway.call(f"ro-{i}", response=answer, wait_s=20.0)
                assert (gateway.handover.durable, gateway.handover.rejected) == (60, 0)
            numbers = process.metrics()
            kept = numbers["otlp_durable_total"]
            assert 10 < kept < 21
            assert numbers['otlp_refused_total{reason="spool_full"}'] == 60 - kept
            (event,) = process.events("calls_refused")
            assert (event["destination"], event["reason"]) == ("otlp", "spool_full")
            there.status = 200
            await until(lambda: len(there.calls) == kept)


async def test_kills_lose_nothing_of_either(tmp_path: Path) -> None:
    async with otlprig.receiver() as there:
        with spanrig.store_double() as store, spanrig.shipper(tmp_path, store, otlp=to(there)) as process:
            async with spanrig.gateway(tmp_path) as gateway:
                for kill in range(6):
                    there.status = 503 if kill % 2 else 200
                    store.faults(unavailable=0.0 if kill % 2 else 0.5)
                    for i in range(40):
                        await gateway.call(f"ro-{i % 7}")
                    await asyncio.to_thread(process.kill)
                    await asyncio.to_thread(process.start)
                there.status = 200
                store.faults(unavailable=0.0)
                await gateway.all_durable(30.0)
                sent = {f"{gateway.handover._gateway}/{call_id}" for call_id in gateway.sent}
                await until(lambda: there.calls == sent, 30.0)
                await until(lambda: {call[0] for call in store.ledger()["calls"]} == sent, 30.0)
                spans = {span.span_id for span in there.spans}
                assert len(spans) == len(sent)  # what came twice has the same id


async def test_what_it_calls_a_bad_request_is_cut_out_and_queued_for_retry_and_can_be_listed_and_replayed(
    tmp_path: Path,
) -> None:
    async with otlprig.receiver() as there:
        there.poison = "ro-bad"
        with spanrig.shipper(tmp_path, NoStore(), otlp=to(there, key=True), env=ENV, flush_s=0.5) as process:
            async with spanrig.gateway(tmp_path) as gateway:
                for i in range(40):
                    await gateway.call("ro-bad" if i == 17 else f"ro-{i % 7}")
                await until(lambda: len(there.calls) == 39)
                await until(lambda: process.metrics()["otlp_retry_calls"] == 1)
            (queued,) = process.events("calls_queued_for_retry")
            assert (queued["destination"], queued["reason"]) == ("otlp", "http_400")
            await asyncio.to_thread(process.end)
        listed = await offline("inspect", str(tmp_path / "spool"))
        assert "otlp retrying ro-bad at-1 1 http_400" in listed.stdout
        assert "0 waiting, 0 retrying, 0 dead, 0 otlp waiting, 1 otlp retrying, 0 otlp dead" in listed.stdout
        there.poison = ""
        replayed = await offline("replay", "--config", str(tmp_path / "config.json"), str(tmp_path / "spool"))
        assert (replayed.returncode, replayed.stdout) == (0, "1 delivered, 0 refused\n"), replayed.stderr
        assert len(there.calls) == 40


async def offline(*arguments: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "llmproxy.shipper", *arguments]
    env = {"TOKEN": "t"}
    return await asyncio.to_thread(
        subprocess.run, line, capture_output=True, text=True, timeout=60, check=False, env=env
    )


async def test_what_a_receiver_says_it_has_dropped_is_counted(tmp_path: Path) -> None:
    async with otlprig.receiver() as there:
        there.rejected = 1
        with spanrig.shipper(tmp_path, NoStore(), otlp=to(there)) as process:
            async with spanrig.gateway(tmp_path) as gateway:
                await gateway.call("ro")
                await until(lambda: process.metrics()["otlp_rejected_spans_total"] == 1)
                await until(lambda: process.metrics().get('otlp_dead_lettered_total{reason="partial_success"}') == 1)
                assert process.metrics()["otlp_delivered_total"] == 0
                assert there.requests == 1  # OTLP forbids to send them again


@pytest.mark.parametrize(("value", "says"), [("", "TOKEN is not set"), ("a\nb", "one line")], ids=["none", "two lines"])
async def test_a_header_that_cannot_be_sent_ends_it_with_2(tmp_path: Path, value: str, says: str) -> None:
    spanrig.write_config(tmp_path, None, otlp=Otlp(endpoint="http://127.0.0.1:1", headers=HEADERS))
    flags = ("--config", f"{tmp_path}/config.json", "--run-dir", str(tmp_path), "--spool-dir", f"{tmp_path}/spool")
    process = procs.started("llmproxy.shipper", *flags, env={"TOKEN": value})
    assert process.wait() == 2
    assert says in process.output
    process.end()


async def test_a_gateway_waits_for_no_collector(tmp_path: Path) -> None:
    """With a collector alone a rollout's call is let go at once, however long ackWait is."""
    async with otlprig.receiver() as there:
        there.status = 503
        spanrig.write_config(tmp_path, None, otlp=to(there), ack_wait_s=10.0)
        with procs.running("llmproxy.echo", "--port", "0", ready="ready on") as echo:
            point(tmp_path / "config.json", f"http://127.0.0.1:{echo.port}/v1")
            process = spanrig.ShipperProcess(tmp_path, tmp_path / "spool", 0.2)
            process.start()
            port, admin = procs.free_port(), procs.free_port()
            flags = ("--config", f"{tmp_path}/config.json", "--run-dir", str(tmp_path), "--host", "127.0.0.1")
            at = ("--port", str(port), "--admin-host", "127.0.0.1", "--admin-port", str(admin))
            peer = ("--peer-port", str(procs.free_port()))
            with procs.running("llmproxy.gateway", *flags, *at, *peer, port=admin):
                for path in ("/rollout/ro/attempt/at/v1/chat/completions", "/v1/chat/completions"):
                    began = time.monotonic()
                    body = json.loads(spanrig.chat_request()) | {"model": "phi"}
                    await asyncio.to_thread(spanrig.ask_json, f"http://127.0.0.1:{port}", "POST", path, body)
                    assert time.monotonic() - began < 5.0
                there.status = 200
                await until(lambda: len(there.calls) == 2)
            await asyncio.to_thread(process.end)


def point(path: Path, url: str) -> None:
    path.write_text(path.read_text().replace(spanrig.NOWHERE, url))
