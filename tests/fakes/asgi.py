"""An ASGI server for the fakes of providers: `PYTHONPATH=tests:tests/support python -m fakes.NAME`."""

import asyncio
import json
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import uvicorn

Json = dict[str, Any]
Receive = Callable[[], Awaitable[Json]]
Send = Callable[[Json], Awaitable[None]]
Header = tuple[bytes, bytes]


async def pause(ms: float, gone: "asyncio.Future[None]") -> None:
    """Wait; raise ConnectionAbortedError when the client has left."""
    if ms:
        await asyncio.wait({gone}, timeout=ms / 1000)
    if gone.done():
        raise ConnectionAbortedError


async def read_body(receive: Receive) -> bytes:
    data = b""
    while True:
        message = await receive()
        data += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return data


async def until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_json(
    send: Send,
    status: int,
    value: Json,
    headers: Sequence[Header] = (),
    *,
    kind: bytes = b"application/json",
    indent: int | None = None,
) -> None:
    body = json.dumps(value, indent=indent, ensure_ascii=False).encode()
    head = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, name: str, path: str) -> None:
        super().__init__(config)
        self._name = name
        self._path = path

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = (sockets or [])[0].getsockname()[:2]
        print(f"fake {self._name} ready on http://{host}:{port}{self._path}", flush=True)


def serve(app: Any, name: str, host: str, port: int, path: str = "") -> None:
    """Serve until a signal comes; the line that says it is ready has the address of its API."""
    listener = socket.create_server((host, port), backlog=2048)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    config = uvicorn.Config(app, log_level="critical", lifespan="off", access_log=False, timeout_graceful_shutdown=1)
    _Server(config, name, path).run(sockets=[listener])
