"""Body of a request: parse only what the gateway must know, change only what it must change. Pure.

Top-level values stay the bytes that came (msgspec.Raw): a conversation of 64 KB is scanned once and never rebuilt.
"""

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from llmproxy.gateway.errors import BadRequestError, TooLargeError
from llmproxy.gateway.upstreams.deployments import Upstream

T = TypeVar("T")
Fields = dict[str, msgspec.Raw]
_decode_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_str: Final = msgspec.json.Decoder(str).decode
_decode_bool: Final = msgspec.json.Decoder(bool | None).decode
_decode_count: Final = msgspec.json.Decoder(int | None).decode
_encode: Final = msgspec.json.encode

MAX_VALUES = 300_000
"""Values of a body. Token ids of a prompt are values; text is none."""
MAX_MAPPED_VALUES = 100_000
"""Values of a body that is decoded whole, to be mapped to another protocol."""
MAX_FIELDS = 1000
_STEP: Final = 1 << 20
_FEW_QUOTES: Final = 2000
_BACKSLASH: Final = ord("\\")
# Possessive: a repeat that can be given up keeps 100 bytes for each character.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_KEY: Final = re.compile(rb'[ \t\r\n]*+("[^"\\]*+(?:\\.[^"\\]*+)*+")[ \t\r\n]*+:[ \t\r\n]*+', re.DOTALL)
_AFTER_VALUE: Final = re.compile(rb"[ \t\r\n]*+[,}]")

TRUE: Final = msgspec.Raw(b"true")
ONE: Final = msgspec.Raw(b"1")
OVERRIDES: Final = frozenset(
    (
        *("num_retries", "max_retries", "retry_policy", "retry_strategy", "cooldown_time"),
        *("timeout", "request_timeout", "stream_timeout", "force_timeout"),
        *("api_base", "base_url", "api_key", "api_version", "custom_llm_provider", "litellm_credential_name"),
        *("model_list", "headers", "extra_headers"),
        *("fallbacks", "max_fallbacks", "default_fallbacks", "disable_fallbacks"),
        *("context_window_fallbacks", "content_policy_fallbacks", "context_window_fallback_dict"),
        *("mock_response", "mock_tool_calls", "mock_timeout", "mock_testing_fallbacks"),
        *("mock_testing_context_fallbacks", "mock_testing_content_policy_fallbacks", "mock_testing_rate_limit_error"),
    )
)
"""LiteLLM reads these from a body. Retries, times, addresses, keys and fallbacks are the proxy's: they are removed."""


_BOUNDS: Final = frozenset({"max_tokens", "max_completion_tokens", "max_output_tokens"})
_WITHOUT_TOKEN_IDS: Final = frozenset({"embeddings", "responses"})
"""Endpoints where no server knows `return_token_ids`."""


class ModelRequest(msgspec.Struct):
    """Request to a model: the parsed parts of a body, and its fields."""

    model: str
    stream: bool
    choices: int
    """Most answers: `n`, or `best_of`, for each prompt."""
    max_tokens: int | None
    fields: Fields
    include_usage: bool
    """The client wants the stream's last chunk with the usage."""
    header_lines: bytes = b""
    """Headers of the client for an upstream of the same protocol."""


def parse_request(
    body: bytes, path_model: str = "", *, limits: tuple[str, ...] = ("max_completion_tokens", "max_tokens")
) -> ModelRequest:
    """Return the request in *body*; *path_model* is the model if the path names one. Raise BadRequestError.

    The largest of the fields *limits* bounds the tokens of an answer: a server may read any one of them. Fields that
    would override the proxy's own settings are removed.
    """
    fields = read_fields(body)
    if not OVERRIDES.isdisjoint(fields):
        fields = {name: value for name, value in fields.items() if name not in OVERRIDES}
    model = path_model or _field(fields, "model", _decode_str, "a string")
    if not model:
        raise BadRequestError("model is missing: name one of GET /v1/models", param="model")
    stream = bool(_field(fields, "stream", _decode_bool, "true or false"))
    choices = _count(fields, "n") or 1
    limit = None
    for name in limits:
        count = _count(fields, name)
        if count is not None and (limit is None or count > limit):
            limit = count
    if "prompt" in fields:
        choices = max(choices, _count(fields, "best_of") or 1) * _prompts(fields["prompt"])
    usage = stream and "stream_options" in fields and _include_usage(fields["stream_options"])
    return ModelRequest(model, stream, choices, limit, fields, usage)


def read_fields(body: bytes) -> Fields:
    """Return the fields of the JSON object *body*; raise BadRequestError, also for a duplicate name."""
    bound_values(body, MAX_VALUES)
    try:
        fields = _decode_fields(body)
        if not body.isascii():
            body.decode()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise BadRequestError(f"the body must be a JSON object in UTF-8: {exc}") from exc
    if len(fields) > MAX_FIELDS:
        raise BadRequestError(f"the body has more than {MAX_FIELDS} fields")
    spare = len(body) - _min_size(fields)
    if spare and not (spare == 2 * len(fields) - 1 and _is_spaced(body, fields)):
        _reject_duplicates(body, fields)
    return fields


