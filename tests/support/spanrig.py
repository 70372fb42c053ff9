"""A shipper process between the gateway's real end of the socket and a store, for tests that break things."""

import asyncio
import contextlib
import http.client
import json
import socket
import sys
import time
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import procs
from llmproxy import shipping_protocol
from llmproxy.contract import Deployment, Document, Model, Proxy, Spans
from llmproxy.gateway.http.exchange import ByteBudget
from llmproxy.gateway.shipping.shipper_client import ShipperClient

STORE = str(procs.ROOT / "tests/fakes/store.py")
Json = dict[str, Any]
NOWHERE = "http://127.0.0.1:9/v1"


def chat_request(text: str = "hi") -> bytes:
    return json.dumps({"model": "phi-2", "messages": [{"role": "user", "content": text}]}).encode()


def chat_response(ident: str, text: str = "hello", *, size: int = 0) -> bytes:
    message = {"role": "assistant", "content": text + "x" * size}
    return json.dumps(
        {
            "id": ident,
            "object": "chat.completion",
            "created": 1,
            "model": "phi-2",
            "prompt_token_ids": [1, 2, 3],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop", "token_ids": [4, 5]}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        }
    ).encode()


def a_call(call_id: int, rollout: str, attempt: str = "at-1", **more: Any) -> shipping_protocol.CallRecord:
    """Return an answered chat call."""
    now = time.time_ns()
    fields: Json = {
        "call_id": call_id,
        "rollout_id": rollout,
        "attempt_id": attempt,
        "sequence_id": 0,
        "route": "chat.completions",
        "model": "phi",
        "provider": "hosted_vllm",
        "upstream_model": "phi-2",
        "started_ns": now - 5_000_000,
        "first_byte_ns": now - 1_000_000,
        "ended_ns": now,
        "status": 200,
        "error": "",
        "streamed": False,
        "request": chat_request(),
        "response": chat_response(f"chatcmpl-{rollout}-{call_id}"),
        "tries": [shipping_protocol.Try("phi/0", now - 5_000_000, now, 200, "")],
    }
    return shipping_protocol.CallRecord(**{**fields, **more})


class StoreDouble:
    """The double's process and its control."""

    def __init__(self, *, port: int = 0, open_house: bool = True) -> None:
        self._flags = ("--open-house",) if open_house else ()
        self._process = self._start(port)
        self.port = self._process.port

    def _start(self, port: int) -> procs.Process:
        process = procs.started(sys.executable, STORE, "--port", str(port), *self._flags)
        process.ready_line = process.wait_for("ready on")
        return process

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, path: str, body: object) -> Any:
        return ask_json(self.url, "POST", path, body)

    def faults(self, **wanted: object) -> None:
        self.post("/fake/faults", wanted)

    def ledger(self) -> Json:
        found: Json = self.post("/fake/ledger", {})
        return found

    def spans(self, rollout: str) -> list[Json]:
        found: list[Json] = ask_json(self.url, "GET", f"/v1/agl/spans?rollout_id={rollout}")["items"]
        return found

    def end(self) -> None:
        self._process.end()

    def kill(self) -> None:
        self._process.popen.kill()
        self._process.end()

    def restart(self) -> None:
        """Come back empty at the same address."""
        self._process.end()
        self._process = self._start(self.port)


