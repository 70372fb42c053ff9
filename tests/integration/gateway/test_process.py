"""The process: what it refuses to start with, what it says of itself, how it ends."""

import json
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from integration.gateway.conftest import PATH, PYTHON, Echo, Gateway, command, deployment, document, gateway
from llmproxy.gateway.process import SNAPSHOT
from procs import started
from waiting import until

HERE = deployment(1)


def with_field(path: str, value: object) -> dict[str, Any]:
    """Return a document with *value* at the dotted *path*."""
    told = document(deployment(1))
    part: Any = told
    *way, last = path.split(".")
    for name in way:
        part = part[int(name) if name.isdigit() else name]
    part[last] = value
    return told


@pytest.mark.parametrize(
    ("told", "says"),
    [
        pytest.param("no json", "not JSON", id="no JSON"),
        pytest.param("[]", "a JSON object is needed", id="no object"),
        pytest.param(with_field("shiny", 1), "shiny", id="unknown field"),
        pytest.param(with_field("models.0.deployments.0.shiny", 1), "models.0.deployments.0.shiny", id="deep"),
        pytest.param(with_field("version", 2), "understands version 1, got 2", id="another version"),
        pytest.param(with_field("retries.max", 11), "retries.max", id="out of bounds"),
        pytest.param(with_field("models", []), "models", id="no models"),
        pytest.param(with_field("models.0.deployments.0.model", "nobody/m"), "'nobody/m' names nobody", id="provider"),
        pytest.param(with_field("models.0.deployments.0.api_base", "ftp://x"), "'ftp://x' is not an http", id="scheme"),
        pytest.param(
            with_field("models.0.deployments.0.api_base", "http://x:y/v1"), "api_base 'http://x:y/v1'", id="port"
        ),
        pytest.param(with_field("models.0.deployments.0.api_base", "http://x:70000"), "Port out of range", id="large"),
        pytest.param(with_field("models.0.deployments.0.api_base", "http://x:0/v1"), "port 0", id="port 0"),
        pytest.param(with_field("models.0.deployments.0.api_base", "http://[::1/v1"), "http://[::1/v1", id="bracket"),
        pytest.param(with_field("models.0.deployments.0.api_base", "http://x/ä"), "ASCII", id="not ASCII"),
        pytest.param(with_field("models.0.deployments.0.api_key_env", "NO_KEY"), "NO_KEY is not set", id="no key"),
    ],
)
def test_a_document_that_cannot_be_used_is_named_and_ends_with_2(tmp_path: Path, told: Any, says: str) -> None:
    process = started(*command(tmp_path, told))
    assert process.wait() == 2
    process.end()
    line = json.loads(process.output.strip().splitlines()[-1])
    assert (line["level"], line["event"]) == ("critical", "config_invalid")
    assert says in line["reason"]


def test_a_document_that_is_not_there_ends_with_2(tmp_path: Path) -> None:
    process = started(*command(tmp_path, document(HERE)), "--config", str(tmp_path / "none.json"))
    assert process.wait() == 2
    process.end()
    assert "none.json: No such file" in process.output


def test_a_port_that_is_taken_ends_with_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = started(*command(tmp_path, document(HERE), port=taken.getsockname()[1]))
        assert process.wait() == 1
        process.end()
    assert '"listen_failed"' in process.output


def test_nothing_that_is_heavy_is_loaded() -> None:
    code = (
        "import sys, llmproxy.gateway.__main__; print([m for m in ('litellm', 'kopf', 'aiohttp') if m in sys.modules])"
    )
    assert subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_health_readiness_and_metrics(plain: Gateway) -> None:
    plain.chat()
    ready = plain.admin("/readyz")
    assert plain.admin("/healthz").json() == {"status": "ok"}
    assert (ready.status_code, ready.json()["ready"], ready.json()["limiter"]) == (200, True, "local")
    assert plain.metric("llmproxy_requests_total", model="echo", endpoint="chat.completions", status="200") >= 1
    assert plain.metric("llmproxy_request_duration_seconds_count", model="echo") >= 1
    assert plain.metric("llmproxy_time_to_first_byte_seconds_count", model="echo") >= 1
    assert plain.metric("llmproxy_upstream_requests_total", deployment="echo/0", outcome="200") >= 1
    assert plain.metric("llmproxy_requests_without_rollout_total") >= 1
    assert plain.metric("process_resident_memory_bytes") > 0


