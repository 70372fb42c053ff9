"""The data port: which request is a call, and what else a caller may ask. Raw ASGI; nothing here waits for anything.

A call goes to `pipeline`. The rest is answered at once: the list of models, and health for those who look at this
port (`/health` never costs a completion). A path or method that is not ours gets an error that says what is.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from llmproxy.gateway.call import Parts
from llmproxy.gateway.caller import JSON, Caller
from llmproxy.gateway.errors import CallError, Header, MethodError, UnknownRouteError
from llmproxy.gateway.exchange import Dialect
from llmproxy.gateway.pairs import dialect_of
from llmproxy.gateway.pipeline import find, serve
from llmproxy.gateway.routes import ENDPOINTS, HEALTH, MODELS, Route, read_route

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
log = logging.getLogger("llmproxy.gateway")


class App:
    """The ASGI application of the data port."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._closing: list[Header] = []
        """Goes with every answer: empty, until this pod ends."""
        self._names = list(parts.balancers)

    def close_connections(self) -> None:
        """Ask callers from now on to come back over a new connection, which another pod will take."""
        self._closing.append((b"connection", b"close"))

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        method, path = scope["method"], scope["path"]
        route = read_route(path, scope["headers"])
        caller = Caller(receive, send, self._closing, dialect_of(route.endpoint, scope["headers"]))
        try:
            if method == "POST" and route.endpoint and route.endpoint != MODELS:
                await serve(self._parts, route, caller)
            else:
                await self._answer_other(method, path, route, caller)
        except Exception:
            log.exception("call_failed", extra={"path": path})
            if caller.started:
                raise  # uvicorn hangs up: what breaks off must not look whole
            await caller.refuse(CallError("the gateway failed; its log says why"))

    async def _answer_other(self, method: str, path: str, route: Route, caller: Caller) -> None:
        try:
            body = self._other(method, path, route, caller.dialect)
        except CallError as error:
            await caller.refuse(error)
        else:
            await caller.answer(200, body, [JSON])

    def _other(self, method: str, path: str, route: Route, dialect: Dialect) -> bytes:
        """Return the answer to what is no call; raise CallError."""
        is_health = path in HEALTH
        if not route.endpoint and not is_health:
            there = ", ".join(f"POST /v1/{end}" for end in ENDPOINTS)
            raise UnknownRouteError(f"{method} {path} is not served here; there is {there}, GET /v1/models")
        wanted = ("GET", "HEAD") if is_health or route.endpoint == MODELS else ("POST",)
        if method not in wanted:
            allow = (b"allow", ", ".join(wanted).encode())
            raise MethodError(f"{path} takes {' or '.join(wanted)}, not {method}", headers=(allow,))
        if is_health:
            return b'{"status":"ok"}'
        if not route.model:
            return dialect.models(self._names)
        find(self._parts, route.model)
        return dialect.model(route.model)
