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
_STATUS |= {"overloaded": 503, "server_error": 500, "rate_limit_exceeded": 429, "insufficient_quota": 429}
_SERVER = 500
_BAD_GATEWAY = 502
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


def error_status(error: object) -> int:
    """Return the status of an error that came inside an answer: by its code, by its type, else 502."""
    if not isinstance(error, dict):
        return _BAD_GATEWAY
    for code in (error.get("code"), error.get("status"), error.get("status_code")):
        if isinstance(code, int | str) and str(code).isdecimal() and 400 <= int(code) < 600:  # noqa: PLR2004
            return int(code)
    for kind in (error.get("type"), error.get("code")):
        if isinstance(kind, str) and kind in _STATUS:
            return _STATUS[kind]
    return _BAD_GATEWAY


def error_message(body: bytes) -> str:
    """Return the words of an error's body: the message in it, else its text."""
    try:
        content = decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return body.decode("utf-8", "replace").strip()[:MAX_TEXT]
    return message_of(content)


def message_of(content: object) -> str:
    """Return the message of an error: nested at OpenAI and Anthropic, `detail` at FastAPI, flat at older vLLM."""
    if not isinstance(content, dict):
        return content if isinstance(content, str) else ""
    for part in (content.get("error"), content.get("detail"), content):
        if isinstance(part, str):
            return part
        if isinstance(part, dict) and isinstance(part.get("message"), str):
            return str(part["message"])
    return encode(content).decode()[:MAX_TEXT]
