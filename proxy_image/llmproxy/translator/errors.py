"""From what went wrong to an answer in OpenAI's shape, with the upstream's own status and Retry-After. Pure.

litellm turns a provider's 503 into 500 and leaves Retry-After behind, so what counts is what the transport saw; the
exception is asked only when no request was sent.
"""

import json
import math
import re
from dataclasses import dataclass
from typing import Any

MAX_MESSAGE = 2000
"""Characters of an upstream's message that are passed on."""

_KINDS = {
    400: ("invalid_request_error", "invalid_request"),
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", "permission_denied"),
    404: ("invalid_request_error", "not_found"),
    413: ("invalid_request_error", "request_too_large"),
    422: ("invalid_request_error", "invalid_request"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    502: ("upstream_error", "upstream_unavailable"),
    504: ("upstream_error", "upstream_timeout"),
}
_FORWARDED = ("retry-after", "retry-after-ms", "x-request-id")
_LIMITS = "ratelimit"
_PREFIX = re.compile(r"^(?:litellm\.)?\w*(?:Error|Exception): *")
_ADVICE = re.compile(r"\s*To drop these, set .*", re.DOTALL)
"""litellm's advice speaks of settings that nobody has here."""
_SERVER_ERROR = 500


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """An answer that is an error."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def body(self) -> bytes:
        """Return `{"error": {message, type, param, code}}`."""
        kind, code = _KINDS.get(self.status, ("upstream_error" if self.status >= _SERVER_ERROR else "api_error", None))
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code or code}
        return json.dumps({"error": error}).encode()


def forwarded(headers: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Return those of a provider's *headers* that go to the caller: limits, and when to try again."""
    return tuple((n, v) for n, v in headers.items() if (n in _FORWARDED or _LIMITS in n) and v.isascii())


def upstream_refused(provider: str, status: int, headers: dict[str, str], body: bytes) -> ErrorResponse:
    """Return the error of *provider* itself."""
    error = _error_in(body)
    message = str(error.get("message") or body.decode(errors="replace").strip() or "no reason given")[:MAX_MESSAGE]
    code = error.get("status")
    lines = forwarded(headers)
    if "retry-after" not in headers and (wait_s := _retry_info_s(error)) is not None:
        lines += (("retry-after", str(math.ceil(wait_s))), ("retry-after-ms", str(math.ceil(wait_s * 1000))))
    return ErrorResponse(status, f"{provider}: {message}", code if isinstance(code, str) else None, headers=lines)


def upstream_failed(provider: str, failure: str) -> ErrorResponse:
    """Return that *provider* gave no answer, or broke one off: `timeout`, or in words."""
    if failure == "timeout":
        return ErrorResponse(504, f"{provider} did not answer in time; raise the deployment's timeout or ask for less")
    return ErrorResponse(502, f"{provider}: {failure}")


def not_sent(provider: str, status: object, message: str) -> ErrorResponse:
    """Return that a request could not be translated: *status* and *message* of litellm's exception.

    Nothing was sent, so it is the caller's error: another attempt fails too, and the deployment is well.
    """
    text = message
    while (shorter := _PREFIX.sub("", text)) != text:
        text = shorter
    text = _ADVICE.sub("", text).partition("\nTraceback")[0].strip() or "the request cannot be translated"
    code = status if isinstance(status, int) and 400 <= status < _SERVER_ERROR else 400  # noqa: PLR2004
    return ErrorResponse(code, f"{provider}: {text[:MAX_MESSAGE]}")


def _error_in(body: bytes) -> dict[str, Any]:
    """Return the error object: Google has it under `error`, Cohere writes it bare."""
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    if isinstance(value, list) and value:
        value = value[0]
    inner = value.get("error", value) if isinstance(value, dict) else {}
    return inner if isinstance(inner, dict) else {"message": inner}


def _retry_info_s(error: dict[str, Any]) -> float | None:
    """Return the delay of google.rpc.RetryInfo in seconds: `"retryDelay": "17s"`."""
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and re.fullmatch(r"\d+(\.\d+)?s", delay):
            return float(delay[:-1])
    return None