def ask_json(url: str, method: str, path: str, body: object = None, timeout_s: float = 30.0) -> Any:
    """Return what a server answers; AssertionError if it is no success."""
    place = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=timeout_s)
    data = None if body is None else json.dumps(body)
    connection.request(method, path, data, {"content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    assert 200 <= answer.status < 300, (answer.status, text[:500])
    return json.loads(text)


class HasUrl(Protocol):
    """A store, whichever."""

    @property
    def url(self) -> str | None: ...


@dataclass
class Address:
    """A store that is only an address."""

    url: str


class NoStore:
    """Where a collector is all there is."""

    url = None


@dataclass
class ShipperProcess:
    """A shipper that can be killed and started again on the same folders."""

    run_dir: Path
    spool_dir: Path
    flush_s: float = 8.0
    env: dict[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = ("llmproxy.shipper",)
    process: procs.Process | None = None
    outputs: list[str] = field(default_factory=list)

    def start(self) -> None:
        args = ("--config", str(self.run_dir / "config.json"), "--run-dir", str(self.run_dir))
        more = ("--spool-dir", str(self.spool_dir), "--flush-s", str(self.flush_s))
        self.process = procs.started(*self.program, *args, *more, env=self.env)
        self.process.wait_for("shipper_ready")

    def kill(self) -> None:
        assert self.process is not None
        self.process.popen.kill()
        self.process.end()
        self.outputs.append(self.process.output)

    def end(self) -> int:
        assert self.process is not None
        code = self.process.end(self.flush_s + 10)
        self.outputs.append(self.process.output)
        return code

    def events(self, name: str) -> list[Json]:
        """Return the events of that name that it has logged."""
        alive = self.process is not None and self.process.popen.poll() is None
        texts = [*self.outputs, self.process.output if alive and self.process is not None else ""]
        lines = [json.loads(line) for text in texts for line in text.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def metrics(self) -> dict[str, float]:
        """Return its metrics, by name with labels."""
        return metrics(self.run_dir / "shipper-admin.sock")


def metrics(path: Path) -> dict[str, float]:
    connection = http.client.HTTPConnection("shipper", timeout=5)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            found[name.removeprefix("llmproxy_shipper_")] = float(value)
    return found


def write_config(run_dir: Path, store_url: str | None, **spans: Any) -> None:
    document = Document(
        proxy=Proxy(name="phi", namespace="test"),
        models=(Model(name="phi", deployments=(Deployment(id="phi/0", model="hosted_vllm/phi-2", api_base=NOWHERE),)),),
        spans=Spans(store=store_url, **spans),
    )
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.json").write_text(document.to_json())


@contextlib.contextmanager
def store_double(**flags: Any) -> Iterator[StoreDouble]:
    store = StoreDouble(**flags)
    try:
        yield store
    finally:
        store.end()


@contextlib.contextmanager
def shipper(
    folder: Path,
    store: "HasUrl",
    *,
    flush_s: float = 8.0,
    env: dict[str, str] | None = None,
    program: tuple[str, ...] = ("llmproxy.shipper",),
    **spans: Any,
) -> Iterator[ShipperProcess]:
    write_config(folder, store.url, **spans)
    made = ShipperProcess(folder, folder / "spool", flush_s, env or {}, program)
    made.start()
    try:
        yield made
    finally:
        if made.process is not None:
            made.process.popen.kill()
            made.process.end()


class Gateway:
    """The gateway's end: says what began and what ended, and remembers."""

    def __init__(self, run_dir: Path) -> None:
        self.handover = ShipperClient(run_dir / "shipper.sock", ByteBudget(1 << 30))
        self.sent: dict[int, shipping_protocol.CallRecord] = {}

    async def connected(self) -> None:
        await until(lambda: self.handover.connected)

    async def call(self, rollout: str, *, wait_s: float = 0.0, pause_s: float = 0.0, **more: Any) -> bool:
        """Make a call of *rollout*; return whether its spans were stored within *wait_s*."""
        handover = self.handover
        call_id = handover.new_id()
        attempt = more.pop("attempt", "at-1")
        handover.send_arrival(shipping_protocol.Arrival(call_id, rollout, attempt, time.time_ns()))
        if pause_s:
            await asyncio.sleep(pause_s)
        call = a_call(call_id, rollout, attempt, **more)
        self.sent[call_id] = call
        handover.send_record(call)
        if not wait_s:
            return False
        before = handover.released_unstored
        await handover.stored(call_id, wait_s)
        return handover.released_unstored == before

    async def all_durable(self, timeout_s: float = 15.0) -> None:
        await until(lambda: self.handover.backlog == 0, timeout_s)


@contextlib.asynccontextmanager
async def gateway(run_dir: Path) -> AsyncIterator[Gateway]:
    made = Gateway(run_dir)
    try:
        await made.connected()
        yield made
    finally:
        await made.handover.close(0.0)
        await asyncio.sleep(0)  # the connection is closed in the loop's next turn, and tests block it afterwards


async def until(holds: Any, timeout_s: float = 15.0) -> None:
    """Wait until *holds*; AssertionError if it never does."""
    deadline = time.monotonic() + timeout_s
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.02)


def disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