def test_a_rollout_that_is_named_in_vain_is_counted_and_logged_once(echo: Echo, tmp_path: Path) -> None:
    with gateway(tmp_path, document(deployment(echo.port))) as here:
        here.chat()
        assert here.metric("llmproxy_invalid_rollouts_total") == 0
        for path in ("/rollout/ro%2F1/attempt/at-1" + PATH, f"/rollout/{'r' * 257}/attempt/at-1" + PATH):
            assert here.chat(path=path).status_code == 200
        assert here.metric("llmproxy_invalid_rollouts_total") == 2
        lines = [json.loads(line) for line in here.process.output.splitlines() if "invalid_rollout" in line]
    assert [line["path"] for line in lines] == ["/rollout/ro/1/attempt/at-1" + PATH]
    assert "without a slash" in lines[0]["way_out"]


def test_an_unknown_model_makes_no_new_time_series(plain: Gateway) -> None:
    plain.chat(model="made-up-by-a-caller")
    assert "made-up-by-a-caller" not in plain.admin("/metrics").text
    assert plain.metric("llmproxy_requests_total", model="", status="404") >= 1


def test_without_a_shipper_callers_notice_nothing(echo: Echo, tmp_path: Path) -> None:
    told = document(deployment(echo.port), spans={"store": "http://127.0.0.1:1", "ack_wait_s": 5})
    with gateway(tmp_path, told) as here:
        began = time.monotonic()
        path = "/rollout/ro-1/attempt/at-1" + PATH
        assert here.chat(path=path).status_code == 200
        assert here.chat(path=path, stream=True).text.endswith("data: [DONE]\n\n")
        took = time.monotonic() - began
        ready = here.admin("/readyz").json()
        backlog = here.metric("llmproxy_records_pending")
    assert took < 5
    assert (ready["ready"], ready["shipper"]) == (True, False)
    assert backlog == 2


class Streaming:
    """A stream in flight, on a thread."""

    def __init__(self, here: Gateway, **directive: Any) -> None:
        self.text = ""
        self.error = ""
        self._started = threading.Event()
        content = json.dumps({"echo": directive})
        body = {"model": "echo", "stream": True, "messages": [{"role": "user", "content": content}]}
        self._thread = threading.Thread(target=self._read, args=(here.url + PATH, body))
        self._thread.start()
        assert self._started.wait(10)

    def join(self) -> None:
        self._thread.join()

    def _read(self, url: str, body: dict[str, Any]) -> None:
        try:
            with httpx2.stream("POST", url, json=body, timeout=30) as answer:
                for part in answer.iter_text():
                    self.text += part
                    self._started.set()
        except httpx2.HTTPError as exc:
            self.error = repr(exc)


def accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port)):
            return True
    except ConnectionRefusedError:
        return False


def test_sigterm_lets_a_stream_in_flight_end(echo: Echo, tmp_path: Path) -> None:
    with gateway(tmp_path, document(deployment(echo.port))) as here:
        stream = Streaming(here, chunks=15, chunk_ms=200)
        here.process.signal(signal.SIGTERM)
        here.process.wait_for("drain_started")
        ready = here.admin("/readyz")
        until(lambda: not accepts(here.port))
        with pytest.raises(httpx2.ConnectError):
            here.chat()
        stream.join()
        assert here.process.wait(10) == 0
    assert (ready.status_code, ready.json()["draining"]) == (503, True)
    assert stream.error == ""
    assert stream.text.endswith("data: [DONE]\n\n")
    assert '"drain_finished"' in here.process.output


