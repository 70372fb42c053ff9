"""A faithful fake of Anthropic's Messages API (api.anthropic.com) in both versions.

Paths, headers, bodies, events, usage and errors are as Anthropic documents them (platform.claude.com/docs/en/api), the
differences of 2026-10-21 from 2023-06-01 included; requests are checked as strictly. There is no model: it repeats the
last text, calls the tools that lines `call NAME {"some": "input"}` name, or does what a text says that is nothing but a
directive, `{"claude": {"status": 529}}` (see `Directive`). A model whose name ends in `-4-5` is of the generation that
thinks by a budget, any other of the one that thinks by an effort. A stream's bytes can be split at any place.
GET /stats says what it saw.
"""

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from fakes.asgi import Header, Json, Receive, Send, pause, read_body, send_json, serve, until_gone

ERRORS = {400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error"}
ERRORS |= {404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error", 500: "api_error"}
ERRORS |= {504: "timeout_error", 529: "overloaded_error"}
MESSAGES = {
    429: "This request would exceed your organization's rate limit of 50 requests per minute.",
    500: "Internal server error",
    529: "Overloaded",
}
COUNTED = {"model", "messages", "system", "tools", "tool_choice", "thinking", "output_config", "cache_control"}
FIELDS = COUNTED | {"max_tokens", "metadata", "stop_sequences", "stream", "temperature", "top_p", "top_k"}
FIELDS |= {"service_tier", "container", "inference_geo", "speed"}
VERSIONS = {"2023-06-01", "2026-10-21"}
SAMPLING = {"temperature", "top_p", "top_k"}
EFFORTS = {"low", "medium", "high", "xhigh", "max"}
BLOCKS = {
    "text": {"text", "citations"},
    "image": {"source"},
    "document": {"source", "title", "context", "citations"},
    "tool_use": {"id", "name", "input"},
    "tool_result": {"tool_use_id", "content", "is_error"},
    "thinking": {"thinking", "signature"},
    "redacted_thinking": {"data"},
}
TOOL_FIELDS = {"type", "name", "description", "input_schema", "cache_control", "strict"}
MEDIA = {"image/jpeg", "image/png", "image/gif", "image/webp"}
SIGNATURE = "EqQBCgIYAhIM"
"""What thinking is signed with; given back with another one, it is refused."""
_CALL = re.compile(r"^call +([A-Za-z0-9_-]+) *(\{.*\})? *$")
_NAME = re.compile(r"^[a-zA-Z0-9_-]{1,128}$")


class ApiError(Exception):
    """An error as Anthropic answers it."""

    def __init__(self, status: int, message: str, headers: tuple[Header, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers

    def as_json(self) -> Json:
        return {"type": "error", "error": {"type": ERRORS.get(self.status, "api_error"), "message": self.message}}


@dataclass(frozen=True)
class Directive:
    """What a text may ask for that is nothing but `{"claude": {...}}`."""

    status: int = 200
    retry_after: str = ""
    say: str | None = None
    think: str = ""
    """Thinking before the answer; also without being asked."""
    call: tuple[Json, ...] = ()
    """Tools to call, `{"name": ..., "input": {...}}` each, after the text."""
    stop_reason: str = ""
    chunk_ms: float = 0
    chunk_bytes: int = 0
    """Write a stream in pieces of so many bytes."""
    die_after_events: int | None = None
    error_after_events: int | None = None


class Anthropic:
    """The ASGI application."""

    def __init__(self, models: tuple[str, ...], key: str) -> None:
        self._models = models
        self._key = key
        self._number = 0
        self._cached: set[str] = set()
        self.calls = 0
        self.client_gone = 0
        self.in_flight = 0
        self.by_status: dict[str, int] = {}
        self.last: Json = {}

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = await read_body(receive)
        gone = asyncio.ensure_future(until_gone(receive))
        self._number += 1
        ident = f"011CFake{self._number:08d}"
        self.in_flight += 1

        async def counted(message: Json) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"request-id", f"req_{ident}".encode())]
                if scope["path"].startswith("/v1/messages"):
                    status = str(message["status"])
                    self.by_status[status] = self.by_status.get(status, 0) + 1
            await send(message)

        try:
            await self._route(scope, body, ident, counted, gone)
        except ApiError as error:
            await send_json(counted, error.status, {**error.as_json(), "request_id": f"req_{ident}"}, error.headers)
        except ConnectionAbortedError:
            self.client_gone += 1
        finally:
            self.in_flight -= 1
            gone.cancel()

    async def _route(
        self, scope: Mapping[str, Any], body: bytes, ident: str, send: Send, gone: "asyncio.Future[None]"
    ) -> None:
        method, path = scope["method"], scope["path"]
        if path == "/stats/reset" and method == "POST":
            self.calls = self.client_gone = 0
            self.by_status, self.last, self._cached = {}, {}, set()
        if path in {"/stats", "/stats/reset"}:
            await send_json(send, 200, self._stats())
            return
        headers = dict(scope["headers"])
        self._authorise(headers)
        if (method, path) == ("GET", "/v1/models"):
            await send_json(send, 200, _models(self._models))
        elif (method, path) == ("POST", "/v1/messages"):
            self.calls += 1
            await self._messages(scope, headers, body, ident, send, gone)
        elif (method, path) == ("POST", "/v1/messages/count_tokens"):
            asked = self._parse(scope, headers, body, COUNTED)
            await send_json(send, 200, {"input_tokens": _count(asked)})
        else:
            raise ApiError(404, "Not Found")

    def _authorise(self, headers: Mapping[bytes, bytes]) -> None:
        bearer = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
        given = headers.get(b"x-api-key", bearer)
        if not given:
            raise ApiError(401, "x-api-key header is required")
        if given.decode() != self._key:
            raise ApiError(401, "invalid x-api-key")
        version = headers.get(b"anthropic-version", b"").decode()
        if not version:
            raise ApiError(400, "anthropic-version: header is required")
        if version not in VERSIONS:
            raise ApiError(400, f'anthropic-version: "{version}" is not a valid version')

    def _parse(self, scope: Mapping[str, Any], headers: Mapping[bytes, bytes], body: bytes, known: set[str]) -> Json:
        try:
            asked = json.loads(body)
        except ValueError:
            raise ApiError(400, "The request body is not valid JSON: unexpected character") from None
        secret = {b"x-api-key", b"authorization"}
        shown = {k.decode(): v.decode() for k, v in headers.items() if k not in secret}
        self.last = {"path": scope["path"], "headers": shown, "body": asked}
        check(asked, known, shown["anthropic-version"])
        if asked["model"] not in self._models:
            raise ApiError(404, f"model: {asked['model']}")
        return dict(asked)

    async def _messages(
        self, scope: Mapping[str, Any], headers: Mapping[bytes, bytes], body: bytes, ident: str, send: Send,
        gone: "asyncio.Future[None]",
    ) -> None:  # fmt: skip
        asked = self._parse(scope, headers, body, FIELDS)
        how = _directive(asked)
        if how.status != 200:
            after = ((b"retry-after", how.retry_after.encode()),) if how.retry_after else ()
            raise ApiError(how.status, MESSAGES.get(how.status, "Something is wrong."), after)
        made = _answer(asked, how)
        made |= {"id": f"msg_{ident}", "type": "message", "role": "assistant", "model": asked["model"]}
        made["usage"] |= self._cache(asked)
        limits = _limit_headers()
        if asked.get("stream") is True:
            await _stream(made, how, limits, send, gone)
        else:
            await pause(how.chunk_ms, gone)
            await send_json(send, 200, made, limits)

    def _cache(self, asked: Json) -> Json:
        """Return the input's tokens, parted as prompt caching does it."""
        tokens = _count(asked)
        marked = [b for b in _all_blocks(asked) if b.get("cache_control")]
        cached = sum(_tokens(str(b.get("text", ""))) for b in marked)
        key = json.dumps(marked)
        read = cached if marked and key in self._cached else 0
        self._cached.add(key)
        parts = {"cache_creation_input_tokens": cached - read, "cache_read_input_tokens": read}
        return {"input_tokens": tokens - cached, **parts}

    def _stats(self) -> Json:
        return {
            "calls": self.calls,
            "client_gone": self.client_gone,
            "in_flight": self.in_flight - 1,
            "by_status": self.by_status,
            "last": self.last,
        }


def check(asked: Any, known: set[str], version: str) -> None:
    """Refuse what Anthropic refuses, in its words; raise ApiError."""
    if not isinstance(asked, dict):
        raise ApiError(400, "Input should be a valid dictionary")
    for name in asked:
        if name not in known:
            raise ApiError(400, f"{name}: Extra inputs are not permitted")
    for name in ("model", "messages", *(("max_tokens",) if "max_tokens" in known else ())):
        if name not in asked:
            raise ApiError(400, f"{name}: Field required")
    _check_numbers(asked)
    _check_sampling(asked, version)
    _check_thinking(asked)
    _check_tools(asked)
    system = asked.get("system", "")
    if not isinstance(system, str):
        _check_blocks(system, "system", {"text"})
    if not isinstance(asked["messages"], list) or not asked["messages"]:
        raise ApiError(400, "messages: at least one message is required")
    for i, message in enumerate(asked["messages"]):
        _check_message(message, f"messages.{i}", version)
    _check_results(asked["messages"])


def _check_numbers(asked: Json) -> None:
    if "max_tokens" in asked and (not isinstance(asked["max_tokens"], int) or asked["max_tokens"] < 1):
        raise ApiError(400, "max_tokens: Input should be greater than or equal to 1")
    for i, stop in enumerate(asked.get("stop_sequences", ())):
        if not isinstance(stop, str) or not stop.strip():
            raise ApiError(400, f"stop_sequences.{i}: each stop sequence must contain non-whitespace")


def _check_sampling(asked: Json, version: str) -> None:
    for name in SAMPLING & asked.keys():
        if version == "2026-10-21":
            raise ApiError(400, f"{name}: Extra inputs are not permitted")
        if _is_modern(asked["model"]) and asked[name] != 1:
            raise ApiError(400, f"`{name}` is not supported by this model: leave it out")
    if not 0 <= asked.get("temperature", 1) <= 1:
        raise ApiError(400, "temperature: range: 0..1")


def _is_modern(model: str) -> bool:
    return not model.endswith("-4-5")


def _check_thinking(asked: Json) -> None:
    thinking = asked.get("thinking", {"type": "disabled"})
    kind, modern = thinking.get("type"), _is_modern(asked["model"])
    effort = asked.get("output_config", {}).get("effort")
    if kind not in {"enabled", "disabled", "adaptive"}:
        raise ApiError(400, "thinking.type: Input should be 'enabled', 'disabled' or 'adaptive'")
    if effort is not None and (effort not in EFFORTS or not modern):
        raise ApiError(400, "output_config.effort: This model does not support the effort parameter.")
    if kind == ("enabled" if modern else "adaptive"):
        raise ApiError(400, f'"thinking.type.{kind}" is not supported for this model.')
    if kind == "enabled":
        budget = thinking.get("budget_tokens", 0)
        if budget < 1024:
            raise ApiError(400, "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
        if budget >= asked.get("max_tokens", budget + 1):
            raise ApiError(400, "`max_tokens` must be greater than `thinking.budget_tokens`.")
        if asked.get("temperature", 1) != 1:
            raise ApiError(400, "`temperature` may only be set to 1 when thinking is enabled.")
    if kind != "disabled" and asked.get("tool_choice", {}).get("type") in {"any", "tool"}:
        raise ApiError(400, "Thinking may not be enabled when tool_choice forces tool use.")


def _check_tools(asked: Json) -> None:
    for i, tool in enumerate(asked.get("tools", ())):
        for name in tool:
            if name not in TOOL_FIELDS:
                raise ApiError(400, f"tools.{i}.custom.{name}: Extra inputs are not permitted")
        if not _NAME.match(str(tool.get("name", ""))):
            raise ApiError(400, f"tools.{i}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
        if tool.get("input_schema", {}).get("type") != "object":
            raise ApiError(400, f"tools.{i}.custom.input_schema.type: Input should be 'object'")
    choice = asked.get("tool_choice")
    if choice is not None:
        if choice.get("type") not in {"auto", "any", "tool", "none"}:
            raise ApiError(400, "tool_choice: Input tag found does not match any of the expected tags")
        if not asked.get("tools"):
            raise ApiError(400, "tool_choice: may only be specified while providing tools")


def _check_message(message: Json, path: str, version: str) -> None:
    if message.get("role") not in {"user", "assistant"}:
        raise ApiError(400, f'{path}.role: Input should be "user" or "assistant"')
    content = message.get("content")
    if isinstance(content, str):
        if not content:
            raise ApiError(400, f"{path}: all messages must have non-empty content")
        return
    if not isinstance(content, list) or not content:
        raise ApiError(400, f"{path}: all messages must have non-empty content")
    if message["role"] == "user":
        _check_blocks(content, f"{path}.content", {"text", "image", "document", "tool_result"})
        if version == "2026-10-21" and any(b.get("citations") for b in content if b["type"] == "text"):
            raise ApiError(400, f"{path}.content: citations are not permitted in a user message")
    else:
        older = {"document"} if version == "2023-06-01" else set()
        _check_blocks(content, f"{path}.content", {"text", "tool_use", "thinking", "redacted_thinking"} | older)


def _check_blocks(blocks: list[Json], path: str, kinds: set[str]) -> None:
    for k, block in enumerate(blocks):
        kind = block.get("type")
        if kind not in kinds:
            raise ApiError(400, f"{path}.{k}: Input tag '{kind}' found using 'type' does not match the expected tags")
        for name in block.keys() - {"type", "cache_control"}:
            if name not in BLOCKS[kind]:
                raise ApiError(400, f"{path}.{k}.{kind}.{name}: Extra inputs are not permitted")
        if kind == "text" and not block.get("text"):
            raise ApiError(400, "messages: text content blocks must be non-empty")
        if kind == "image":
            _check_image(block["source"], f"{path}.{k}.image.source")
        if kind == "thinking" and block.get("signature") != SIGNATURE:
            raise ApiError(400, f"{path}.{k}: Invalid `signature` in `thinking` block")
        if kind == "tool_use" and not isinstance(block.get("input"), dict):
            raise ApiError(400, f"{path}.{k}.tool_use.input: Input should be a valid dictionary")
        if kind == "tool_result" and isinstance(block.get("content"), list):
            _check_blocks(block["content"], f"{path}.{k}.tool_result.content", {"text", "image", "document"})


def _check_image(source: Json, path: str) -> None:
    if source.get("type") == "base64" and source.get("media_type") not in MEDIA:
        raise ApiError(400, f"{path}.base64.media_type: Input should be one of {', '.join(sorted(MEDIA))}")
    if source.get("type") not in {"base64", "url"}:
        raise ApiError(400, f"{path}: Input tag found using 'type' does not match the expected tags")


def _check_results(messages: list[Json]) -> None:
    """Each call has its result at the start of the next message, and each result its call."""
    open_calls: list[str] = []
    for i, message in enumerate(messages):
        blocks = message["content"] if isinstance(message["content"], list) else []
        results = [b["tool_use_id"] for b in blocks if b["type"] == "tool_result"]
        for k, ident in enumerate(results):
            if ident not in open_calls:
                text = f"messages.{i}.content.{k}: unexpected `tool_use_id` found in `tool_result` blocks: {ident}."
                raise ApiError(400, text)
        missing = [ident for ident in open_calls if ident not in results]
        if missing:
            text = "`tool_use` ids were found without `tool_result` blocks immediately after"
            raise ApiError(400, f"messages.{i - 1}: {text}: {', '.join(missing)}.")
        first_other = next((k for k, b in enumerate(blocks) if b["type"] != "tool_result"), len(blocks))
        if results and len(results) > first_other:
            raise ApiError(400, f"messages.{i}: `tool_result` blocks must come first")
        open_calls = [b["id"] for b in blocks if b["type"] == "tool_use"]


def _all_blocks(asked: Json) -> Iterator[Json]:
    for content in (asked.get("system", ""), *(m["content"] for m in asked["messages"])):
        yield from content if isinstance(content, list) else [{"type": "text", "text": content}]
    yield from asked.get("tools", ())


def _tokens(text: str) -> int:
    return len(re.findall(r"\s*\S+|\s+$", text))


def _count(asked: Json) -> int:
    words = sum(_tokens(json.dumps(b, ensure_ascii=False)) for b in _all_blocks(asked) if b.get("type") != "text")
    return words + sum(_tokens(str(b.get("text", ""))) for b in _all_blocks(asked))


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    return "".join(b.get("text", "") for b in content if b.get("type") == "text") if isinstance(content, list) else ""


def _directive(asked: Json) -> Directive:
    users = [m for m in asked["messages"] if m["role"] == "user" and _text(m["content"])]
    try:
        parsed = json.loads(_text(users[-1]["content"])) if users else {}
    except ValueError:
        return Directive()
    how = parsed.get("claude") if isinstance(parsed, dict) else None
    known = {f.name for f in fields(Directive)}
    return Directive(**{k: v for k, v in how.items() if k in known}) if isinstance(how, dict) else Directive()


def _answer(asked: Json, how: Directive) -> Json:
    """Return content, reasons and output tokens of what the model says."""
    thinks = how.think or ("Let me see." if asked.get("thinking", {}).get("type") in {"enabled", "adaptive"} else "")
    content: list[Json] = [{"type": "thinking", "thinking": thinks, "signature": SIGNATURE}] if thinks else []
    calls = _calls(asked, how)
    text, reason, sequence = ("", "tool_use", None) if calls else _said(asked, how)
    if how.say is not None and calls:
        text = how.say
    if text:
        content.append({"type": "text", "text": text})
    content += [
        {"type": "tool_use", "id": f"toolu_{i:02d}{int(time.time())}", "name": c["name"], "input": c.get("input", {})}
        for i, c in enumerate(calls)
    ]
    usage: Json = {"output_tokens": sum(_tokens(json.dumps(b)) for b in content) or 1, "service_tier": "standard"}
    if thinks:
        usage["output_tokens_details"] = {"thinking_tokens": _tokens(thinks)}
    return {"content": content, "stop_reason": how.stop_reason or reason, "stop_sequence": sequence, "usage": usage}


def _said(asked: Json, how: Directive) -> tuple[str, str, str | None]:
    last = asked["messages"][-1]["content"]
    results = [b for b in last if b["type"] == "tool_result"] if isinstance(last, list) else []
    if how.say is not None:
        text = how.say
    elif results:
        text = " ".join(f"{b['tool_use_id']} gave {_text(b.get('content', ''))}" for b in results)
    elif asked.get("output_config", {}).get("format"):
        text = json.dumps({"answer": _text(last)}, ensure_ascii=False)
    else:
        text = f"This is no Claude. You said: {_text(last)}"
    found = [(at, stop) for stop in asked.get("stop_sequences", ()) if (at := text.find(stop)) >= 0]
    if found:
        at, stop = min(found)
        return text[:at], "stop_sequence", stop
    pieces = re.findall(r"\s*\S+|\s+$", text)
    if len(pieces) > asked["max_tokens"]:
        return "".join(pieces[: asked["max_tokens"]]), "max_tokens", None
    return text, "end_turn", None


def _calls(asked: Json, how: Directive) -> list[Json]:
    offered = {tool["name"] for tool in asked.get("tools", ())}
    choice = asked.get("tool_choice", {"type": "auto"})
    if not offered or choice["type"] == "none":
        return []
    last = asked["messages"][-1]
    said = (
        ""
        if isinstance(last["content"], list) and last["content"][0]["type"] == "tool_result"
        else _text(last["content"])
    )
    calls = [
        {"name": m[1], "input": json.loads(m[2] or "{}")}
        for line in said.split("\n")
        if (m := _CALL.match(line.strip()))
    ]
    calls = [c for c in (*how.call, *calls) if c["name"] in offered]
    if choice["type"] == "tool":
        given = [c for c in calls if c["name"] == choice["name"]]
        calls = given[:1] or [{"name": choice["name"], "input": {"said": said}}]
    if choice["type"] == "any" and not calls:
        calls = [{"name": min(offered), "input": {"said": said}}]
    return calls[:1] if choice.get("disable_parallel_tool_use") else calls


def _limit_headers() -> tuple[Header, ...]:
    reset = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 60)).encode()
    made: list[Header] = []
    for kind, limit, left in ((b"requests", b"50", b"49"), (b"tokens", b"80000", b"79000")):
        values = ((b"limit", limit), (b"remaining", left), (b"reset", reset))
        made += [(b"anthropic-ratelimit-%b-%b" % (kind, name), value) for name, value in values]
    return (*made, (b"anthropic-organization-id", b"org-fake"))


def _events(made: Json) -> Iterator[Json]:
    """Yield the events of a streamed message."""
    usage = made["usage"]
    start = {**made, "content": [], "stop_reason": None, "stop_sequence": None, "usage": {**usage, "output_tokens": 1}}
    yield {"type": "message_start", "message": start}
    for i, block in enumerate(made["content"]):
        empty, deltas = _pieces(block)
        yield {"type": "content_block_start", "index": i, "content_block": empty}
        if i == 0:
            yield {"type": "ping"}
        yield from ({"type": "content_block_delta", "index": i, "delta": delta} for delta in deltas)
        yield {"type": "content_block_stop", "index": i}
    delta = {"stop_reason": made["stop_reason"], "stop_sequence": made["stop_sequence"]}
    total = {k: v for k, v in usage.items() if k in {"output_tokens", "output_tokens_details"}}
    yield {"type": "message_delta", "delta": delta, "usage": total}
    yield {"type": "message_stop"}


def _pieces(block: Json) -> tuple[Json, list[Json]]:
    if block["type"] == "text":
        pieces = re.findall(r"\s*\S+|\s+$", block["text"])
        return {"type": "text", "text": ""}, [{"type": "text_delta", "text": p} for p in pieces]
    if block["type"] == "thinking":
        pieces = re.findall(r"\s*\S+|\s+$", block["thinking"])
        deltas: list[Json] = [{"type": "thinking_delta", "thinking": p} for p in pieces]
        signature = {"type": "signature_delta", "signature": block["signature"]}
        return {"type": "thinking", "thinking": "", "signature": ""}, [*deltas, signature]
    text = json.dumps(block["input"], ensure_ascii=False) if block["input"] else ""
    pieces = ["", *(text[i : i + 5] for i in range(0, len(text), 5))]
    return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": p} for p in pieces]


async def _stream(
    made: Json, how: Directive, limits: tuple[Header, ...], send: Send, gone: "asyncio.Future[None]"
) -> None:
    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"), *limits]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async for data in _paced(made, how, gone):
        size = how.chunk_bytes or len(data)
        for at in range(0, len(data), size):
            await send({"type": "http.response.body", "body": data[at : at + size], "more_body": True})
            if how.chunk_bytes:
                await asyncio.sleep(0)  # each piece a write of its own
    if how.die_after_events is None:
        await send({"type": "http.response.body", "body": b""})


async def _paced(made: Json, how: Directive, gone: "asyncio.Future[None]") -> AsyncIterator[bytes]:
    for number, event in enumerate(_events(made)):
        if number == how.die_after_events:
            return
        if number == how.error_after_events:
            yield _sse({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
            return
        if number:
            await pause(how.chunk_ms, gone)
        yield _sse(event)


def _sse(event: Json) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode()


def _models(names: tuple[str, ...]) -> Json:
    data = [
        {"type": "model", "id": n, "display_name": n, "created_at": "2025-02-19T00:00:00Z", "lifecycle": "active"}
        for n in names
    ]
    return {"data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", action="append", default=[], help="default: claude-fake-5 and claude-fake-4-5")
    parser.add_argument("--key", required=True, help="the only valid key")
    flags = parser.parse_args()
    app = Anthropic(tuple(flags.model) or ("claude-fake-5", "claude-fake-4-5"), flags.key)
    serve(app, "Anthropic", flags.host, flags.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
