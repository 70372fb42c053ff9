"""The data port: requests to models go to `handler`, the rest is answered here.

The rest is the list of models, and health for probes of this port (`/health` never costs a completion). Another path or
method gets an error that lists what there is.
"""

import asyncio
import logging
from typing import Final

from llmproxy.gateway.adapters.base import Dialect
from llmproxy.gateway.adapters.registry import dialect_of
from llmproxy.gateway.errors import (
    BadRequestError,
    CallError,
    Header,
    MediaTypeError,
    MethodError,
    OverloadedError,
    TooLargeError,
    UnknownRouteError,
)
from llmproxy.gateway.http import server as http_server
from llmproxy.gateway.http.content_coding import SUPPORTED, CodingError, Decoder, coding_of
from llmproxy.gateway.http.exchange import JSON, HttpExchange, HttpRequest
from llmproxy.gateway.http.routing import ENDPOINTS, HEALTH, MODELS, Route, read_route
from llmproxy.gateway.requests.context import Dependencies, RequestContext
from llmproxy.gateway.requests.handler import find_model, serve

ENDPOINT_NAMES: Final = frozenset(ENDPOINTS.values())
log = logging.getLogger("llmproxy.gateway")


class App:
    """Handler of the data port."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._models = deps.models.names

    async def handle(self, exchange: HttpExchange) -> None:
        """Answer one request."""
        request = exchange.request
        route = read_route(request.path, request.headers)
        dialect = dialect_of(route.endpoint, request.headers)
        try:
            if self._deps.api_keys is not None and request.path not in HEALTH:
                self._deps.api_keys.check(request.headers)
            if request.method == "POST" and route.endpoint and route.endpoint != MODELS:
                if request.coding:
                    await self._serve_coded(RequestContext(route, dialect, exchange))
                else:
                    await serve(self._deps, RequestContext(route, dialect, exchange))
            else:
                self._answer(request, route, dialect, exchange)
        except CallError as error:  # no key: nothing else of the request is read
            self._deps.stats.requests["", route.endpoint, error.status] += 1
            _send_error(exchange, dialect, error)
        except Exception:
            log.exception("request_failed", extra={"path": request.path})
            if exchange.started:
                exchange.abort()
            else:
                _send_error(exchange, dialect, CallError("the gateway failed; its log says why"))

    async def _serve_coded(self, context: RequestContext) -> None:
        """Decode the body, in steps between which other requests run, and serve the request."""
        budget, request = self._deps.budget, context.exchange.request
        coding = _require_coding(request.coding)
        decoder = Decoder(coding) if coding else None
        parts: list[bytes] = []
        size = 0
        try:
            if decoder is not None:
                for part in decoder.feed(request.body):
                    if size + len(part) > http_server.MAX_BODY:
                        raise TooLargeError(f"the decoded body has more than {http_server.MAX_BODY} bytes")
                    if not budget.take(len(part)):
                        raise OverloadedError
                    size += len(part)
                    parts.append(part)
                    await asyncio.sleep(0)
                decoder.finish()
                request.body = b"".join(parts)
            await serve(self._deps, context)
        except CodingError as exc:
            raise BadRequestError(f"the body is not {coding}: {exc}") from exc
        finally:
            budget.give(size)

    def check_head(self, method: str, path: str, headers: list[Header]) -> None:
        """Raise CallError for a request that is refused whatever its body: no API key, or a pause."""
        if self._deps.api_keys is not None and path not in HEALTH:
            self._deps.api_keys.check(headers)
        _require_coding(next((value for name, value in headers if name == b"content-encoding"), b""))
        if method == "POST" and read_route(path, headers).endpoint in ENDPOINT_NAMES:
            self._deps.pause.check()

    def error_body(self, error: CallError, path: str, headers: list[Header]) -> bytes:
        """Count a request that cannot be read; return the body of its error in the client's protocol."""
        endpoint = read_route(path, headers).endpoint
        self._deps.stats.requests["", endpoint, error.status] += 1
        return dialect_of(endpoint, headers).error(error)

    def _answer(self, request: HttpRequest, route: Route, dialect: Dialect, exchange: HttpExchange) -> None:
        try:
            body = self._body(request.method, request.path, route, dialect)
        except CallError as error:
            _send_error(exchange, dialect, error)
        else:
            exchange.respond(200, body, (JSON,))

    def _body(self, method: str, path: str, route: Route, dialect: Dialect) -> bytes:
        """Return the response to a request that calls no model; raise CallError."""
        is_health = path in HEALTH
        if not route.endpoint and not is_health:
            endpoints = ", ".join(f"POST /v1/{end}" for end in ENDPOINTS)
            raise UnknownRouteError(f"{method} {path} is not served here; there is {endpoints}, GET /v1/models")
        methods = ("GET", "HEAD") if is_health or route.endpoint == MODELS else ("POST",)
        if method not in methods:
            allow = (b"allow", ", ".join(methods).encode())
            raise MethodError(f"{path} takes {' or '.join(methods)}, not {method}", headers=(allow,))
        if is_health:
            return b'{"status":"ok"}'
        if not route.model:
            return dialect.models(self._models)
        find_model(self._deps, route.model)
        return dialect.model(route.model)


def _send_error(exchange: HttpExchange, dialect: Dialect, error: CallError) -> None:
    exchange.respond(error.status, dialect.error(error), (JSON, *error.headers))


def _require_coding(value: bytes) -> str:
    """Return the coding of a request's body, empty for none; raise MediaTypeError."""
    coding = coding_of(value)
    if coding is None:
        names = ", ".join(SUPPORTED)
        raise MediaTypeError(
            f"content-encoding {value.decode('latin-1')[:100]!r} is not decoded here: use {names}, or none",
            headers=((b"accept-encoding", names.encode()),),
        )
    return coding