def test_at_the_end_a_kept_connection_is_answered_and_asked_to_go(echo: Echo, tmp_path: Path) -> None:
    body = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
    with gateway(tmp_path, document(deployment(echo.port))) as here, httpx2.Client() as client:
        first = client.post(here.url + PATH, json=body)
        here.process.signal(signal.SIGTERM)
        here.process.wait_for("drain_started")
        last = client.post(here.url + PATH, json=body)
        assert here.process.wait(10) == 0
    assert "connection" not in first.headers
    assert (last.status_code, last.headers["connection"]) == (200, "close")


def test_what_takes_longer_than_the_drain_is_cut_with_an_error_and_the_process_ends(echo: Echo, tmp_path: Path) -> None:
    with gateway(tmp_path, document(deployment(echo.port), drain_timeout_s=1)) as here:
        stream = Streaming(here, chunks=500, chunk_ms=100)
        answers: list[httpx2.Response] = []
        slow = threading.Thread(target=lambda: answers.append(here.chat('{"echo": {"delay_ms": 60000}}')))
        slow.start()
        until(lambda: echo.stats()["in_flight"] == 2)
        here.process.signal(signal.SIGTERM)
        assert here.process.wait(15) == 0
        stream.join()
        slow.join()
    last = json.loads(stream.text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert last["error"]["code"] == "draining"
    assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (503, "draining")


def test_an_end_without_calls_is_quick(echo: Echo, tmp_path: Path) -> None:
    with gateway(tmp_path, document(deployment(echo.port))) as here:
        here.chat()
        here.process.signal(signal.SIGTERM)
        assert here.process.wait(8) == 0


def test_a_connection_that_says_nothing_does_not_hold_the_end_up(echo: Echo, tmp_path: Path) -> None:
    with (
        gateway(tmp_path, document(deployment(echo.port))) as here,
        socket.create_connection(("127.0.0.1", here.port)),
    ):
        here.process.signal(signal.SIGTERM)
        assert here.process.wait(8) == 0


def test_counters_outlive_a_killed_process(echo: Echo, tmp_path: Path) -> None:
    told = document(deployment(echo.port), rate_limits={"rpm": 3})
    with gateway(tmp_path, told) as here:
        assert [here.chat().status_code for _ in range(2)] == [200, 200]
        written = time.time_ns()
        until(lambda: (tmp_path / SNAPSHOT).exists() and (tmp_path / SNAPSHOT).stat().st_mtime_ns > written)
        here.process.signal(signal.SIGKILL)
        here.process.wait()
    with gateway(tmp_path, told) as again:
        assert [again.chat().status_code for _ in range(2)] == [200, 429]


def test_a_pod_takes_the_counters_of_the_one_it_replaces(echo: Echo, tmp_path: Path) -> None:
    env = {"PEER_TOKEN": "secret"}
    told = document(deployment(echo.port), rate_limits={"rpm": 3})
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    with gateway(first, told, "--peer-host", "127.0.0.1", "--peer-port", port, env=env) as old:
        assert [old.chat().status_code for _ in range(2)] == [200, 200]
        peers = ("--peer-host", "127.0.0.1", "--peer-port", "0", "--peers", f"127.0.0.1:{port}")
        with gateway(second, told, *peers, env=env) as new:
            assert [new.chat().status_code, old.chat().status_code] == [200, 429]
            assert old.admin("/readyz").json()["limiter"] == "leader"
            assert len(new.admin("/readyz").json()["peers"]) == 1


def test_logs_are_json_and_never_hold_a_prompt(echo: Echo, tmp_path: Path) -> None:
    with gateway(tmp_path, document(deployment(echo.port), deployment(1, "dead/0"))) as here:
        for _ in range(4):
            here.chat("a-prompt-that-nobody-may-log")
        here.post(b'{"model": "a-prompt-that-nobody-may-log')
        code = here.process.end()
    lines = here.process.output.strip().splitlines()
    assert code == 0
    assert all({"time", "level", "event"} <= set(json.loads(line)) for line in lines)
    assert "a-prompt-that-nobody-may-log" not in here.process.output
