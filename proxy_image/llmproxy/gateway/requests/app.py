"""The data port: which request is a call, and what else a caller may ask. Nothing here waits for anything.

A call goes to `pipeline`. The rest is answered at once: the list of models, and health for those who look at this
port (`/health` never costs a completion). A path or method that is not ours gets an error that says what is.
"""

import logging

from llmproxy.gateway.adapters.base import Dialect
from llmproxy.gateway.adapters.registry import dialect_of
from llmproxy.gateway.errors import CallError, Header, MethodError, UnknownRouteError
from llmproxy.gateway.http.exchange import JSON, Caller, Request
from llmproxy.gateway.http.routing import ENDPOINTS, HEALTH, MODELS, Route, read_route
from llmproxy.gateway.requests.context import Parts
from llmproxy.gateway.requests.handler import find, serve

log = logging.getLogger("llmproxy.gateway")


class App:
    """What the data port serves."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._names = list(parts.balancers)

    async def handle(self, caller: Caller) -> None:
        """Answer one request."""
        request = caller.request
        route = read_route(request.path, request.headers)
        caller.dialect = dialect_of(route.endpoint, request.headers)
        try:
            if self._parts.keys is not None and request.path not in HEALTH:
                self._parts.keys.check(request.headers)
            if request.method == "POST" and route.endpoint and route.endpoint != MODELS:
                await serve(self._parts, route, caller)
            else:
                self._answer_other(request, route, caller)
        except CallError as error:  # no key: it is no call, and nothing else of it is looked at
            self._parts.counts.requests["", route.endpoint, error.status] += 1
            caller.refuse(error)
        except Exception:
            log.exception("call_failed", extra={"path": request.path})
            if caller.started:
                caller.abort()
            else:
                caller.refuse(CallError("the gateway failed; its log says why"))

    def refused(self, error: CallError, path: str, headers: list[Header]) -> bytes:
        """Count a request that cannot be read, and return the body of its answer, in the form that its client reads."""
        endpoint = read_route(path, headers).endpoint
        self._parts.counts.requests["", endpoint, error.status] += 1
        return dialect_of(endpoint, headers).error(error)

    def _answer_other(self, request: Request, route: Route, caller: Caller) -> None:
        try:
            body = self._other(request.method, request.path, route, caller.dialect)
        except CallError as error:
            caller.refuse(error)
        else:
            caller.answer(200, body, (JSON,))

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
