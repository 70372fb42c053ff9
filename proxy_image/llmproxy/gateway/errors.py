"""Errors of the gateway, in OpenAI's shape, with their codes in metrics and spans.

the client must change something
  BadRequestError    400    the body or the path
  UnauthorizedError  401    the API key
  UnknownModelError  404    the name of the model
  UnknownRouteError  404    the path
  MethodError        405    the method
  SlowRequestError   408    the time of the request
  TooLargeError      413    the size
  MediaTypeError     415    the content coding
  HeadTooLargeError  431    the size of the head
  VersionError       505    the version of HTTP
  RejectedError      429    a limit: the client must wait
  PausedError        429    a pause of this pod: the client must wait
the client may try again
  UpstreamError      502    the model server failed or could not be reached
  UpstreamTimeoutError 504  the model server did not answer in time
  BusyError          503    this pod has no room for a connection
  OverloadedError    503    this pod has no memory for a request
  DrainingError      503    this pod is ending
"""

import math

import msgspec

Header = tuple[bytes, bytes]

MAX_RETRY_AFTER_S = 60.0
"""The OpenAI and Anthropic SDKs ignore a longer Retry-After and use a delay of their own; agents end."""


class CallError(Exception):
    """A response other than the model's. The message names the thing, what is wrong and the way out."""

    status = 500
    type = "internal_server_error"
    code = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, headers: tuple[Header, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.headers = headers


def error_body(error: CallError) -> bytes:
    """Return `{"error": {message, type, param, code}}` (platform.openai.com/docs/guides/error-codes)."""
    fields = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return msgspec.json.encode({"error": fields})


class BadRequestError(CallError):
    """400: the body or the path cannot be used."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class UnauthorizedError(CallError):
    """401: no API key, or one that is not known."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class UnknownModelError(CallError):
    """404: no model of that name."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class UnknownRouteError(CallError):
    """404: no such path."""

    status = 404
    type = "invalid_request_error"
    code = "unknown_url"


class MethodError(CallError):
    """405: the path is there, the method is not."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class SlowRequestError(CallError):
    """408: the request did not arrive in time."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class TooLargeError(CallError):
    """413: the body is larger than this gateway reads."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class HeadTooLargeError(CallError):
    """431: the head is larger than this gateway reads."""

    status = 431
    type = "invalid_request_error"
    code = "headers_too_large"


class MediaTypeError(CallError):
    """415: the body has a content coding that this gateway does not decode."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_content_encoding"


class VersionError(CallError):
    """505: neither HTTP/1.1 nor HTTP/1.0."""

    status = 505
    type = "invalid_request_error"
    code = "http_version_not_supported"


class RejectedError(CallError):
    """429: a limit of this proxy, not of the model server; never retried by the gateway."""

    status = 429
    type = "requests"
    code = "rate_limit_exceeded"


class PausedError(CallError):
    """429: this pod is paused; no limit was charged."""

    status = 429
    type = "requests"
    code = "paused"


class UpstreamError(CallError):
    """502: no deployment of the model gave an answer."""

    status = 502
    type = "upstream_error"
    code = "upstream_unavailable"


class UpstreamTimeoutError(CallError):
    """504: no deployment of the model answered in time."""

    status = 504
    type = "upstream_error"
    code = "upstream_timeout"


class BusyError(CallError):
    """503: there are more connections than this pod takes."""

    status = 503
    type = "service_unavailable"
    code = "too_many_connections"


class OverloadedError(CallError):
    """503: requests and responses take all the memory that this pod has for them."""

    status = 503
    type = "service_unavailable"
    code = "out_of_memory"

    def __init__(self) -> None:
        super().__init__(
            "the requests in flight take all the memory of this gateway: try again later, send less at a time, "
            "or raise the pod's memory limit",
            headers=retry_after(1.0),
        )


class DrainingError(CallError):
    """503: this pod takes no new calls."""

    status = 503
    type = "service_unavailable"
    code = "draining"


MAX_RETRY_AFTER_S = 60.0
"""SDKs of OpenAI and Anthropic ignore a longer one and wait by a rule of their own; agents end."""


def retry_after(seconds: float) -> tuple[Header, ...]:
    """Return Retry-After in whole seconds, rounded up, and the finer `retry-after-ms` that the OpenAI SDK prefers.

    A longer wait is cut to MAX_RETRY_AFTER_S: the next response tells the rest.
    """
    seconds = min(seconds, MAX_RETRY_AFTER_S)
    return (
        (b"retry-after", b"%d" % max(1, math.ceil(seconds))),
        (b"retry-after-ms", b"%d" % max(1, math.ceil(seconds * 1000))),
    )
