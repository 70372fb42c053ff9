"""A real shipper process, the gateway's real end of the socket, and a store that breaks on demand."""

import asyncio
import http.client
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import procs
import spanrig
from llmproxy import shipping_protocol
from llmproxy.shipper import spool_cli
from llmproxy.shipper.spool.segments import Segments
from llmproxy.shipper.spool.spool import load_cursor
from spanrig import Gateway, ShipperProcess, StoreDouble, until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


async def end(process: ShipperProcess) -> int:
    return await asyncio.to_thread(process.end)


async def delivered(store: StoreDouble, count: int, timeout_s: float = 20.0) -> spanrig.Json:
    """Wait until the spans of so many calls are stored, and return the ledger."""
    await until(lambda: len(store.ledger()["calls"]) >= count, timeout_s)
    return store.ledger()


def names(gateway: Gateway) -> set[str]:
    return {f"{gateway.handover._gateway}/{call_id}" for call_id in gateway.sent}


async def test_calls_are_stored_before_the_gateway_is_told_so(folder: Path) -> None:
    with spanrig.store_double() as store, spanrig.shipper(folder, store):
        async with spanrig.gateway(folder) as gateway:
            for i in range(20):
                assert await gateway.call(f"ro-{i}", wait_s=10.0)
                assert len(store.spans(f"ro-{i}")) == 3


async def test_a_thousand_rollouts_are_complete_the_instant_their_call_is_let_go(folder: Path) -> None:
    """Trainers read a rollout's spans once, when it succeeds. How often that took longer than ackWait is printed."""
    with spanrig.store_double() as store, spanrig.shipper(folder, store) as process:
        async with spanrig.gateway(folder) as gateway:
            missing, waits = 0, []

            async def rollout(number: int) -> int:
                began = time.monotonic()
                stored = await gateway.call(f"ro-{number}", wait_s=30.0)
                waits.append(time.monotonic() - began)
                assert stored
                return 3 - len(await asyncio.to_thread(store.spans, f"ro-{number}"))

            for start in range(0, 1000, 20):
                missing += sum(await asyncio.gather(*(rollout(i) for i in range(start, start + 20))))
            assert missing == 0
            assert process.metrics()["sequenced_late_total"] == 0
            waits.sort()
            over = sum(wait > 0.05 for wait in waits)
            print(f"1000 rollouts, 0 missing, p50 {waits[500] * 1e3:.1f} ms, {over} over 50 ms")


async def test_a_store_that_is_away_holds_nobody_up_and_loses_nothing(folder: Path) -> None:
    with spanrig.store_double() as store, spanrig.shipper(folder, store) as process:
        store.kill()
        async with spanrig.gateway(folder) as gateway:
            began = time.monotonic()
            for i in range(200):
                await gateway.call(f"ro-{i % 7}")
            await gateway.all_durable()
            assert time.monotonic() - began < 10  # nothing waited for the store, whose connection alone takes longer
            await until(lambda: process.metrics()["store_up"] == 0)
            store.restart()
            ledger = await delivered(store, 200)
            assert {call[0] for call in ledger["calls"]} == names(gateway)
            assert process.metrics()["sequenced_late_total"] > 0


async def test_the_end_of_a_pod_empties_the_spool(folder: Path) -> None:
    with spanrig.store_double() as store, spanrig.shipper(folder, store) as process:
        store.faults(unavailable=1.0)
        async with spanrig.gateway(folder) as gateway:
            for i in range(100):
                await gateway.call(f"ro-{i % 7}")
            await gateway.all_durable()
        ending = asyncio.ensure_future(end(process))
        await asyncio.sleep(0.5)
        store.faults(unavailable=0.0)
        assert await ending == 0
        assert len(store.ledger()["calls"]) == 100
        assert [e["delivered"] for e in process.events("spool_empty")] == [100]


