"""The gateway as trainers meet it: a process before an echo server, or before an upstream that a test scripts."""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from procs import ROOT, Process, free_port, running

PYTHON = str(ROOT / ".venv/bin/python")
PATH = "/v1/chat/completions"


class Gateway:
    """A running gateway."""

    def __init__(self, process: Process) -> None:
        self.process = process
        ready = json.loads(process.wait_for('"gateway_ready"'))
        self.port: int = ready["port"]
        self.admin_port: int = ready["admin_port"]
        self.control_port: int = ready["control_port"]
        self.url = f"http://127.0.0.1:{self.port}"

    def post(self, body: Any, path: str = PATH, *, timeout_s: float = 30, **more: Any) -> httpx2.Response:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx2.post(self.url + path, content=data, timeout=timeout_s, **more)

    def chat(self, text: str = "hi", *, model: str = "echo", path: str = PATH, **more: Any) -> httpx2.Response:
        return self.post({"model": model, "messages": [{"role": "user", "content": text}], **more}, path)

    def echo(self, *, model: str = "echo", path: str = PATH, **directive: Any) -> httpx2.Response:
        """Ask the echo server behind to behave in a certain way."""
        return self.chat(json.dumps({"echo": directive}), model=model, path=path)

    def sdk(self, path: str = "/v1", **more: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url + path, api_key="none", **{"max_retries": 0, **more})

    def admin(self, path: str) -> httpx2.Response:
        return httpx2.get(f"http://127.0.0.1:{self.admin_port}{path}", timeout=10)

    def control(self, method: str, path: str, token: str | None, body: Any = None) -> httpx2.Response:
        headers = {} if token is None else {"authorization": f"Bearer {token}".strip()}
        url = f"http://127.0.0.1:{self.control_port}{path}"
        return httpx2.request(method, url, json=body, headers=headers, timeout=60)

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = [
            line for line in self.admin("/metrics").text.splitlines() if line.startswith((f"{name}{{", f"{name} "))
        ]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(w in line for w in wanted))


def deployment(port: int, ident: str = "echo/0", **more: Any) -> dict[str, Any]:
    known = {"id": ident, "model": "openai_like/there", "api_base": f"http://127.0.0.1:{port}/v1"}
    return {**known, **more}


def document(*deployments: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a contract document with one model, `echo`."""
    return {
        "version": 1,
        "proxy": {"name": "p", "namespace": "n"},
        "models": [{"name": "echo", "deployments": list(deployments)}],
        "retries": {"max": 2, "initial_delay_s": 0.01, "max_delay_s": 0.2},
        "drain_timeout_s": 20,
        **more,
    }


def command(folder: Path, told: Any, *flags: str, port: int = 0) -> tuple[str, ...]:
    file = folder / "config.json"
    file.write_text(told if isinstance(told, str) else json.dumps(told))
    where = ("--host", "127.0.0.1", "--port", str(port), "--admin-host", "127.0.0.1", "--admin-port", "0")
    files = ("--config", str(file), "--run-dir", str(folder))
    return (PYTHON, "-m", "llmproxy.gateway", *files, *where, *flags)


@contextmanager
def gateway(folder: Path, told: Any, *flags: str, env: dict[str, str] | None = None) -> Iterator[Gateway]:
    with running(*command(folder, told, *flags), ready='"gateway_ready"', env=env) as process:
        yield Gateway(process)


class Echo:
    """A running echo server and what it saw."""

    def __init__(self, port: int) -> None:
        self.port = port

    def stats(self) -> dict[str, Any]:
        stats: dict[str, Any] = httpx2.get(f"http://127.0.0.1:{self.port}/stats", timeout=10).json()
        return stats

    def reset(self) -> None:
        httpx2.post(f"http://127.0.0.1:{self.port}/stats/reset", timeout=10)


@pytest.fixture(scope="session")
def _echo_server() -> Iterator[Echo]:
    with running(PYTHON, "-m", "llmproxy.echo", "--port", "0", ready="ready on") as process:
        yield Echo(process.port)


@pytest.fixture
def echo(_echo_server: Echo) -> Echo:
    """The echo server of this run, as if nothing had been asked of it."""
    _echo_server.reset()
    return _echo_server


@pytest.fixture(scope="session")
def plain(_echo_server: Echo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway without limits, shared by tests that change nothing in it."""
    with gateway(tmp_path_factory.mktemp("plain"), document(deployment(_echo_server.port))) as here:
        yield here


Serve = Callable[[socket.socket, bytes], None]


class Script:
    """An upstream that does what a test says: `serve` gets each connection with its first request, in a thread."""

    def __init__(self) -> None:
        self.serve: Serve = lambda connection, request: None
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection, self.serve), daemon=True).start()

    def _talk(self, connection: socket.socket, serve: Serve) -> None:
        with connection, contextlib.suppress(OSError):  # the gateway may hang up: a test that minds looks at it
            request = read_request(connection)
            if request:
                serve(connection, request)


@contextmanager
def scripted(serve: Serve) -> Iterator[int]:
    """Run an upstream for a block; the port is its."""
    script = Script()
    script.serve = serve
    try:
        yield script.port
    finally:
        script.close()


class Stage(Gateway):
    """A gateway before a scripted upstream."""

    def __init__(self, process: Process, script: Script) -> None:
        super().__init__(process)
        self._script = script

    def play(self, serve: Serve) -> None:
        """Have the upstream do *serve* from now on."""
        self._script.serve = serve


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A gateway whose models `echo` and `short`, which has little time, are served by a script."""
    script = Script()
    folder = tmp_path_factory.mktemp("stage")
    told = document(deployment(script.port))
    short = deployment(script.port, "short/0", timeout_s=0.6)
    told["models"].append({"name": "short", "deployments": [short]})
    with running(*command(folder, told), ready='"gateway_ready"') as process:
        yield Stage(process, script)
    script.close()


def read_request(connection: socket.socket) -> bytes:
    """Return the next request, head and body; b"" when there is none."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(1 << 16)
        if not part:
            return b""
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(1 << 16)
    return head + b"\r\n\r\n" + body


def unused_port() -> int:
    return free_port()
