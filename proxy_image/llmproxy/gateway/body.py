"""The request's body: read only what the gateway must know, change only what it must change. Pure.

Top-level values stay the bytes that came (msgspec.Raw): a conversation of 64 KB is scanned once and never rebuilt.
"""

import json
from typing import Any

import msgspec

from llmproxy.gateway.errors import BadRequestError
from llmproxy.gateway.targets import Target

Fields = dict[str, msgspec.Raw]
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_str = msgspec.json.Decoder(str).decode
_decode_bool = msgspec.json.Decoder(bool | None).decode
_decode_count = msgspec.json.Decoder(int | None).decode
_encode = msgspec.json.encode

TRUE = msgspec.Raw(b"true")
ONE = msgspec.Raw(b"1")
_OVERRIDES = ("num_retries", "timeout", "max_retries", "api_base", "base_url", "api_key", "mock_response", "fallbacks")
"""LiteLLM reads these from a body; retries, addresses and keys are the proxy's, so they never leave the gateway."""


class Asked(msgspec.Struct):
    """What a body asks for, and its fields."""

    model: str
    stream: bool
    choices: int
    max_tokens: int | None
    fields: Fields
    usage_asked: bool
    """Whether the client wants the stream's last chunk with the usage."""


def read_body(body: bytes, path_model: str = "") -> Asked:
    """Return what *body* asks for, of *path_model* if it names no model; raise BadRequestError naming the field."""
    try:
        fields = _decode_fields(body)
    except msgspec.MsgspecError as exc:
        raise BadRequestError(f"the body must be a JSON object: {exc}") from exc
    if body.count(b'"model"') > 1:
        _refuse_doubled_model(body)
    model = _field(fields, "model", _decode_str, "a string") or path_model
    if not model:
        raise BadRequestError("model is missing: name one of GET /v1/models", param="model")
    stream = bool(_field(fields, "stream", _decode_bool, "true or false"))
    choices = _field(fields, "n", _decode_count, "a whole number") or 1
    limit = _field(fields, "max_completion_tokens", _decode_count, "a whole number")
    if limit is None:
        limit = _field(fields, "max_tokens", _decode_count, "a whole number")
    if choices < 1 or (limit is not None and limit < 0):
        raise BadRequestError("n and max_tokens must not be negative", param="n" if choices < 1 else "max_tokens")
    usage = stream and "stream_options" in fields and _usage_asked(fields["stream_options"])
    return Asked(model, stream, choices, limit, fields, usage)


def upstream_body(asked: Asked, target: Target, endpoint: str, *, want_usage: bool) -> bytes:
    """Return the body for *target*: its own name of the model, its params where the client said nothing."""
    fields = dict(asked.fields)
    for name in _OVERRIDES:
        fields.pop(name, None)
    for name, value in target.params.items():
        fields.setdefault(name, value)
    fields["model"] = target.model_json
    if target.deployment.token_ids and endpoint != "embeddings":
        fields.setdefault("return_token_ids", TRUE)
        # A number in the older completions API, true or false in chat.
        fields.setdefault("logprobs", TRUE if endpoint == "chat.completions" else ONE)
    if asked.stream and want_usage and not asked.usage_asked:
        options = _options(fields.get("stream_options"))
        options["include_usage"] = True
        fields["stream_options"] = msgspec.Raw(_encode(options))
    return _encode(fields)


def _field(fields: Fields, name: str, decode: Any, what: str) -> Any:
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return decode(raw)
    except msgspec.MsgspecError as exc:
        raise BadRequestError(f"{name} must be {what}", param=name) from exc


def _options(raw: msgspec.Raw | None) -> dict[str, Any]:
    try:
        options = msgspec.json.decode(raw) if raw is not None else {}
    except msgspec.MsgspecError:
        return {}
    return options if isinstance(options, dict) else {}


def _usage_asked(raw: msgspec.Raw) -> bool:
    return _options(raw).get("include_usage") is True


def _refuse_doubled_model(body: bytes) -> None:
    """Two `model` keys mean one thing to us and perhaps another to the upstream: limits could be walked around."""

    def check(pairs: list[tuple[str, Any]]) -> list[str]:
        return [name for name, _ in pairs]

    names = json.loads(body, object_pairs_hook=check)
    if names.count("model") > 1:
        raise BadRequestError("model is there twice in the body: send it once", param="model")
