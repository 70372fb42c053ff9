"""Between the client's protocol and the upstream's: what is asked of the upstream, what the client is told.

A Dialect is one kind of client: how its body is read and how an error of ours looks to it. An Exchange is one pair of
client and upstream: its request, its answer, its stream. The one pair that is here speaks OpenAI's protocol on both
ends, so its bytes are forwarded; those with Anthropic's are in `anthropic`. Which there are is said in `pairs`;
pipeline and tries need not know.
"""

from typing import Final, Protocol

import msgspec

from llmproxy.gateway.adapters.request_body import Asked, read_body, upstream_body
from llmproxy.gateway.errors import CallError, Header, error_body
from llmproxy.gateway.limits import Limiter
from llmproxy.gateway.upstreams.deployments import Target
from llmproxy.protocols.passthrough import MAX_EVENT, EventTooLargeError, Relay
from llmproxy.protocols.usage import answer_tokens


class Dialect(Protocol):
    """What one kind of client sends and expects."""

    def read(self, body: bytes, path_model: str) -> Asked:
        """Return what a body asks for; raise BadRequestError."""

    def error(self, error: CallError) -> bytes:
        """Return the body of an answer that is an error of ours."""

    def error_event(self, error: CallError) -> bytes:
        """Return the event that ends a stream which broke off."""

    def limits(self, limiter: Limiter, model: str) -> list[Header]:
        """Return what an answer says of the limits."""

    def models(self, names: list[str]) -> bytes:
        """Return the list of models."""

    def model(self, name: str) -> bytes:
        """Return the description of one model."""


class Answer:
    """A plain answer as the client gets it."""

    __slots__ = ("body", "mapped", "tokens")

    def __init__(self, body: bytes, tokens: int | None, *, mapped: bool = False) -> None:
        self.body = body
        self.tokens = tokens
        """What the upstream says was used, None if it does not say."""
        self.mapped = mapped
        """The body is ours, and JSON; else it is the upstream's, of its type."""


class Stream(Protocol):
    """One stream on its way from the upstream to the client."""

    @property
    def done(self) -> bool:
        """Whether the upstream has said that this was all."""

    @property
    def failed(self) -> bool:
        """Whether the upstream has ended with an error, which the client has been told."""

    @property
    def tokens(self) -> int | None:
        """What the upstream says was used, None if it has not said."""

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what to forward now, and what to hold until the call has been told: the end of the stream."""

    def rest(self) -> bytes:
        """Return what is left when the upstream has ended in order; not `done` even now, it has broken off."""


class Exchange(Protocol):
    """One pair of protocols."""

    @property
    def endpoint(self) -> str:
        """At the upstream: which of a target's heads is used, and how the record of a call is read."""

    def head_lines(self, asked: Asked, target: Target) -> bytes:
        """Return what the head needs besides."""

    def request(self, asked: Asked, target: Target, *, want_usage: bool) -> bytes:
        """Return the body for the upstream."""

    def answer(self, asked: Asked, status: int, body: bytes) -> Answer:
        """Return a plain answer of the upstream for the client, an error of it too."""

    def stream(self, asked: Asked) -> Stream:
        """Return the way of one stream."""


class OpenAIClient:
    """Clients that speak OpenAI's protocol."""

    def read(self, body: bytes, path_model: str) -> Asked:
        """Return what a body asks for; raise BadRequestError."""
        return read_body(body, path_model)

    def error(self, error: CallError) -> bytes:
        """Return `{"error": {message, type, param, code}}`."""
        return error_body(error)

    def error_event(self, error: CallError) -> bytes:
        """Return an event that OpenAI's SDKs raise as an APIError."""
        return b"data: " + error_body(error) + b"\n\n"

    def limits(self, limiter: Limiter, model: str) -> list[Header]:
        """Return what an answer says of the limits."""
        return limiter.headers(model)

    def models(self, names: list[str]) -> bytes:
        """Return the list of models."""
        return msgspec.json.encode({"object": "list", "data": [_described(name) for name in names]})

    def model(self, name: str) -> bytes:
        """Return the description of one model."""
        return msgspec.json.encode(_described(name))


def _described(name: str) -> dict[str, object]:
    """Return a model as OpenAI's API describes one; nobody knows when it was made."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "llmproxy"}


class Forward:
    """OpenAI's protocol on both ends."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def request(self, asked: Asked, target: Target, *, want_usage: bool) -> bytes:
        """Return the client's body with the upstream's name of the model."""
        return upstream_body(asked, target, self.endpoint, want_usage=want_usage)

    def head_lines(self, asked: Asked, target: Target) -> bytes:  # noqa: ARG002 - a head of OpenAI's is always the same
        """Return what the head needs besides."""
        return b""

    def answer(self, asked: Asked, status: int, body: bytes) -> Answer:  # noqa: ARG002 - the body says it all
        """Return *body* as it is."""
        return Answer(body, answer_tokens(body) if status < 300 else None)  # noqa: PLR2004 - an answer, no error

    def stream(self, asked: Asked) -> Stream:
        """Return a relay of bytes."""
        return Relay(hide_usage=not asked.usage_asked, choices=asked.choices)


class _Mapper(Protocol):
    """What the streams of `llmproxy.anthropic` and `llmproxy.responses` have in common."""

    done: bool
    failed: bool

    @property
    def tokens(self) -> int | None: ...

    @property
    def pending(self) -> int: ...

    def feed(self, data: bytes) -> tuple[bytes, bytes]: ...

    def end(self) -> tuple[bytes, bytes]: ...


class Guarded:
    """One stream, no event of which may be endless."""

    __slots__ = ("_inner",)

    def __init__(self, inner: _Mapper) -> None:
        self._inner = inner

    @property
    def done(self) -> bool:
        """Whether the upstream has said that this was all."""
        return self._inner.done

    @property
    def failed(self) -> bool:
        """Whether it has ended with an error, which the client has been told."""
        return self._inner.failed

    @property
    def tokens(self) -> int | None:
        """Tokens that were used, None if nobody has said."""
        return self._inner.tokens

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what to forward now, and what to hold until the call has been told."""
        made = self._inner.feed(data)
        if self._inner.pending > MAX_EVENT:
            raise EventTooLargeError
        return made

    def rest(self) -> bytes:
        """Return what is left when the upstream has closed in order."""
        return b"".join(self._inner.end())


OPENAI: Final = OpenAIClient()