async def test_what_is_left_at_the_end_is_said_and_sent_by_the_next(folder: Path) -> None:
    with spanrig.store_double() as store, spanrig.shipper(folder, store, flush_s=0.5) as process:
        store.faults(unavailable=1.0)
        async with spanrig.gateway(folder) as gateway:
            for i in range(400):
                await gateway.call(f"ro-{i % 7}")
            await gateway.all_durable()
        assert await end(process) == 0
        (left,) = process.events("spool_not_empty")
        assert left["waiting"] == 400  # more than one batch: also what was never taken up is counted
        store.faults(unavailable=0.0)
        process.start()
        await delivered(store, 400)


async def test_an_unknown_rollout_delays_nobody_and_ends_as_dead_letters_that_can_be_replayed(folder: Path) -> None:
    with (
        spanrig.store_double(open_house=False) as store,
        spanrig.shipper(folder, store, flush_s=1.0) as process,
    ):
        store.post("/fake/start", [[f"ro-{i}", "at-1"] for i in range(20)])
        async with spanrig.gateway(folder) as gateway:
            await gateway.call("ro-nobody-knows")
            for i in range(60):
                assert await gateway.call(f"ro-{i % 20}", wait_s=10.0)
                if i % 10 == 0:
                    await gateway.call("ro-nobody-knows")
            await until(lambda: process.metrics()["retry_calls"] == 7)
            assert len(store.ledger()["calls"]) == 60
        (queued,) = process.events("calls_queued_for_retry")
        assert (queued["rollout"], queued["reason"]) == ("ro-nobody-knows", "rollout_unknown")
        await end(process)

        listed = run("inspect", str(folder / "spool"))
        assert "retrying ro-nobody-knows at-1 7 rollout_unknown" in listed.stdout
        assert listed.stdout.splitlines()[-1].startswith("0 waiting, 7 retrying, 0 dead;")
        refused = run("replay", "--store", store.url, str(folder / "spool"))
        assert (refused.returncode, refused.stdout.splitlines()[-1]) == (1, "0 delivered, 7 refused")
        assert "0 waiting, 0 retrying, 7 dead;" in run("inspect", "--calls", str(folder / "spool")).stdout
        store.post("/fake/start", [["ro-nobody-knows", "at-1"]])
        replayed = run("replay", "--config", str(folder / "config.json"), str(folder / "spool"))
        assert (replayed.returncode, replayed.stdout) == (0, "7 delivered, 0 refused\n")
        assert len(store.ledger()["calls"]) == 67
        assert "0 waiting, 0 retrying, 0 dead;" in run("inspect", str(folder / "spool")).stdout


