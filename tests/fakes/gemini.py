"""A faithful fake of Google's Gemini API (generativelanguage.googleapis.com, v1beta).

Paths, bodies, server-sent events, usage, function calls and errors are as Google documents them (ai.google.dev/api,
cloud.google.com/apis/design/errors); requests are checked as strictly. There is no model: it repeats the last text,
or does what a text says that is nothing but a directive, `{"gemini": {"status": 429, "retry_delay": "17s"}}`. It can
split a stream's bytes at any place. GET /stats says what it saw.
"""

import argparse
import asyncio
import json
import re
import sys
import time
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from fakes.asgi import Header, Json, Receive, Send, pause, read_body, send_json, serve, until_gone

STATUSES = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED"}
STATUSES |= {499: "CANCELLED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}
MESSAGES = {
    429: "You exceeded your current quota, please check your plan and billing details.",
    500: "An internal error has occurred. Please retry or report in "
    "https://developers.generativeai.google/guide/troubleshooting",
    503: "The model is overloaded. Please try again later.",
    504: "The service is unable to finish processing within the deadline.",
}
NO_KEY = (
    "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or other "
    "form of API consumer identity to call this API."
)
REQUEST_FIELDS = {"contents", "tools", "toolConfig", "safetySettings", "systemInstruction", "generationConfig"}
REQUEST_FIELDS |= {"cachedContent", "model", "store", "serviceTier"}
CONFIG_FIELDS = {"stopSequences", "responseMimeType", "responseSchema", "responseJsonSchema", "responseModalities"}
CONFIG_FIELDS |= {"candidateCount", "maxOutputTokens", "temperature", "topP", "topK", "seed", "presencePenalty"}
CONFIG_FIELDS |= {"frequencyPenalty", "responseLogprobs", "logprobs", "thinkingConfig", "speechConfig"}
CONFIG_FIELDS |= {"mediaResolution"}
_PATH = re.compile(r"^/(v1|v1beta)/models/([^/:]+)(?::(\w+))?$")
_CALL = re.compile(r"^call +([A-Za-z0-9_.-]+) *(\{.*\})? *$")


class GoogleError(Exception):
    """An error as Google's APIs answer it."""

    def __init__(self, code: int, message: str, details: list[Json] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details or []
        self.headers: list[tuple[bytes, bytes]] = []

    def as_json(self) -> Json:
        error: Json = {"code": self.code, "message": self.message, "status": STATUSES.get(self.code, "UNKNOWN")}
        if self.details:
            error["details"] = self.details
        return {"error": error}


class Gemini:
    """The ASGI application."""

    def __init__(self, models: tuple[str, ...], key: str | None) -> None:
        self._models = models
        self._key = key
        self.calls = 0
        self.client_gone = 0
        self.in_flight = 0
        self.last: Json = {}

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = await read_body(receive)
        gone = asyncio.ensure_future(until_gone(receive))
        self.in_flight += 1
        try:
            await self._route(scope, body, send, gone)
        except GoogleError as error:
            await _json(send, error.code, error.as_json(), error.headers)
        except ConnectionAbortedError:
            self.client_gone += 1
        finally:
            self.in_flight -= 1
            gone.cancel()

    async def _route(self, scope: Mapping[str, Any], body: bytes, send: Send, gone: "asyncio.Future[None]") -> None:
        method, path = scope["method"], scope["path"]
        if (method, path) == ("GET", "/stats"):
            await _json(send, 200, self._stats())
            return
        if (method, path) == ("POST", "/stats/reset"):
            self.calls = self.client_gone = 0
            await _json(send, 200, self._stats())
            return
        if (method, path) == ("GET", "/v1beta/models"):
            await _json(send, 200, {"models": [_model(name) for name in self._models]})
            return
        found = _PATH.match(path)
        if found is None:
            raise GoogleError(404, f"Requested entity {path} was not found.")
        self._authorise(scope)
        name, verb = found.group(2), found.group(3)
        if name not in self._models:
            raise GoogleError(
                404,
                f"models/{name} is not found for API version {found.group(1)}, or is not supported for {verb}. "
                "Call ListModels to see the list of available models and their supported methods.",
            )
        if method == "GET" and verb is None:
            await _json(send, 200, _model(name))
            return
        self.calls += 1
        asked = _parse(body)
        self.last = {"path": path, "query": scope["query_string"].decode(), "body": asked}
        self.last["headers"] = {n.decode(): "(hidden)" if b"key" in n else v.decode() for n, v in scope["headers"]}
        await self._serve(name, verb or "", asked, scope, send, gone)

    async def _serve(
        self, name: str, verb: str, asked: Json, scope: Mapping[str, Any], send: Send, gone: "asyncio.Future[None]"
    ) -> None:
        if verb == "batchEmbedContents":
            vectors = [{"values": _vector(_text(r.get("content", {})))} for r in asked.get("requests", [])]
            await _json(send, 200, {"embeddings": vectors})
        elif verb == "embedContent":
            await _json(send, 200, {"embedding": {"values": _vector(_text(asked.get("content", {})))}})
        elif verb in {"generateContent", "streamGenerateContent"}:
            _check(asked)
            how = _directive(asked)
            await pause(how.get("delay_ms", 0), gone)
            _fail(how)
            if verb == "generateContent":
                await _json(send, 200, _whole(name, asked, how), _headers(how))
            else:
                await _stream(_chunks(name, asked, how), how, scope["query_string"].decode(), send, gone)
        else:
            raise GoogleError(404, f"Method {verb} is not found.")

    def _authorise(self, scope: Mapping[str, Any]) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        found = re.search(rb"(?:^|&)key=([^&]*)", scope["query_string"])
        given = headers.get(b"x-goog-api-key", found[1] if found else b"").decode()
        if self._key is None:
            return
        if not given:
            raise GoogleError(403, NO_KEY)
        if given != self._key:
            info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
            info |= {"domain": "googleapis.com"}
            raise GoogleError(400, "API key not valid. Please pass a valid API key.", [info])

    def _stats(self) -> Json:
        return {
            "calls": self.calls,
            "client_gone": self.client_gone,
            "in_flight": self.in_flight - 1,
            "last": self.last,
        }


def _model(name: str) -> Json:
    methods = ["generateContent", "countTokens", "embedContent", "batchEmbedContents"]
    return {"name": f"models/{name}", "version": "001", "displayName": name, "supportedGenerationMethods": methods}


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _parse(body: bytes) -> Json:
    try:
        asked = json.loads(body)
    except ValueError:
        raise GoogleError(400, "Invalid JSON payload received. Unexpected token.") from None
    if not isinstance(asked, dict):
        raise GoogleError(400, "Invalid JSON payload received.")
    return asked


def _check(asked: Json) -> None:
    """Refuse what Google refuses: fields that are not there, contents without parts, roles that are none."""
    unknown = [(name, "") for name in asked if _camel(name) not in REQUEST_FIELDS]
    config = _config(asked)
    unknown += [(name, " at 'generation_config'") for name in config if _camel(name) not in CONFIG_FIELDS]
    if unknown:
        name, where = unknown[0]
        message = f'Invalid JSON payload received. Unknown name "{name}"{where}: Cannot find field.'
        violation = {"description": message}
        detail = {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]}
        raise GoogleError(400, message, [detail])
    if not asked.get("contents"):
        raise GoogleError(400, "* GenerateContentRequest.contents: contents is not specified")
    for i, content in enumerate(asked["contents"]):
        if content.get("role", "user") not in {"user", "model", "function"}:
            raise GoogleError(400, "Please use a valid role: user, model.")
        if not content.get("parts"):
            raise GoogleError(400, f"* GenerateContentRequest.contents[{i}].parts: contents.parts must not be empty.")


def _config(asked: Json) -> Json:
    config: Json = asked.get("generationConfig") or asked.get("generation_config") or {}
    return config


def _text(content: Mapping[str, Any]) -> str:
    return "".join(part.get("text", "") for part in content.get("parts", ()))


def _last_user(asked: Json) -> str:
    users = [c for c in asked["contents"] if c.get("role", "user") == "user" and _text(c)]
    return _text(users[-1]) if users else ""


def _directive(asked: Json) -> Json:
    try:
        parsed = json.loads(_last_user(asked))
    except ValueError:
        return {}
    how = parsed.get("gemini") if isinstance(parsed, dict) else None
    return how if isinstance(how, dict) else {}


def _headers(how: Json) -> list[Header]:
    return [(name.encode(), value.encode()) for name, value in how.get("headers", {}).items()]


def _fail(how: Json) -> None:
    status = how.get("status", 200)
    if status == 200:
        return
    details: list[Json] = []
    if status == 429:
        violation = {"quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests"}
        details.append({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]})
    if "retry_delay" in how:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": how["retry_delay"]})
    error = GoogleError(status, MESSAGES.get(status, "Something is wrong."), details)
    error.headers += _headers(how)
    if "retry_after" in how:
        error.headers.append((b"retry-after", str(how["retry_after"]).encode()))
    raise error


