"""The data port: which request is a call, and what else a caller may ask. Raw ASGI; nothing here waits for anything.

A call goes to `pipeline`. The rest is answered at once: the list of models, and health for those who look at this
port (`/health` never costs a completion). A path or method that is not ours gets an error that says what is.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from llmproxy.gateway import pipeline
from llmproxy.gateway.caller import Caller
from llmproxy.gateway.errors import CallError, Header, MethodError, UnknownModelError, UnknownRouteError
from llmproxy.gateway.routes import ENDPOINTS, read_model_path, read_route

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

HEALTH_PATHS = frozenset({"/health", "/healthz", "/health/liveliness", "/health/readiness"})
"""LiteLLM's and Agent-Lightning's clients look here."""


class App:
    """The ASGI application of the data port."""

    def __init__(self, parts: pipeline.Parts) -> None:
        self._parts = parts
        self._closing: list[Header] = []
        """Goes with every answer: empty, until this pod ends."""
        self._models = {model.name: _described(model.name) for model in parts.document.models}
        self._list = msgspec.json.encode({"object": "list", "data": list(self._models.values())})

    def close_connections(self) -> None:
        """Ask callers from now on to come back over a new connection, which another pod will take."""
        self._closing.append((b"connection", b"close"))

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        caller = Caller(receive, send, self._closing)
        path: str = scope["path"]
        route = read_route(path, scope["headers"])
        if route.endpoint and route.endpoint != "models" and scope["method"] == "POST":
            await pipeline.serve(self._parts, route, caller)
            return
        try:
            status, body = 200, self._other(scope["method"], path, route.endpoint)
            headers = [(b"content-type", b"application/json")]
        except CallError as error:
            await caller.refuse(error, [])
            return
        await caller.answer(status, body, headers)

    def _other(self, method: str, path: str, endpoint: str) -> bytes:
        """Return the answer to what is no call; raise CallError."""
        if endpoint and endpoint != "models":
            raise MethodError(f"{path} takes POST, not {method}", headers=((b"allow", b"POST"),))
        name = read_model_path(path)
        if endpoint == "models" or name or path in HEALTH_PATHS:
            if method not in {"GET", "HEAD"}:
                raise MethodError(f"{path} takes GET, not {method}", headers=((b"allow", b"GET"),))
            if endpoint == "models":
                return self._list
            return self._one(name) if name else b'{"status":"ok"}'
        there = ", ".join(f"/v1{known}" for known in ENDPOINTS)
        raise UnknownRouteError(f"{method} {path} is not served here; there is {there}")

    def _one(self, name: str) -> bytes:
        model = self._models.get(name)
        if model is None:
            known = ", ".join(sorted(self._models))
            raise UnknownModelError(f"model {name!r} is not served here; there is {known}", param="model")
        return msgspec.json.encode(model)


def _described(name: str) -> dict[str, Any]:
    """Return a model as OpenAI's API describes one; nobody knows when it was made."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "llmproxy"}