async def test_a_person_may_look_while_it_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Segments come and go under the eyes of `inspect`: it says neither that one is missing nor that one is damaged."""
    with spanrig.store_double() as store, spanrig.shipper(folder, store, spool_bytes=2 << 20) as process:
        async with spanrig.gateway(folder) as gateway:
            looking = asyncio.ensure_future(asyncio.to_thread(look_often, folder / "spool", 100))
            number = 0
            while not looking.done() or number < 100:
                number += 1
                await gateway.call(f"ro-{number % 9}", response=spanrig.chat_response(f"c-{number}", size=20_000))
                if number % 20 == 0:
                    await gateway.all_durable(60)
                    await asyncio.sleep(0.02)
            codes = await looking
            await gateway.all_durable(60)
            await until(lambda: process.metrics()["delivered_total"] == process.metrics()["durable_total"], 60)
        said = capsys.readouterr()
        assert (codes, said.err) == ({0}, "")
        assert all(line.endswith(" 0 damaged") for line in said.out.splitlines() if " on disk, " in line)


def look_often(spool: Path, times: int) -> set[int]:
    return {spool_cli.main(["inspect", str(spool)]) for _ in range(times)}


async def test_a_segment_that_is_removed_under_the_eyes_of_inspect_is_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with spanrig.store_double() as store, spanrig.shipper(folder, store) as process:
        store.faults(unavailable=1.0)
        async with spanrig.gateway(folder) as gateway:
            await gateway.call("ro")
            await gateway.all_durable()
        await asyncio.to_thread(process.kill)
    real = load_cursor

    def delivered_meanwhile(where: Path) -> tuple[int, int] | None:
        for path in where.glob("*.seg"):
            path.unlink()
        return real(where)

    monkeypatch.setattr(spool_cli, "load_cursor", delivered_meanwhile)
    assert spool_cli.main(["inspect", str(folder / "spool")]) == 0
    assert capsys.readouterr().out.startswith("0 waiting, 0 retrying, 0 dead;")


def test_a_folder_that_is_no_spool_is_said_and_left_as_it_is(folder: Path) -> None:
    done = run("inspect", str(folder))
    assert (done.returncode, done.stdout) == (1, "")
    assert "not a spool" in done.stderr
    assert list(folder.iterdir()) == []


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "llmproxy.shipper", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)


async def test_a_store_without_its_database_retries_nothing(folder: Path) -> None:
    with spanrig.store_double() as store, spanrig.shipper(folder, store) as process:
        store.faults(broken=True)
        async with spanrig.gateway(folder) as gateway:
            for i in range(50):
                await gateway.call(f"ro-{i % 7}")
            await gateway.all_durable()
            await asyncio.sleep(1.0)
            assert process.metrics()["retry_queued_total"] == 0
            store.faults(broken=False)
            await delivered(store, 50)
            assert process.metrics()["retry_queued_total"] == 0


async def test_a_store_that_comes_back_empty_costs_what_it_forgot_alone(folder: Path) -> None:
    with spanrig.store_double(open_house=False) as store, spanrig.shipper(folder, store) as process:
        store.post("/fake/start", [["ro-old", "at-1"], ["ro-new", "at-1"]])
        async with spanrig.gateway(folder) as gateway:
            store.faults(unavailable=1.0)
            for _ in range(30):
                await gateway.call("ro-old")
            await gateway.all_durable()
            store.restart()
            store.post("/fake/start", [["ro-new", "at-1"]])
            for _ in range(10):
                assert await gateway.call("ro-new", wait_s=10.0)
            await until(lambda: process.metrics()["retry_calls"] == 30)
            assert {call[1] for call in store.ledger()["calls"]} == {"ro-new"}


async def test_a_clock_that_jumps_costs_nothing(folder: Path) -> None:
    """A year ahead and two back under a running shipper: no call is given up for its age, late or out of order."""
    clock, year = folder / "clock", 365 * 86400
    clock.write_text("0")
    program = (sys.executable, str(procs.ROOT / "tests/fakes/skewed_clock.py"), str(clock))
    with spanrig.store_double(open_house=False) as store, spanrig.shipper(folder, store, program=program) as process:
        store.post("/fake/start", [["ro", "at-1"]])
        async with spanrig.gateway(folder) as gateway:
            await gateway.call("ro-not-yet")
            await until(lambda: process.metrics()["retry_calls"] == 1)
            for jump, seconds in ((year, 9), (-year, 3), (0, 3)):
                clock.write_text(str(jump))
                began = time.monotonic()
                while time.monotonic() < began + seconds:  # the first is longer than the tries that age needs
                    assert await gateway.call("ro", wait_s=30.0)
                    await asyncio.sleep(0.2)
                found = process.metrics()
                assert found["retry_calls"] == 1
                assert 'dead_lettered_total{reason="rollout_unknown"}' not in found
                assert 0 <= found["oldest_undelivered_seconds"] < 60 or jump > 0
            store.post("/fake/start", [["ro-not-yet", "at-1"]])
            ledger = await delivered(store, len(gateway.sent), 90.0)
        numbers = {call[0]: call[2] for call in ledger["calls"] if call[1] == "ro"}
        order = [f"{gateway.handover._gateway}/{i}" for i, call in gateway.sent.items() if call.rollout_id == "ro"]
        assert [numbers[name] for name in order] == list(range(1, len(order) + 1))
        assert process.metrics()["sequenced_late_total"] <= 1  # at most the one whose rollout was not there yet


async def test_a_full_spool_refuses_and_counts_and_keeps_what_it_has(folder: Path) -> None:
    with spanrig.store_double() as store, spanrig.shipper(folder, store, spool_bytes=1 << 20) as process:
        store.faults(unavailable=1.0)
        async with spanrig.gateway(folder) as gateway:
            for i in range(40):
                await gateway.call(f"ro-{i}", response=spanrig.chat_response(f"c-{i}", size=50_000))
            await until(lambda: gateway.handover.durable + gateway.handover.rejected == 40)
            kept = gateway.handover.durable
            assert 10 < kept < 21
            assert spanrig.disk_bytes(folder / "spool") <= 1 << 20
            assert process.metrics()['refused_total{reason="spool_full"}'] == 40 - kept
            store.faults(unavailable=0.0)
            await delivered(store, kept)
            # With room again it takes calls again.
            await until(lambda: process.metrics()["spool_bytes"] < 100_000)
            assert await gateway.call("ro-after", wait_s=10.0)


async def test_a_disk_without_room_is_survived(folder: Path) -> None:
    """The limit on the size of a file stands for a disk that is full: writes fail in the middle."""
    command = (
        f"ulimit -f 200; exec {sys.executable} -m llmproxy.shipper --config config.json --run-dir . --spool-dir spool"
    )
    with spanrig.store_double() as store:
        spanrig.write_config(folder, store.url)
        store.faults(unavailable=1.0)
        with procs.running("/bin/bash", "-c", command, ready="shipper_ready", cwd=folder) as process:
            async with spanrig.gateway(folder) as gateway:
                for i in range(12):
                    await gateway.call(f"ro-{i}", response=spanrig.chat_response(f"c-{i}", size=30_000))
                    await gateway.all_durable()
                assert gateway.handover.durable + gateway.handover.rejected == 12
                assert gateway.handover.durable >= 5
                assert gateway.handover.rejected >= 1
                store.faults(unavailable=0.0)
                await delivered(store, gateway.handover.durable)
                assert await gateway.call("ro-small", wait_s=10.0)
            assert "File too large" in process.output


@pytest.mark.skipif(not procs.may_mount(), reason="this kernel lets nobody mount a tmpfs in a namespace of their own")
async def test_a_disk_that_is_really_full_is_survived(folder: Path) -> None:
    """A file system of 600 KB under the spool: what was acknowledged is delivered, what found no room is refused."""
    line = f"{sys.executable} -m llmproxy.shipper --config config.json --run-dir . --spool-dir spool"
    command = f"mkdir spool && mount -t tmpfs -o size=600k none spool && exec {line}"
    with spanrig.store_double() as store:
        spanrig.write_config(folder, store.url)
        store.faults(unavailable=1.0)
        unshare = ("/usr/bin/unshare", "--user", "--map-root-user", "--mount")
        with procs.running(*unshare, "/bin/bash", "-c", command, ready="shipper_ready", cwd=folder) as process:
            async with spanrig.gateway(folder) as gateway:
                for i in range(40):
                    await gateway.call(f"ro-{i}", response=spanrig.chat_response(f"c-{i}", size=30_000))
                    await gateway.all_durable()
                handover = gateway.handover
                assert handover.durable + handover.rejected == 40
                assert 10 <= handover.durable <= 20
                assert spanrig.metrics(folder / "shipper-admin.sock")[NO_SPACE] == handover.rejected
                store.faults(unavailable=0.0)
                ledger = await delivered(store, handover.durable)
                assert len(ledger["calls"]) == handover.durable
                # What is delivered gives its room back, over and over: nothing that comes now is refused.
                for i in range(40):
                    response = spanrig.chat_response(f"after-{i}", size=30_000)
                    assert await gateway.call(f"ro-after-{i}", wait_s=30.0, response=response)
                    await asyncio.sleep(0)
            assert process.end() == 0
            assert "spool_empty" in process.output


NO_SPACE = 'refused_total{reason="disk: No space left on device"}'


async def test_a_damaged_segment_costs_what_is_damaged_and_is_counted(folder: Path) -> None:
    with spanrig.store_double() as store, spanrig.shipper(folder, store, flush_s=0.2) as process:
        store.faults(unavailable=1.0)
        async with spanrig.gateway(folder) as gateway:
            for i in range(50):
                await gateway.call(f"ro-{i % 7}")
            await gateway.all_durable()
        await end(process)
        waiting = Segments(folder / "spool/waiting")
        places = [place for place, _ in waiting.walk(min(waiting.sizes))]
        path = waiting.path(places[0].segment)
        data = bytearray(path.read_bytes())
        data[places[20].offset + 30] ^= 0xFF
        path.write_bytes(data)
        store.faults(unavailable=0.0)
        process.start()
        ledger = await delivered(store, 49)
        assert len(ledger["calls"]) == 49
        assert process.metrics()["damaged_bytes_total"] == places[20].end - places[20].offset
        assert len(process.events("segment_damaged")) == 1


async def test_ids_follow_arrival_over_a_kill_of_the_shipper(folder: Path) -> None:
    with spanrig.store_double() as store, spanrig.shipper(folder, store) as process:
        async with spanrig.gateway(folder) as gateway:
            first = asyncio.ensure_future(gateway.call("ro", pause_s=2.0))
            await until(lambda: process.metrics()["in_flight_calls"] == 1)
            second = asyncio.ensure_future(gateway.call("ro", pause_s=1.8))
            await until(lambda: process.metrics()["in_flight_calls"] == 2)
            await asyncio.sleep(0.2)
            await asyncio.to_thread(process.kill)
            await asyncio.to_thread(process.start)
            await second
            await first
            ledger = await delivered(store, 2)
        assert sorted((name.split("/")[1], number) for name, _, number, *_ in ledger["calls"]) == [("2", 1), ("3", 2)]
        assert process.metrics()["sequenced_late_total"] == 0


async def test_what_arrives_while_the_shipper_is_away_has_its_id_before_it_ends(folder: Path) -> None:
    with spanrig.store_double() as store, spanrig.shipper(folder, store) as process:
        async with spanrig.gateway(folder) as gateway:
            await asyncio.to_thread(process.kill)
            await until(lambda: not gateway.handover.connected)
            first = asyncio.ensure_future(gateway.call("ro", pause_s=6.0))
            await asyncio.to_thread(process.start)
            await until(lambda: store.ledger()["sequence"].get("ro") == 1)
            reward = await asyncio.to_thread(
                store.post, "/v1/agl/spans/next", {"rollout_id": "ro", "attempt_id": "at-1"}
            )
            await first
            ledger = await delivered(store, 1)
        assert (ledger["calls"][0][2], reward["sequence_id"]) == (1, 2)
        assert process.metrics()["sequenced_late_total"] == 0


async def test_a_clients_own_sequence_id_is_used_and_the_store_asked_for_none(folder: Path) -> None:
    with spanrig.store_double() as store, spanrig.shipper(folder, store):
        async with spanrig.gateway(folder) as gateway:
            gateway.handover.send_record(spanrig.a_call(9, "ro", sequence_id=77))  # no arrival
            ledger = await delivered(store, 1)
        assert ledger["calls"][0][2] == 77
        assert store.spans("ro")[0]["sequence_id"] == 77
        assert ledger["asked"] == 0


async def test_a_call_whose_gateway_died_is_an_error_without_an_end(folder: Path) -> None:
    with spanrig.store_double() as store, spanrig.shipper(folder, store) as process:
        async with spanrig.gateway(folder) as gateway:
            gateway.handover.send_arrival(shipping_protocol.Arrival(9, "ro", "at-1", time.time_ns()))
            await until(lambda: process.metrics()["in_flight_calls"] == 1)
            await asyncio.sleep(0.2)
        await end(process)
        (span,) = store.spans("ro")
        assert (span["name"], span["status"]) == (
            "litellm_request",
            {"status_code": "ERROR", "description": "gateway_gone"},
        )
        assert span["sequence_id"] == 1
        assert not [name for name in span["attributes"] if name.startswith("gen_ai")]


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        b"\x03\x00\x00\x00abc",
        shipping_protocol.frame([shipping_protocol.Arrival(1, "ro", "at", 1)]),
        shipping_protocol.frame([shipping_protocol.GatewayHello(shipping_protocol.PROTOCOL + 1, "gw")]),
    ],
    ids=["a frame too large", "no msgpack", "no hello", "another protocol"],
)
async def test_a_stranger_on_the_socket_is_hung_up_on_and_hurts_nobody(folder: Path, data: bytes) -> None:
    with spanrig.store_double() as store, spanrig.shipper(folder, store) as process:
        async with spanrig.gateway(folder) as gateway:
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.settimeout(5)
                stranger.connect(str(folder / "shipper.sock"))
                stranger.sendall(data)
                assert await asyncio.to_thread(closed, stranger)
            assert await gateway.call("ro", wait_s=10.0)
        assert process.events("gateway_protocol_error")


def closed(stranger: socket.socket) -> bool:
    try:
        return stranger.recv(1) == b""
    except ConnectionResetError:
        return True


async def test_memory_does_not_grow_with_what_is_spooled(folder: Path) -> None:
    with spanrig.store_double() as store, spanrig.shipper(folder, store) as process:
        assert process.process is not None
        store.faults(unavailable=1.0)
        async with spanrig.gateway(folder) as gateway:
            for i in range(2000):
                await gateway.call(f"ro-{i}", response=spanrig.chat_response(f"c-{i}", size=60_000))
                if gateway.handover.backlog > 200:
                    await until(lambda: gateway.handover.backlog < 100)
            await gateway.all_durable()
        assert spanrig.disk_bytes(folder / "spool") > 110 << 20
        assert process.process.rss_bytes < 100 << 20
        await asyncio.to_thread(process.kill)


async def test_nothing_of_a_call_is_ever_logged(folder: Path) -> None:
    with spanrig.store_double() as store, spanrig.shipper(folder, store, flush_s=0.5) as process:
        store.faults(poison="the-secret", unavailable=0.2)
        async with spanrig.gateway(folder) as gateway:
            await gateway.call("ro", request=spanrig.chat_request("the-secret"))
            await gateway.call("ro", request=b"the-secret", response=b"the-secret {")
            await gateway.call("ro", status=500, error="http_500", response=b"the-secret")
            await gateway.call("ro-2", wait_s=5.0)
        await end(process)
    assert "the-secret" not in "".join(process.outputs)


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "not JSON"), (json.dumps({"version": 1}), "proxy"), (None, "No such file")],
)
def test_a_document_that_cannot_be_used_ends_it_with_2(folder: Path, text: str | None, said: str) -> None:
    if text is not None:
        (folder / "config.json").write_text(text)
    done = start_directly(folder)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_document_without_a_store_ends_it_with_2(folder: Path) -> None:
    spanrig.write_config(folder, "http://127.0.0.1:1")
    document = json.loads((folder / "config.json").read_text())
    del document["spans"]
    (folder / "config.json").write_text(json.dumps(document))
    done = start_directly(folder)
    assert done.returncode == 2
    assert "no store" in done.stderr


def start_directly(folder: Path) -> "subprocess.CompletedProcess[str]":
    return run("--config", f"{folder}/config.json", "--run-dir", str(folder), "--spool-dir", f"{folder}/spool")


async def test_the_gateway_tells_the_shippers_metrics_as_its_own(folder: Path) -> None:
    with spanrig.store_double() as store, spanrig.shipper(folder, store) as process:
        port, admin = procs.free_port(), procs.free_port()
        flags = (
            "--config",
            f"{folder}/config.json",
            "--run-dir",
            str(folder),
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        )
        at = ("--admin-host", "127.0.0.1", "--admin-port", str(admin), "--peer-port", str(procs.free_port()))
        with procs.running("llmproxy.gateway", *flags, *at, port=admin):
            async with spanrig.gateway(folder) as gateway:
                assert await gateway.call("ro", wait_s=10.0)
            told = await asyncio.to_thread(scrape, admin)
            assert "llmproxy_shipper_delivered_total 1.0" in told
            assert "llmproxy_shipper_connected 1.0" in told
            names = [line.split(" ")[2] for line in told.splitlines() if line.startswith("# TYPE")]
            assert len(names) == len(set(names))
            await asyncio.to_thread(process.kill)
            assert "llmproxy_shipper_delivered_total" not in await asyncio.to_thread(scrape, admin)


def scrape(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return text


async def test_a_folder_has_one_shipper(folder: Path) -> None:
    with spanrig.store_double() as store, spanrig.shipper(folder, store):
        done = await asyncio.to_thread(start_directly, folder)
        assert done.returncode == 1
        assert "in use by another process" in done.stderr
        replay: Any = await asyncio.to_thread(run, "replay", "--store", store.url, str(folder / "spool"))
        assert replay.returncode == 1
        assert "in use" in replay.stderr


async def test_a_second_shipper_does_not_take_the_first_ones_socket(folder: Path) -> None:
    with spanrig.store_double() as store, spanrig.shipper(folder, store) as process:
        flags = (
            "--config",
            str(folder / "config.json"),
            "--run-dir",
            str(folder),
            "--spool-dir",
            str(folder / "other"),
        )
        line = (sys.executable, "-m", "llmproxy.shipper", *flags)
        done: Any = await asyncio.to_thread(
            subprocess.run, line, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 1
        assert "in use by another process" in done.stderr
        async with spanrig.gateway(folder) as gateway:
            assert await gateway.call("ro", wait_s=15.0)
        assert process.metrics()["delivered_total"] == 1


async def test_a_login_page_in_place_of_the_store_takes_nothing_and_the_way_out_is_named(folder: Path) -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<html>log in</html>", content_type="text/html")

    async def redirect(request: web.Request) -> web.Response:
        seen.append(request.path)
        raise web.HTTPFound("/login?token=hush")

    seen: list[str] = []
    app = web.Application()
    app.router.add_get("/login", page)
    app.router.add_route("*", "/{path:.*}", redirect)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    store = spanrig.Address(f"http://127.0.0.1:{port}")
    try:
        with spanrig.shipper(folder, store) as process:
            async with spanrig.gateway(folder) as gateway:
                for i in range(5):
                    await gateway.call(
                        f"ro-{i}", sequence_id=i % 2
                    )  # with a client's own id no other question is asked
                await gateway.all_durable()
                await until(lambda: process.metrics().get('store_failures_total{reason="http_302"}', 0) >= 2)
                numbers = process.metrics()
                assert (numbers["delivered_total"], numbers["store_up"]) == (0, 0)
                (info,) = [name for name in numbers if name.startswith("store_failure_info")]
                assert "http_302" in info
                assert "name the address itself in spans.store" in info
                (event,) = process.events("store_unavailable")
                assert "name the address itself in spans.store" in event["advice"]
                assert "hush" not in info + event["advice"]
                assert "/login" not in seen
                await runner.cleanup()
                with spanrig.store_double(port=port) as double:  # the address is mended
                    ledger = await delivered(double, 5)
            assert {call[0] for call in ledger["calls"]} == names(gateway)
            assert not [name for name in process.metrics() if name.startswith("store_failure_info")]
    finally:
        await runner.cleanup()


async def test_rollouts_that_no_store_has_cost_others_no_span(folder: Path) -> None:
    with (
        spanrig.store_double(open_house=False) as store,
        spanrig.shipper(folder, store, spool_bytes=4 << 20) as process,
    ):
        store.post("/fake/start", [["ro-good", "at-1"]])
        async with spanrig.gateway(folder) as gateway:
            for i in range(60):
                await gateway.call(f"junk-{i}", request=spanrig.chat_request("x" * 100_000))
                if i % 10 == 9:  # slower than the spool fills, as calls are
                    await gateway.all_durable()
                    await until(lambda: process.metrics()["waiting_bytes"] == process.metrics()["in_delivery"] == 0)
            for _ in range(8):
                await gateway.call("ro-good", request=spanrig.chat_request("x" * 100_000))
            ledger = await delivered(store, 8)
        assert {call[1] for call in ledger["calls"]} == {"ro-good"}
        numbers = process.metrics()
        assert numbers["retry_calls"] + numbers['dead_lettered_total{reason="retry_queue_full"}'] == 60
        assert 'refused_total{reason="spool_full"}' not in numbers
        assert gateway.handover.rejected == 0
