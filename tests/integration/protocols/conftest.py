"""A real gateway between the real SDKs and three upstreams: the echo as two kinds of server, and a fake Anthropic."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from integration.protocols.users import USERS, User
from llmproxy import contract, shipping_protocol
from procs import FAKES, Process, free_port, running

KEY = "sk-ant-of-the-deployment"
Json = dict[str, Any]
LIMITED = {"rate_limits": {"rps": 1}}


class Recorder:
    """The shipper's end of the socket: acknowledges every call and keeps it."""

    def __init__(self, path: Path) -> None:
        self.calls: list[shipping_protocol.CallRecord] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()
        self._thread.join(10)

    def last(self) -> shipping_protocol.CallRecord:
        """Return the newest call; waits for one."""
        deadline = time.monotonic() + 10
        while not self.calls and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.calls[-1]

    def _run(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            self._read(connection)

    def _read(self, connection: socket.socket) -> None:
        data = b""
        while part := connection.recv(1 << 20):
            data += part
            while len(data) >= shipping_protocol.HEADER.size:
                (length,) = shipping_protocol.HEADER.unpack_from(data)
                end = shipping_protocol.HEADER.size + length
                if len(data) < end:
                    break
                ended = [
                    m
                    for m in shipping_protocol.decode_to_shipper(data[shipping_protocol.HEADER.size : end])
                    if isinstance(m, shipping_protocol.CallRecord)
                ]
                data = data[end:]
                if ended:
                    connection.sendall(
                        shipping_protocol.frame([shipping_protocol.DurableAck([c.call_id for c in ended])])
                    )
                    self.calls.extend(ended)


@dataclass
class Rig:
    """All of it."""

    base: str
    echo: Process
    claude: Process
    recorder: Recorder
    clients: list[openai.OpenAI] = field(default_factory=list)

    def sdk(self, prefix: str = "/v1", **more: Any) -> openai.OpenAI:
        """Return OpenAI's SDK at an address of the gateway's; it is closed after the test."""
        made = openai.OpenAI(base_url=self.base + prefix, api_key="of-the-client", **{"max_retries": 0, **more})
        self.clients.append(made)
        return made

    def user(self, client: str, *, max_retries: int = 0, rollout: str = "") -> User:
        return USERS[client](self.base + rollout, max_retries)

    def model(self, upstream: str, kind: str = "m") -> str:
        return f"{kind}-{upstream}"

    def server(self, upstream: str) -> str:
        return f"http://127.0.0.1:{(self.claude if upstream == 'anthropic' else self.echo).port}"

    def post(self, client: str, body: Json, *, path: str = "", **headers: str) -> httpx2.Response:
        """Send a body as the client's SDK would, without the SDK."""
        path = path or ("/v1/chat/completions" if client == "openai" else "/v1/messages")
        version = {"anthropic-version": "2026-10-21"} if client == "anthropic" else {}
        return httpx2.post(self.base + path, json=body, headers={**version, **headers}, timeout=60)

    def seen(self, upstream: str) -> Json:
        """Return what the upstream saw: calls, client_gone, in_flight, by_status, last."""
        found: Json = httpx2.get(f"{self.server(upstream)}/stats").json()
        return found

    def directive(self, upstream: str, **how: Any) -> str:
        """Return a text that makes the upstream behave."""
        if upstream == "anthropic":
            if "die" in how:
                how["die_after_events"] = how.pop("die") + 3
            return json.dumps({"claude": how})
        if "die" in how:
            how["die_after_chunks"] = how.pop("die") + 1
        return json.dumps({"echo": how})


def document(echo: int, claude: int) -> contract.Document:
    server = {"api_base": f"http://127.0.0.1:{echo}/v1"}
    reached: dict[str, Json] = {
        "openai": {**server, "model": "openai/echo"},
        "vllm": {**server, "model": "hosted_vllm/echo", "token_ids": True},
        "anthropic": {
            "model": "anthropic/claude-fake-5",
            "api_base": f"http://127.0.0.1:{claude}",
            "api_key_env": "UPSTREAM_KEY_CLAUDE",
        },
    }
    older = {**reached["anthropic"], "model": "anthropic/claude-fake-4-5"}
    models: list[Json] = []
    for name, how in reached.items():
        models.append({"name": f"m-{name}", "deployments": [{"id": f"m-{name}/0", **how}]})
        models.append({"name": f"limited-{name}", **LIMITED, "deployments": [{"id": f"limited-{name}/0", **how}]})
        dead = {**how, "api_base": "http://127.0.0.1:9"}
        models.append({"name": f"dead-{name}", "deployments": [{"id": f"dead-{name}/0", **dead}]})
        spare = [{"id": f"spare-{name}/0", **dead}, {"id": f"spare-{name}/1", **how, "weight": 0}]
        models.append({"name": f"spare-{name}", "deployments": spare})
        falls = {"name": f"falls-{name}", "deployments": [{"id": f"falls-{name}/0", **dead}]}
        models.append({**falls, "fallbacks": ["m-openai" if name == "anthropic" else "m-anthropic"]})
        slow = {**how, "timeout_s": 0.3}
        models.append({"name": f"slow-{name}", "deployments": [{"id": f"slow-{name}/0", **slow}]})
    models.append({"name": "older", "deployments": [{"id": "older/0", **older}]})
    plain = {**server, "model": "together_ai/echo"}
    models.append({"name": "m-plain", "deployments": [{"id": "m-plain/0", **plain}]})
    params = {"max_tokens": 3, "temperature": 1, "top_k": 1}
    models.append({"name": "with-params", "deployments": [{"id": "with-params/0", **older, "params": params}]})
    return contract.Document.model_validate(
        {
            "proxy": {"name": "t", "namespace": "default"},
            "models": models,
            "retries": {"max": 1, "initial_delay_s": 0.01, "max_delay_s": 0.05},
            "spans": {"store": "http://127.0.0.1:9", "ack_wait_s": 0},
        }
    )


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("g")
    recorder = Recorder(folder / "shipper.sock")
    with (
        running("llmproxy.echo", "--port", "0", ready="ready on") as echo,
        running("fakes.anthropic", "--key", KEY, ready="ready on", env=FAKES) as claude,
    ):
        (folder / "config.json").write_text(document(echo.port, claude.port).to_json())
        port, admin = free_port(), free_port()
        command = (
            *("llmproxy.gateway", "--config", str(folder / "config.json"), "--run-dir", str(folder)),
            *("--host", "127.0.0.1", "--port", str(port), "--admin-host", "127.0.0.1", "--admin-port", str(admin)),
        )
        with running(*command, ready="gateway_ready", env={"UPSTREAM_KEY_CLAUDE": KEY}):
            yield Rig(f"http://127.0.0.1:{port}", echo, claude, recorder)
    recorder.close()


@pytest.fixture
def rig(shared: Rig) -> Iterator[Rig]:
    for upstream in ("openai", "anthropic"):
        httpx2.post(f"{shared.server(upstream)}/stats/reset")
    shared.recorder.calls.clear()
    yield shared
    while shared.clients:
        shared.clients.pop().close()
