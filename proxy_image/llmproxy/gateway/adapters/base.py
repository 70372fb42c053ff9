"""Adapters between the client's protocol and the upstream's.

A Dialect is a protocol as clients speak it: how a body is parsed, and how an error of ours looks in it. An Adapter is a
pair of client and upstream protocols: request, response, stream. `ForwardAdapter` has OpenAI's on both sides and passes
bytes on. `registry` lists all of them; the request path knows only these types.
"""

from typing import Final, Protocol

import msgspec

from llmproxy.gateway.adapters.request_body import ModelRequest, parse_request, upstream_body
from llmproxy.gateway.errors import CallError, Header, error_body
from llmproxy.gateway.limits import Limiter
from llmproxy.gateway.upstreams.deployments import Upstream
from llmproxy.protocols.passthrough import ChatPassthrough
from llmproxy.protocols.repair import readable
from llmproxy.protocols.usage import answer_tokens

ERRORS: Final = 300
"""Statuses from here on are no responses of a model."""


class Dialect(Protocol):
    """Protocol of one kind of client."""

    def parse(self, body: bytes, path_model: str) -> ModelRequest:
        """Return the request in a body; raise BadRequestError."""

    def error(self, error: CallError) -> bytes:
        """Return the body of an error response."""

    def error_event(self, error: CallError) -> bytes:
        """Return the event that ends a broken stream."""

    def limits(self, limiter: Limiter, model: str) -> list[Header]:
        """Return the rate limit headers of a response."""

    def models(self, names: list[str]) -> bytes:
        """Return the list of models."""

    def model(self, name: str) -> bytes:
        """Return the description of one model."""


class ClientResponse:
    """A whole response for the client."""

    __slots__ = ("body", "mapped", "tokens")

    def __init__(self, body: bytes, tokens: int | None, *, mapped: bool = False) -> None:
        self.body = body
        self.tokens = tokens
        """Tokens used by the upstream's count, None without one."""
        self.mapped = mapped
        """The body is ours, and JSON; else it is the upstream's, of its type."""


class Stream(Protocol):
    """One stream from the upstream to the client."""

    @property
    def done(self) -> bool:
        """Return True after the upstream's own end of the stream."""

    @property
    def failed(self) -> bool:
        """Return True after an error event of the upstream, which was passed on."""

    @property
    def tokens(self) -> int | None:
        """Return the tokens used by the upstream's count, None without one."""

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the bytes to send now, and those to hold until the call is recorded: the end of the stream."""

    def rest(self) -> bytes:
        """Return the last bytes after the upstream closed in order; a stream that is not `done` then is cut."""


class Adapter:
    """One pair of a client's protocol and an upstream's."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        """Endpoint at the upstream: selects the head of the request, and how the record of the call is read."""

    def request_headers(self, request: ModelRequest, upstream: Upstream) -> bytes:  # noqa: ARG002 - for those with any
        """Return the header lines that depend on the request."""
        return b""

    def request_body(self, request: ModelRequest, upstream: Upstream, *, want_usage: bool) -> bytes:
        """Return the body for the upstream."""
        raise NotImplementedError

    def response(self, request: ModelRequest, status: int, body: bytes) -> ClientResponse:
        """Return a whole response of the upstream for the client, also an error."""
        raise NotImplementedError

    def stream(self, request: ModelRequest) -> Stream:
        """Return the stream for the client."""
        raise NotImplementedError


class OpenAIDialect:
    """OpenAI's protocol."""

    def parse(self, body: bytes, path_model: str) -> ModelRequest:
        """Return the request in a body; raise BadRequestError."""
        return parse_request(body, path_model)

    def error(self, error: CallError) -> bytes:
        """Return `{"error": {message, type, param, code}}`."""
        return error_body(error)

    def error_event(self, error: CallError) -> bytes:
        """Return an event that OpenAI's SDKs raise as an APIError."""
        return b"data: " + error_body(error) + b"\n\n"

    def limits(self, limiter: Limiter, model: str) -> list[Header]:
        """Return `x-ratelimit-*`."""
        return limiter.headers(model)

    def models(self, names: list[str]) -> bytes:
        """Return the list of models."""
        return msgspec.json.encode({"object": "list", "data": [_description(name) for name in names]})

    def model(self, name: str) -> bytes:
        """Return the description of one model."""
        return msgspec.json.encode(_description(name))


def _description(name: str) -> dict[str, object]:
    """Return a model as OpenAI's API describes one; its time of creation is unknown."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "llmproxy"}


class ForwardAdapter(Adapter):
    """OpenAI's protocol on both sides."""

    def request_body(self, request: ModelRequest, upstream: Upstream, *, want_usage: bool) -> bytes:
        """Return the client's body with the upstream's name of the model."""
        return upstream_body(request, upstream, self.endpoint, want_usage=want_usage)

    def response(self, request: ModelRequest, status: int, body: bytes) -> ClientResponse:  # noqa: ARG002
        """Return *body* as it is, but for numbers that are no JSON."""
        if status >= ERRORS:
            return ClientResponse(body, None)
        body = readable(body)
        return ClientResponse(body, answer_tokens(body))

    def stream(self, request: ModelRequest) -> Stream:
        """Return a stream that passes bytes on."""
        return ChatPassthrough(hide_usage=not request.include_usage, choices=request.choices)


OPENAI: Final = OpenAIDialect()
