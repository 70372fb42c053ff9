"""Errors of one API in the shape of the other. The status stays; the words stay the upstream's.

Types and codes are those of Anthropic's "Errors" (docs.anthropic.com/en/api/errors) and OpenAI's "Error codes"
(platform.openai.com/docs/guides/error-codes). SDKs choose their exception by the status alone.
"""

import msgspec

from llmproxy.protocols.json_fields import Json, decode, encode

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_OPENAI = {
    400: ("invalid_request_error", "invalid_request"),
    401: ("invalid_request_error", "invalid_api_key"),
    402: ("insufficient_quota", "insufficient_quota"),
    403: ("invalid_request_error", "permission_denied"),
    404: ("invalid_request_error", "not_found"),
    413: ("invalid_request_error", "request_too_large"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    503: ("server_error", "overloaded"),
    504: ("server_error", "timeout"),
    529: ("server_error", "overloaded"),
}
_STATUS = {kind: status for status, kind in reversed(_TYPES.items())} | {"api_error": 500}
_SERVER = 500
MAX_TEXT = 2000
"""Characters of an error that is no JSON which are shown: a page of HTML helps nobody."""


def anthropic_type(status: int) -> str:
    """Return Anthropic's `error.type` for a status."""
    return _TYPES.get(status, "api_error" if status >= _SERVER else "invalid_request_error")


def anthropic_body(message: str, status: int) -> bytes:
    """Return an error as Anthropic's API writes it."""
    return encode(anthropic_error(message, anthropic_type(status)))


def anthropic_error(message: str, kind: str) -> Json:
    """Return the object of an error, which is also the data of an `error` event."""
    return {"type": "error", "error": {"type": kind, "message": message}}


def openai_error(message: str, status: int, kind: str = "") -> Json:
    """Return an error as OpenAI's API writes it."""
    fallback = ("server_error", "internal_error") if status >= _SERVER else _OPENAI[400]
    type_, code = _OPENAI.get(status, fallback)
    return {"error": {"message": message, "type": type_, "param": None, "code": kind or code}}


def to_anthropic(status: int, body: bytes) -> bytes:
    """Return an OpenAI-compatible upstream's error for an Anthropic client."""
    return anthropic_body(error_message(body) or f"the model server answered {status} without a message", status)


def to_openai(status: int, body: bytes) -> bytes:
    """Return an Anthropic upstream's error for an OpenAI client."""
    return encode(openai_error(error_message(body) or f"the model server answered {status} without a message", status))


def event_to_openai(content: object) -> Json:
    """Return the object of an `error` event for an OpenAI client."""
    error = content.get("error") if isinstance(content, dict) else None
    kind = error.get("type") if isinstance(error, dict) else None
    message = _message(content) or "the model server broke the stream off"
    return openai_error(message, _STATUS.get(str(kind), _SERVER))


def event_to_anthropic(content: object) -> Json:
    """Return the data of an `error` event for what an OpenAI-compatible upstream put into its stream."""
    error = content.get("error") if isinstance(content, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    status = code if isinstance(code, int) else _SERVER
    return anthropic_error(_message(content) or "the model server broke the stream off", anthropic_type(status))


def error_message(body: bytes) -> str:
    """Return the words of an error's body: the message in it, else its text."""
    try:
        content = decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return body.decode("utf-8", "replace").strip()[:MAX_TEXT]
    return _message(content)


def _message(content: object) -> str:
    """Find the message: OpenAI and Anthropic nest it, FastAPI calls it detail, older vLLM has it at the top."""
    if not isinstance(content, dict):
        return content if isinstance(content, str) else ""
    for part in (content.get("error"), content.get("detail"), content):
        if isinstance(part, str):
            return part
        if isinstance(part, dict) and isinstance(part.get("message"), str):
            return str(part["message"])
    return encode(content).decode()[:MAX_TEXT]
