"""The ports for probes, metrics and control under hostile connections: bounded, and no call suffers."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.gateway.conftest import Echo, Gateway, deployment, document, gateway
from integration.gateway.test_control import TOKEN, with_control


@pytest.fixture(scope="module")
def here(_echo_server: Echo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("ports")
    with gateway(folder, document(deployment(_echo_server.port)), *with_control(folder)) as running:
        yield running


def connect(port: int, sent: bytes = b"") -> socket.socket:
    conn = socket.create_connection(("127.0.0.1", port), timeout=10)
    with contextlib.suppress(OSError):  # it may be closed again already
        conn.sendall(sent)
    return conn


def received(conn: socket.socket) -> bytes:
    data = b""
    with conn, contextlib.suppress(ConnectionError):
        while part := conn.recv(65536):
            data += part
    return data


def rss_mb(here: Gateway) -> int:
    status = Path(f"/proc/{here.process.popen.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) >> 10


def port_of(here: Gateway, name: str) -> int:
    return here.admin_port if name == "admin" else here.control_port


@pytest.mark.parametrize("name", ["admin", "control"])
@pytest.mark.parametrize("unit", [b"a: b\r\n", b"a" * 1000, b"/" * 1000])
def test_a_head_without_an_end_is_refused(here: Gateway, name: str, unit: bytes) -> None:
    before = rss_mb(here)
    start = b"GET /" if unit[:1] == b"/" else b"GET /metrics HTTP/1.1\r\nHost: a\r\n"
    conn = connect(port_of(here, name), start)
    with contextlib.suppress(OSError):
        for _ in range(20_000):
            conn.sendall(unit * 10)
    conn.close()
    assert rss_mb(here) - before < 30
    assert here.chat().status_code == 200


@pytest.mark.parametrize("name", ["admin", "control"])
def test_silent_connections_have_a_bound_and_probes_are_answered(here: Gateway, name: str) -> None:
    port = port_of(here, name)
    files = Path(f"/proc/{here.process.popen.pid}/fd")
    before = len(list(files.iterdir()))
    silent = [connect(port, b"GET /readyz HTTP/1.1\r\nHo") for _ in range(300)]
    assert here.admin("/readyz").status_code == 200
    assert here.control("GET", "/inflight", TOKEN).status_code == 200
    assert here.chat().status_code == 200
    assert len(list(files.iterdir())) - before < 150
    for conn in silent:
        conn.close()


def test_without_the_token_no_body_is_read(here: Gateway) -> None:
    conn = connect(here.control_port, b"POST /pause HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n")
    head, _, body = received(conn).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 401 ")
    assert b"www-authenticate: Bearer" in head
    assert "needs its token" in json.loads(body)["detail"]


def test_a_body_above_64_kb_is_refused_by_its_head(here: Gateway) -> None:
    head = f"POST /pause HTTP/1.1\r\nHost: a\r\nAuthorization: bearer {TOKEN}\r\nContent-Length: 100000\r\n\r\n"
    assert received(connect(here.control_port, head.encode())).startswith(b"HTTP/1.1 413 ")


def test_the_scheme_of_a_token_has_any_case(here: Gateway) -> None:
    head = f"GET /inflight HTTP/1.1\r\nHost: a\r\nAuthorization: bearer {TOKEN} \r\nConnection: close\r\n\r\n"
    assert received(connect(here.control_port, head.encode())).startswith(b"HTTP/1.1 200 ")


def test_requests_for_metrics_without_a_pause_slow_no_call(here: Gateway) -> None:
    stop = threading.Event()

    def scrape() -> None:
        conn = connect(here.admin_port)
        while not stop.is_set():
            conn.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
            conn.recv(65536)
        conn.close()

    threads = [threading.Thread(target=scrape) for _ in range(16)]
    for thread in threads:
        thread.start()
    try:
        durations = []
        for _ in range(50):
            began = time.monotonic()
            assert here.chat().status_code == 200
            durations.append(time.monotonic() - began)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert sorted(durations)[25] < 0.25  # it was seconds when each scrape was served at once
