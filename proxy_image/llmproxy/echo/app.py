"""The echo server as an ASGI application: routes, statistics, and responses at the requested pace.

`generation` has the output, `shapes` its form on the wire.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from llmproxy.echo import responses, shapes
from llmproxy.echo.behaviour import Behaviour, DirectiveError, read
from llmproxy.echo.generation import BadBodyError, choices, generate, last_text, prompt_ids, prompts_of

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Json = dict[str, Any]

MAX_BODY = 64 << 20
MAX_KEPT_BODY = 256 << 10
"""Bytes of the last body that `GET /stats` shows; of a larger one only its size."""
ENDPOINTS = ("chat/completions", "completions", "embeddings", "responses")
_SECRETS = (b"authorization", b"api-key", b"x-api-key", b"x-goog-api-key", b"cookie")


class _ClientDisconnectedError(Exception):
    """The client closed its connection."""


@dataclass
class Stats:
    """Calls since the start or the last reset."""

    calls: int = 0
    """Model calls: chat, completions, embeddings, responses."""
    by_status: Counter[int] = field(default_factory=Counter)
    client_gone: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    last_path: str = ""
    last_headers: dict[str, str] = field(default_factory=dict)
    last_body: object = None

    def as_json(self) -> Json:
        """Return all of it."""
        return {
            "calls": self.calls,
            "by_status": {str(status): count for status, count in sorted(self.by_status.items())},
            "client_gone": self.client_gone,
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "last": {"path": self.last_path, "headers": self.last_headers, "body": self.last_body},
        }

    def reset(self) -> None:
        """Set the counters to zero; calls in flight stay counted."""
        self.__init__(in_flight=self.in_flight, max_in_flight=self.in_flight)  # type: ignore[misc]  # a fresh start


class Echo:
    """The application."""

    def __init__(
        self, *, models: tuple[str, ...] = (), defaults: Mapping[str, Any] | None = None, fail_rate: float = 0.0
    ) -> None:
        self._models = models
        self._defaults = dict(defaults or {})
        self._fail_rate = fail_rate
        self._chance = random.Random(0)  # noqa: S311 - the same failures each time
        self._started_s = int(time.time())
        self._next = 0
        self.stats = Stats()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        path, method = scope["path"].rstrip("/"), scope["method"]
        endpoint = path.removeprefix("/v1").removeprefix("/")
        if method == "POST" and endpoint in ENDPOINTS:
            await self._counted(endpoint, scope, receive, send)
        elif method == "GET" and endpoint == "models":
            await _json(send, 200, self._list())
        elif method == "GET" and path == "/stats":
            await _json(send, 200, self.stats.as_json())
        elif method == "POST" and path == "/stats/reset":
            self.stats.reset()
            await _json(send, 200, self.stats.as_json())
        elif method == "GET" and path in {"/health", "/healthz"}:
            await _json(send, 200, {"status": "ok"})
        else:
            message = (
                f"no {method} {path or '/'} here; there are /v1/models, {', '.join('/v1/' + e for e in ENDPOINTS)}"
            )
            await _json(send, 404, shapes.error(message, "NotFoundError", 404))

    def _list(self) -> Json:
        names = self._models or ("echo",)
        return {
            "object": "list",
            "data": [
                {"id": n, "object": "model", "created": self._started_s, "owned_by": "llmproxy-echo"} for n in names
            ],
        }

    async def _counted(self, endpoint: str, scope: Scope, receive: Receive, send: Send) -> None:
        stats = self.stats
        stats.calls += 1
        stats.in_flight += 1
        stats.max_in_flight = max(stats.max_in_flight, stats.in_flight)

        async def counting(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self.stats.by_status[message["status"]] += 1
            await send(message)

        try:
            await self._serve(endpoint, scope, receive, counting)
        except _ClientDisconnectedError:
            self.stats.client_gone += 1
        finally:
            self.stats.in_flight -= 1

    async def _serve(self, endpoint: str, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        self.stats.last_path = scope["path"]
        self.stats.last_headers = _without_secrets(scope["headers"])
        try:
            request = self._parse(body)
            if endpoint == "responses":
                request = responses.as_chat(request)
            behaviour = read(self._defaults, scope["headers"], last_text(request))
            call = _ModelCall(endpoint, request, behaviour, self._head(endpoint, request), send, receive)
            if behaviour.status < 400 and self._chance.random() < self._fail_rate:  # noqa: PLR2004 - already an error
                behaviour = call.behaviour = msgspec.structs.replace(behaviour, status=503)
            await call.run()
        except (BadBodyError, DirectiveError) as exc:
            refusal = shapes.error(str(exc), "BadRequestError", 400, getattr(exc, "param", None))
            await _json(send, 400, refusal)

    def _parse(self, body: bytes) -> Json:
        try:
            request = msgspec.json.decode(body)
        except msgspec.DecodeError as exc:
            raise BadBodyError(f"the body is not JSON: {exc}") from exc
        if not isinstance(request, dict):
            raise BadBodyError("the body must be a JSON object")
        self.stats.last_body = request if len(body) <= MAX_KEPT_BODY else f"{len(body)} bytes"
        model = request.get("model")
        if not isinstance(model, str) or not model:
            raise BadBodyError("model is missing", "model")
        if self._models and model not in self._models:
            raise BadBodyError(f"model {model!r} is not served here; there is {', '.join(self._models)}", "model")
        return request

    def _head(self, endpoint: str, request: Json) -> shapes.GenerationHead:
        self._next += 1
        prefix = {"chat/completions": "chatcmpl", "completions": "cmpl", "responses": "resp"}.get(endpoint, "embd")
        logprobs = request.get("logprobs")
        return shapes.GenerationHead(
            id=f"{prefix}-echo-{self._started_s}-{self._next}",
            created_s=int(time.time()),
            model=request["model"],
            token_ids=request.get("return_token_ids") is True,
            logprobs=logprobs is True or (endpoint == "completions" and isinstance(logprobs, int)),
        )


@dataclass
class _ModelCall:
    """One model call with a valid body."""

    endpoint: str
    request: Json
    behaviour: Behaviour
    head: shapes.GenerationHead
    send: Send
    receive: Receive
    _disconnected: "asyncio.Future[None] | None" = None

    async def run(self) -> None:
        """Respond at the requested pace; raise _ClientDisconnectedError after the client has disconnected."""
        self._disconnected = asyncio.ensure_future(_until_disconnected(self.receive))
        try:
            await self._pause(self.behaviour.delay_ms)
            if self.behaviour.status >= 400:  # noqa: PLR2004 - an error
                message = f"the echo server was asked to answer with {self.behaviour.status}"
                refusal = shapes.error(message, "EchoError", self.behaviour.status)
                await _json(self.send, self.behaviour.status, refusal, self._headers())
            elif self.request.get("stream") is True and self.endpoint != "embeddings":
                await self._stream()
            else:
                await self._plain()
        finally:
            self._disconnected.cancel()

    async def _plain(self) -> None:
        whole = self._whole()
        if self.behaviour.chunk_ms and self.endpoint != "embeddings":
            used = whole["usage"]
            generated = used["output_tokens"] if self.endpoint == "responses" else used.get("completion_tokens", 0)
            await self._pause(self.behaviour.chunk_ms * generated)
        body = msgspec.json.encode(whole)
        if self.behaviour.die_after_chunks is not None:
            await _start(self.send, 200, b"application/json", [(b"content-length", b"%d" % len(body))])
            await self.send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            return  # half a response: the server closes the connection
        await _json(self.send, self.behaviour.status, whole, self._headers())

    def _whole(self) -> Json:
        request, behaviour = self.request, self.behaviour
        if self.endpoint == "embeddings":
            return shapes.embeddings(self.head.model, request, _inputs(request))
        if self.endpoint == "completions":
            return shapes.completion(
                self.head, [(generate(request, text, behaviour), ids) for text, ids in prompts_of(request)]
            )
        generation = generate(request, last_text(request), behaviour)
        if self.endpoint == "responses":
            return responses.whole(self.head, request, generation, len(prompt_ids(request)))
        return shapes.chat(self.head, generation, prompt_ids(request), choices(request))

    def _chunks(self) -> Iterator[Json]:
        request, behaviour = self.request, self.behaviour
        if self.endpoint == "completions":
            answers = [(generate(request, text, behaviour), ids) for text, ids in prompts_of(request)]
            return shapes.completion_chunks(self.head, answers)
        generation = generate(request, last_text(request), behaviour)
        return shapes.chat_chunks(self.head, generation, prompt_ids(request), choices(request))

    async def _stream(self) -> None:
        if self.endpoint == "responses":
            await self._stream_responses()
            return
        options = self.request.get("stream_options")
        with_usage = isinstance(options, dict) and options.get("include_usage") is True
        totals = self._whole()["usage"]
        chunks = self._chunks()  # a body that cannot be used is refused before the first byte
        await _start(self.send, self.behaviour.status, b"text/event-stream; charset=utf-8", self._headers())
        for sent, chunk in enumerate(chunks):
            if sent == self.behaviour.die_after_chunks:
                return
            if sent:
                await self._pause(self.behaviour.chunk_ms)
            await self._event(msgspec.json.encode({**chunk, "usage": None} if with_usage else chunk))
        if with_usage:
            kind = "text_completion" if self.endpoint == "completions" else "chat.completion.chunk"
            await self._event(msgspec.json.encode(self.head.of(kind, [], usage=totals)))
        await self._event(b"[DONE]")
        await self.send({"type": "http.response.body", "body": b""})

    async def _stream_responses(self) -> None:
        generation = generate(self.request, last_text(self.request), self.behaviour)
        events = responses.events(self.head, self.request, generation, len(prompt_ids(self.request)))
        await _start(self.send, self.behaviour.status, b"text/event-stream; charset=utf-8", self._headers())
        pieces = 0
        for event in events:
            if event["type"].endswith(".delta"):
                if pieces == self.behaviour.die_after_chunks:
                    return
                if pieces:
                    await self._pause(self.behaviour.chunk_ms)
                pieces += 1
            named = b"event: " + event["type"].encode() + b"\ndata: " + msgspec.json.encode(event) + b"\n\n"
            await self.send({"type": "http.response.body", "body": named, "more_body": True})
        await self.send({"type": "http.response.body", "body": b""})

    async def _event(self, data: bytes) -> None:
        await self.send({"type": "http.response.body", "body": b"data: " + data + b"\n\n", "more_body": True})

    async def _pause(self, ms: float) -> None:
        assert self._disconnected is not None  # noqa: S101 - `run` has set it
        if ms > 0:
            await asyncio.wait({self._disconnected}, timeout=ms / 1000)
        if self._disconnected.done():
            raise _ClientDisconnectedError

    def _headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"retry-after", self.behaviour.retry_after.encode("latin-1"))] if self.behaviour.retry_after else []


def _inputs(request: Json) -> list[str]:
    value = request.get("input")
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(item, int) for item in value):
            return [str(value)]
        if all(isinstance(item, (str, list)) for item in value):
            return [str(item) for item in value]
    raise BadBodyError("input must be a string, a list of strings, or token ids", "input")


def _without_secrets(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    return {n.decode("latin-1"): "(hidden)" if n in _SECRETS else v.decode("latin-1") for n, v in headers}


async def _body(receive: Receive) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientDisconnectedError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY:
            raise BadBodyError(f"the body has more than {MAX_BODY} bytes")
        if not message.get("more_body"):
            return b"".join(parts)


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _start(send: Send, status: int, kind: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind), *headers]})


async def _json(send: Send, status: int, value: Json, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    body = msgspec.json.encode(value)
    await _start(send, status, b"application/json", [(b"content-length", b"%d" % len(body)), *(headers or [])])
    await send({"type": "http.response.body", "body": body})