def bound_values(raw: bytes | msgspec.Raw, limit: int) -> None:
    """Raise TooLargeError for JSON with more than *limit* values: each takes up to 100 bytes and 1 us once decoded.

    Separators are counted, first with those in strings, which is quick and mostly enough.
    """
    data = raw if isinstance(raw, bytes) else bytes(raw)
    size = len(data)
    if size // 2 <= limit or _separators(data, 0, size, limit) <= limit:
        return
    quotes = data.count(b'"')
    strings = (quotes - data.count(b'\\"')) // 2
    if strings <= limit + 1:  # of n values n - 1 have a separator
        if quotes < _FEW_QUOTES:
            count = _separators_outside(data, limit)
        else:
            bare = _STRING.sub(b"", data)
            count = _separators(bare, 0, len(bare), limit)
        if count <= limit:
            return
    raise TooLargeError(f"the body has more than {limit} values, the most this gateway reads: send less at a time")


def _separators_outside(data: bytes, limit: int) -> int:
    """Return the number of separators outside of strings; quick where these are few and long."""
    count = end = 0
    while count <= limit:
        start = data.find(b'"', end)
        if start < 0:
            return count + _separators(data, end, len(data), limit)
        count += _separators(data, end, start, limit)
        end = _end_of_string(data, start + 1)
    return count


def _end_of_string(data: bytes, start: int) -> int:
    """Return the end of the string whose content begins at *start*."""
    at = start
    while True:
        at = data.find(b'"', at)
        if at < 0:
            return len(data)
        escapes = at
        while escapes > start and data[escapes - 1] == _BACKSLASH:
            escapes -= 1
        at += 1
        if (at - 1 - escapes) % 2 == 0:
            return at


def _separators(data: bytes, start: int, end: int, limit: int) -> int:
    """Return the number of commas and colons; stop soon after *limit*, since many take long to count."""
    count = 0
    for at in range(start, end, _STEP):
        to = min(at + _STEP, end)
        count += data.count(b",", at, to) + data.count(b":", at, to)
        if count > limit:
            break
    return count


def _min_size(fields: Fields) -> int:
    """Return the size of an object of *fields* without a blank, or less: a body that has no more has no duplicates."""
    size = 1
    for name, value in fields.items():
        size += len(name) + len(value) + 4
    return size if fields else 2


def upstream_body(
    request: ModelRequest, upstream: Upstream, endpoint: str, *, want_usage: bool, params: Fields | None = None
) -> bytes:
    """Return the body for *upstream*: its name of the model, *params* (default: its own) for absent fields."""
    fields = dict(request.fields)
    for name, value in (upstream.params if params is None else params).items():
        if request.max_tokens is None or name not in _BOUNDS:  # a second bound beside the client's
            fields.setdefault(name, value)
    fields["model"] = upstream.model_json
    if upstream.token_ids and endpoint not in _WITHOUT_TOKEN_IDS:
        fields.setdefault("return_token_ids", TRUE)
        # A number in the older completions API, true or false in chat.
        fields.setdefault("logprobs", TRUE if endpoint == "chat.completions" else ONE)
    if request.stream and want_usage and upstream.stream_options and not request.include_usage:
        options = _options(fields.get("stream_options"))
        options["include_usage"] = True
        fields["stream_options"] = msgspec.Raw(_encode(options))
    return _encode(fields)


def _field(fields: Fields, name: str, decode: Callable[[msgspec.Raw], T], what: str) -> T | None:
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return decode(raw)
    except msgspec.MsgspecError as exc:
        raise BadRequestError(f"{name} must be {what}", param=name) from exc


def _count(fields: Fields, name: str) -> int | None:
    if name not in fields:
        return None
    count = _field(fields, name, _decode_count, "a whole number")
    if count is not None and count < 0:
        raise BadRequestError(f"{name} must not be negative", param=name)
    return count


def _prompts(raw: msgspec.Raw) -> int:
    """Return the number of prompts: a text or a list of token ids is one, a list of these is several."""
    if bytes(memoryview(raw)[:1]) != b"[":
        return 1
    items = msgspec.json.decode(raw, type=list[msgspec.Raw])
    if not items or bytes(memoryview(items[0])[:1]) not in {b'"', b"["}:
        return 1
    return len(items)


def _options(raw: msgspec.Raw | None) -> dict[str, Any]:
    try:
        options = msgspec.json.decode(raw) if raw is not None else {}
    except msgspec.MsgspecError:
        return {}
    return options if isinstance(options, dict) else {}


def _include_usage(raw: msgspec.Raw) -> bool:
    return _options(raw).get("include_usage") is True


def _reject_duplicates(body: bytes, fields: Fields) -> None:
    """Raise BadRequestError for a duplicate name: gateway and upstream could read different ones, past the limits.

    The decoder has the last value of a name. Each value must stand where its name does: a name that is there twice has
    another value at its first place, or comes again.
    """
    names: set[str] = set()
    at = body.index(b"{") + 1
    while key := _KEY.match(body, at):
        quoted = key.group(1)
        name: str = _decode_str(quoted)
        value = memoryview(fields[name])
        start = key.end()
        end = start + len(value)
        after = _AFTER_VALUE.match(body, end)
        if name in names or after is None or not _is_at(body, start, value):
            raise BadRequestError(f"{name} is there twice in the body: send it once", param=name)
        names.add(name)
        at = after.end()


def _is_at(body: bytes, start: int, value: memoryview) -> bool:
    """Return True when *value* stands at *start*; compared in steps, without a copy of a large one."""
    size = len(value)
    return all(body.startswith(bytes(value[at : at + _STEP]), start + at) for at in range(0, size, _STEP))


def _is_spaced(body: bytes, fields: Fields) -> bool:
    """Return True for an object as Python's json writes it: a blank after each colon and comma, none elsewhere."""
    at = 1
    for name, value in fields.items():
        key = b'"%b": ' % name.encode()
        if not body.startswith(key, at):
            return False
        at += len(key) + len(value) + 2
    return True
