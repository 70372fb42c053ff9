"""The translator as an ASGI application on a unix socket: `/v1/chat/completions`, `/v1/embeddings`, `/healthz`.

The header `x-llmproxy-deployment` names the deployment of the contract; only those that need translation are served. A
caller that leaves ends its call at the provider too.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from llmproxy.translator import engine, errors, fields, shapes
from llmproxy.translator.engine import Backend, TranslationError
from llmproxy.translator.errors import ErrorResponse
from llmproxy.translator.transport import UpstreamTrace

log = logging.getLogger("llmproxy.translator")

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

MAX_BODY = 32 << 20
"""Bytes of a request's body, as the gateway reads."""
DEPLOYMENT_HEADER = b"x-llmproxy-deployment"
CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"


class _DisconnectedError(Exception):
    """The caller closed its connection."""


class Reply:
    """The answer to one request, whole or in events."""

    def __init__(self, send: Send) -> None:
        self.trace = UpstreamTrace()
        self._send = send
        self._streaming = False

    async def whole(self, status: int, body: bytes, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """Send everything at once."""
        head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *_lines(headers)]
        await self._send({"type": "http.response.start", "status": status, "headers": head})
        await self._send({"type": "http.response.body", "body": body})

    async def event(self, data: bytes) -> None:
        """Send an event of a stream; the first begins the answer."""
        if not self._streaming:
            self._streaming = True
            head = [
                (b"content-type", b"text/event-stream; charset=utf-8"),
                *_lines(errors.forwarded(self.trace.headers)),
            ]
            await self._send({"type": "http.response.start", "status": 200, "headers": head})
        await self._send({"type": "http.response.body", "body": b"data: " + data + b"\n\n", "more_body": True})

    async def end(self) -> None:
        """End a stream."""
        await self._send({"type": "http.response.body", "body": b""})

    async def refuse(self, error: ErrorResponse) -> None:
        """Send an error: an answer of its own, or, in a stream, its last event."""
        if self._streaming:
            await self.event(error.body())
            await self.end()
        else:
            await self.whole(error.status, error.body(), error.headers)


def _lines(headers: tuple[tuple[str, str], ...]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


class Translator:
    """The application."""

    def __init__(self, backends: Mapping[str, Backend]) -> None:
        self._backends = backends

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        reply, method, path = Reply(send), scope["method"], scope["path"]
        name = next((v.decode("latin-1") for n, v in scope["headers"] if n == DEPLOYMENT_HEADER), "")
        backend = self._backends.get(name)
        if (method, path) == ("GET", "/healthz"):
            await reply.whole(200, b'{"status":"ok"}')
        elif method != "POST" or path not in {CHAT, EMBEDDINGS}:
            await reply.refuse(ErrorResponse(404, f"no {method} {path} here; there are POST {CHAT} and {EMBEDDINGS}"))
        elif backend is None:
            names = ", ".join(sorted(self._backends))
            await reply.refuse(ErrorResponse(404, f"deployment {name!r} is not translated here; there is {names}"))
        else:
            with contextlib.suppress(_DisconnectedError):
                await _serve(backend, path, receive, reply)


async def _serve(backend: Backend, path: str, receive: Receive, reply: Reply) -> None:
    try:
        names = fields.CHAT if path == CHAT else fields.EMBEDDINGS
        body = await _body(receive)
        arguments = fields.read(body, names, backend.deployment.params)
        if backend.upstream_model.endswith("*"):
            backend = backend.for_model(fields.model_of(body))
    except fields.FieldError as exc:
        await reply.refuse(ErrorResponse(400, str(exc), param=exc.param))
        return
    trace = reply.trace
    try:
        async with asyncio.timeout(backend.deployment.timeout_s):
            await _while_connected(_answer(backend, path, arguments, reply), receive)
    except TimeoutError:
        trace.failure = "timeout"
        await reply.refuse(_error_response(backend, trace, None))
    except TranslationError as exc:
        await reply.refuse(_error_response(backend, trace, exc))
    finally:
        await trace.close()


async def _answer(backend: Backend, path: str, arguments: dict[str, Any], reply: Reply) -> None:
    trace = reply.trace
    if path == EMBEDDINGS:
        response = await engine.embed(backend, arguments, trace)
        await reply.whole(200, shapes.encode(response), errors.forwarded(trace.headers))
    elif arguments.get("stream") is True:
        async for chunk in engine.stream(backend, arguments, trace):
            await reply.event(shapes.encode(chunk))
        await reply.event(b"[DONE]")
        await reply.end()
    else:
        response = await engine.complete(backend, arguments, trace)
        await reply.whole(200, shapes.encode(response), errors.forwarded(trace.headers))


async def _while_connected(work: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Do *work* until it is done or the caller has disconnected; raise its exception, or _DisconnectedError."""
    task = asyncio.ensure_future(work)
    disconnected = asyncio.ensure_future(_until_disconnected(receive))
    try:
        await asyncio.wait({task, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _DisconnectedError
        task.result()
    finally:
        disconnected.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


def _error_response(backend: Backend, trace: UpstreamTrace, exc: TranslationError | None) -> ErrorResponse:
    """Return the error for the caller: the provider's own, or else the failure on the way to it."""
    provider = backend.provider
    if trace.status >= 400:  # noqa: PLR2004 - an error of the provider's own
        body = trace.error_body.replace(backend.key.encode(), b"***") if backend.key else trace.error_body
        response = errors.upstream_refused(provider, trace.status, trace.headers, body)
    elif trace.failure:
        response = errors.upstream_failed(provider, trace.failure)
    elif trace.status:
        response = errors.upstream_failed(provider, "its answer cannot be translated")
    else:
        response = errors.not_sent(provider, exc.status if exc else None, str(exc or ""))
    fields_ = {"deployment": backend.deployment.id, "status": response.status, "upstream_status": trace.status}
    log.warning("call_failed", extra=fields_)
    return response


async def _body(receive: Receive) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _DisconnectedError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY:
            raise fields.FieldError(f"the body has more than {MAX_BODY} bytes")
        if not message.get("more_body"):
            return b"".join(parts)


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