def _parts(asked: Json, how: Json) -> list[Json]:
    """Return what the model says: pieces of text, or function calls."""
    last = asked["contents"][-1]
    camel = [
        {_camel(name): value for name, value in part.items()} for part in last["parts"]
    ]  # as protobuf's JSON reads
    results = [part["functionResponse"] for part in camel if "functionResponse" in part]
    if results:
        return [{"text": f"{r['name']} gave {json.dumps(r['response'], ensure_ascii=False)}"} for r in results]
    said = how.get("text", "".join(_text(c) for c in [last]))
    offered = {d["name"] for t in asked.get("tools", ()) for d in _declarations(t)}
    calls = [m for line in said.split("\n") if (m := _CALL.match(line.strip())) and m.group(1) in offered]
    if calls:
        return [{"functionCall": {"name": m.group(1), "args": json.loads(m.group(2) or "{}")}} for m in calls]
    if "chunks" in how:
        return [{"text": f"piece {i} "} for i in range(how["chunks"])]
    return [{"text": piece} for piece in re.findall(r" *[^ ]+| +$", said)] or [{"text": ""}]


def _declarations(tool: Mapping[str, Any]) -> list[Json]:
    return list(tool.get("functionDeclarations", tool.get("function_declarations", ())))


def _count(value: object) -> int:
    return max(1, len(json.dumps(value)) // 4)


def _usage(asked: Json, parts: list[Json]) -> Json:
    prompt, made = _count(asked["contents"]), sum(_count(part) for part in parts)
    details = [{"modality": "TEXT", "tokenCount": prompt}]
    usage = {"promptTokenCount": prompt, "candidatesTokenCount": made, "totalTokenCount": prompt + made}
    return {**usage, "promptTokensDetails": details}


def _answer(name: str, parts: list[Json], usage: Json, finish: str | None, ident: str) -> Json:
    candidate: Json = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": name, "responseId": ident}


def _limited(asked: Json, how: Json) -> tuple[list[Json], str]:
    parts = _parts(asked, how)
    config = _config(asked)
    limit = config.get("maxOutputTokens", config.get("max_output_tokens"))
    if limit is not None and "text" in parts[0] and len(parts) > limit:
        return parts[:limit], "MAX_TOKENS"
    return parts, "STOP"


def _ident() -> str:
    return f"fake{time.time_ns():x}"


def _whole(name: str, asked: Json, how: Json) -> Json:
    parts, finish = _limited(asked, how)
    usage = _usage(asked, parts)
    if "text" in parts[0]:
        parts = [{"text": "".join(p["text"] for p in parts)}]
    return _answer(name, parts, usage, finish, _ident())


def _chunks(name: str, asked: Json, how: Json) -> list[Json]:
    parts, finish = _limited(asked, how)
    ident = _ident()
    made = []
    for i in range(len(parts)):
        last = i == len(parts) - 1
        made.append(_answer(name, [parts[i]], _usage(asked, parts[: i + 1]), finish if last else None, ident))
    return made


async def _stream(chunks: list[Json], how: Json, query: str, send: Send, gone: "asyncio.Future[None]") -> None:
    as_sse = "alt=sse" in query
    kind = b"text/event-stream" if as_sse else b"application/json; charset=UTF-8"
    head = [(b"content-type", kind), *_headers(how)]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    size = how.get("chunk_bytes")
    async for data in _paced(chunks, how, gone, as_sse=as_sse):
        pieces = [data] if size is None else [data[i : i + size] for i in range(0, len(data), size)]
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            if size is not None:
                await asyncio.sleep(0)  # each piece a write of its own
    if "die_after_chunks" not in how:
        await send({"type": "http.response.body", "body": b""})


async def _paced(chunks: list[Json], how: Json, gone: "asyncio.Future[None]", *, as_sse: bool) -> AsyncIterator[bytes]:
    for i, chunk in enumerate(chunks):
        if i == how.get("die_after_chunks"):
            return
        if i == how.get("error_after_chunks"):
            error = GoogleError(503, MESSAGES[503]).as_json()
            yield b"data: " + json.dumps(error).encode() + b"\r\n\r\n"
            return
        if i:
            await pause(how.get("chunk_ms", 0), gone)
        text = json.dumps(chunk, ensure_ascii=False).encode()
        yield b"data: " + text + b"\r\n\r\n" if as_sse else (b"[" if i == 0 else b",\r\n") + text
    if not as_sse:
        yield b"]"


def _vector(text: str) -> list[float]:
    return [zlib.crc32(f"{k} {text}".encode()) / 2**31 - 1 for k in range(8)]


async def _json(send: Send, status: int, value: Json, headers: Sequence[Header] = ()) -> None:
    await send_json(send, status, value, headers, kind=b"application/json; charset=UTF-8", indent=2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", action="append", default=[], help="default: gemini-2.0-flash and an embedding model")
    parser.add_argument("--key", help="the only valid key; default: none is asked")
    flags = parser.parse_args()
    app = Gemini(tuple(flags.model) or ("gemini-2.0-flash", "gemini-embedding-001"), flags.key)
    serve(app, "Gemini", flags.host, flags.port, "/v1beta")
    return 0


if __name__ == "__main__":
    sys.exit(main())
