"""The request's body: read only what the gateway must know, change only what it must change. Pure.

Top-level values stay the bytes that came (msgspec.Raw): a conversation of 64 KB is scanned once and never rebuilt.
"""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from llmproxy.gateway.errors import BadRequestError
from llmproxy.gateway.targets import Target

T = TypeVar("T")
Fields = dict[str, msgspec.Raw]
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_str = msgspec.json.Decoder(str).decode
_decode_bool = msgspec.json.Decoder(bool | None).decode
_decode_count = msgspec.json.Decoder(int | None).decode
_encode = msgspec.json.encode

TRUE = msgspec.Raw(b"true")
ONE = msgspec.Raw(b"1")
_OVERRIDES = frozenset(
    {"num_retries", "timeout", "max_retries", "api_base", "base_url", "api_key", "mock_response", "fallbacks"}
)
"""LiteLLM reads these from a body; retries, addresses and keys are the proxy's, so they never leave the gateway."""


_WITHOUT_TOKEN_IDS = frozenset({"embeddings", "responses"})
"""Endpoints where no server knows `return_token_ids`."""


class Asked(msgspec.Struct):
    """What a body asks for, and its fields."""

    model: str
    stream: bool
    choices: int
    """Answers that are asked for: `n`, for each prompt."""
    max_tokens: int | None
    fields: Fields
    usage_asked: bool
    """Whether the client wants the stream's last chunk with the usage."""
    passed: bytes = b""
    """Lines of the client's head that are for an upstream of its protocol."""


def read_body(
    body: bytes, path_model: str = "", *, limits: tuple[str, ...] = ("max_completion_tokens", "max_tokens")
) -> Asked:
    """Return what *body* asks for; *path_model* is the model if the path names one. Raise BadRequestError.

    The first of *limits* that is there bounds the answer's tokens.
    """
    fields = read_fields(body)
    model = path_model or _field(fields, "model", _decode_str, "a string")
    if not model:
        raise BadRequestError("model is missing: name one of GET /v1/models", param="model")
    stream = bool(_field(fields, "stream", _decode_bool, "true or false"))
    choices = _field(fields, "n", _decode_count, "a whole number") or 1
    limit = None
    for name in limits:
        if limit is None:
            limit = _field(fields, name, _decode_count, "a whole number")
    if choices < 1 or (limit is not None and limit < 0):
        wrong = "n" if choices < 1 else limits[-1]
        raise BadRequestError(f"n and {limits[-1]} must not be negative", param=wrong)
    if "prompt" in fields:
        choices *= _prompts(fields["prompt"])
    usage = stream and "stream_options" in fields and _usage_asked(fields["stream_options"])
    return Asked(model, stream, choices, limit, fields, usage)


def read_fields(body: bytes) -> Fields:
    """Return the fields of the JSON object *body*; raise BadRequestError, also for a name that is there twice."""
    try:
        fields = _decode_fields(body)
        if not body.isascii():
            body.decode()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise BadRequestError(f"the body must be a JSON object in UTF-8: {exc}") from exc
    spare = len(body) - len(_encode(fields))
    if spare and not (spare == 2 * len(fields) - 1 and _is_spaced(body, fields)):
        _refuse_doubled(body)
    return fields


def upstream_body(
    asked: Asked, target: Target, endpoint: str, *, want_usage: bool, params: Fields | None = None
) -> bytes:
    """Return the body for *target*: its own name of the model, *params* (its own) where the client said nothing."""
    fields = dict(asked.fields)
    if not _OVERRIDES.isdisjoint(fields):
        fields = {name: value for name, value in fields.items() if name not in _OVERRIDES}
    for name, value in (target.params if params is None else params).items():
        fields.setdefault(name, value)
    fields["model"] = target.model_json
    if target.deployment.token_ids and endpoint not in _WITHOUT_TOKEN_IDS:
        fields.setdefault("return_token_ids", TRUE)
        # A number in the older completions API, true or false in chat.
        fields.setdefault("logprobs", TRUE if endpoint == "chat.completions" else ONE)
    if asked.stream and want_usage and target.stream_options and not asked.usage_asked:
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


def _prompts(raw: msgspec.Raw) -> int:
    """Return how many prompts a completion has: a text or a list of token ids is one, a list of these is several."""
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


def _usage_asked(raw: msgspec.Raw) -> bool:
    return _options(raw).get("include_usage") is True


def _is_spaced(body: bytes, fields: Fields) -> bool:
    """Whether the object is written as Python's json does: a blank after each colon and comma, none elsewhere."""
    return body.startswith(b'{"%b": ' % next(iter(fields)).encode())


def _refuse_doubled(body: bytes) -> None:
    """Two fields of a name mean one thing to us and perhaps another to the upstream: limits could be walked around."""
    try:
        pairs = json.loads(body, object_pairs_hook=list)
    except (ValueError, RecursionError) as exc:
        raise BadRequestError(f"the body must be a JSON object: {exc}") from exc
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise BadRequestError(f"{name} is there twice in the body: send it once", param=name)
        seen.add(name)
