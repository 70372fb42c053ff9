"""HTTP server of the admin and control ports: an ASGI app behind the bounds of `http.server`.

An ASGI server of its own would bound neither heads nor connections nor slow clients, and the ports share the process
and its event loop with the data port.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import msgspec

from llmproxy.gateway.errors import CallError, Header
from llmproxy.gateway.http.exchange import JSON, ByteBudget, HttpExchange
from llmproxy.gateway.http.server import HeadCheck, HttpServer

BACKLOG = 2048
MAX_BODY = 64 << 10
BUDGET = 2 << 20
"""Bytes of unfinished requests at a port."""
GRACE_S = 1.0
"""Time of requests in flight at the end."""
Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]
_UNSENT: Final = frozenset({b"content-length", b"transfer-encoding", b"connection", b"date"})
log = logging.getLogger("llmproxy.gateway")


class AppServer:
    """Serves an ASGI app on one port. `start`, then `close`."""

    def __init__(self, app: App, *, max_connections: int, check_head: HeadCheck | None = None) -> None:
        """*check_head* raises CallError for a request to refuse; its body is not read then."""
        self._app = app
        self._check_head = check_head
        self._server = HttpServer(
            self._handle,
            self._error_body,
            max_connections=max_connections,
            budget=ByteBudget(BUDGET),
            max_body=MAX_BODY,
            check_head=check_head,
            evicts=True,  # a probe of the kubelet gets a connection, whoever else holds all of them
        )

    async def start(self, listener: socket.socket) -> None:
        """Accept connections."""
        await self._server.start(listener, BACKLOG)

    async def close(self) -> None:
        """Finish the requests in flight."""
        await self._server.drain(0.0, GRACE_S)

    async def _handle(self, exchange: HttpExchange) -> None:
        exchange.cancel_on_disconnect()
        request = exchange.request
        try:
            if self._check_head is not None:
                self._check_head(request.method, request.path, request.headers)
            await self._run(exchange)
        except CallError as error:
            exchange.respond(error.status, _body(error.message), (JSON, *error.headers))
        except asyncio.CancelledError:
            if not exchange.disconnected:
                exchange.abort()
        except Exception:
            log.exception("admin_request_failed", extra={"path": request.path})
            if not exchange.started:
                exchange.respond(500, _body("the gateway failed; its log says why"), (JSON,))

    async def _run(self, exchange: HttpExchange) -> None:
        request = exchange.request
        path, _, query = request.target.partition(b"?")
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "scheme": "http",
            "method": request.method, "path": request.path, "raw_path": path, "query_string": query, "root_path": "",
            "headers": request.headers, "client": None, "server": None,
        }  # fmt: skip
        bodies: list[Message] = [{"type": "http.request", "body": request.body, "more_body": False}]
        status, headers, parts = 500, [JSON], []

        async def receive() -> Message:
            if not bodies:
                await asyncio.get_running_loop().create_future()  # a client that disconnects cancels this task
            return bodies.pop()

        async def send(message: Message) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [(name, value) for name, value in message["headers"] if name.lower() not in _UNSENT]
            else:
                parts.append(message.get("body", b""))
                if not message.get("more_body", False):
                    exchange.respond(status, b"".join(parts), headers)

        await self._app(scope, receive, send)

    def _error_body(self, error: CallError, path: str, headers: list[Header]) -> bytes:  # noqa: ARG002
        return _body(error.message)


def _body(message: str) -> bytes:
    """Return an error as FastAPI writes its own."""
    return msgspec.json.encode({"detail": message})


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; an empty *host* is all addresses, of both families where there are two."""
    if host:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # the kernel knows IPv6 and the machine has none
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
    return socket.create_server(("", port), backlog=BACKLOG)
