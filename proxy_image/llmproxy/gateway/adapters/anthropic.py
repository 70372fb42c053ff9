"""Anthropic's protocol at the gateway: clients that speak it, and each pair with it on one end or on both.

    client      upstream
    Anthropic   Anthropic   bytes are forwarded, `anthropic-version` and `anthropic-beta` with them
    Anthropic   OpenAI      `llmproxy.anthropic` maps request, answer, stream and errors
    OpenAI      Anthropic   the same, the other way round

Tokens are counted by the upstream's own count or not at all: `count_tokens` is forwarded to Anthropic, and an error for
a model that others serve, because an estimate would be taken for the truth.
"""

import time
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from llmproxy.gateway.adapters.base import Answer, Guarded
from llmproxy.gateway.adapters.request_body import Asked, read_body, upstream_body
from llmproxy.gateway.errors import BadRequestError, CallError, Header, UpstreamError
from llmproxy.gateway.http.routing import COUNT_TOKENS, MESSAGES
from llmproxy.gateway.limits import Limiter
from llmproxy.gateway.upstreams.deployments import Target
from llmproxy.protocols import errors
from llmproxy.protocols.anthropic_to_openai import request as request_to_openai
from llmproxy.protocols.anthropic_to_openai import response as response_from_openai
from llmproxy.protocols.anthropic_to_openai.stream import MessagesStream
from llmproxy.protocols.native_stream import NativeStream, answer_tokens
from llmproxy.protocols.openai_schemas import AnswerError
from llmproxy.protocols.openai_to_anthropic import request as request_to_anthropic
from llmproxy.protocols.openai_to_anthropic import response as response_from_anthropic
from llmproxy.protocols.openai_to_anthropic.stream import ChatStream
from llmproxy.protocols.sse import Json, MappingError, anthropic_event

CHAT: Final = "chat.completions"
OLDER_VERSION: Final = b"2023-06-01"
"""What OpenAI clients' calls are sent as: the version that takes `temperature`, `top_p` and `top_k`."""
_SAMPLING: Final = frozenset({"temperature", "top_p", "top_k"})
_PASSED: Final = (b"anthropic-version", b"anthropic-beta")
_ANSWERED: Final = 300
_decode_int: Final = msgspec.json.Decoder(int).decode


class AnthropicClient:
    """A client that speaks Anthropic's protocol; *passed* are the lines of its head that are for the upstream."""

    def __init__(self, passed: bytes = b"") -> None:
        self._passed = passed

    def read(self, body: bytes, path_model: str) -> Asked:
        """Return what a body asks for; raise BadRequestError."""
        asked = read_body(body, path_model)
        asked.passed = self._passed
        return asked

    def error(self, error: CallError) -> bytes:
        """Return `{"type": "error", "error": {type, message}}`."""
        return errors.anthropic_body(error.message, error.status)

    def error_event(self, error: CallError) -> bytes:
        """Return an event that Anthropic's SDKs raise as an APIStatusError."""
        return anthropic_event("error", errors.anthropic_error(error.message, errors.anthropic_type(error.status)))

    def limits(self, limiter: Limiter, model: str) -> list[Header]:
        """Return what an answer says of the limits."""
        return limiter.anthropic_headers(model)

    def models(self, names: list[str]) -> bytes:
        """Return the list of models, all on one page."""
        first, last = (names[0], names[-1]) if names else (None, None)
        data = [_described(name) for name in names]
        return msgspec.json.encode({"data": data, "has_more": False, "first_id": first, "last_id": last})

    def model(self, name: str) -> bytes:
        """Return the description of one model."""
        return msgspec.json.encode(_described(name))


def passed_on(headers: Iterable[Header]) -> bytes:
    """Return the lines of a client's head that an upstream of its protocol must see."""
    return b"".join(b"%b: %b\r\n" % (name, value) for name, value in headers if name in _PASSED)


def version_lines(passed: bytes, target: Target) -> bytes:
    """Return the lines that say the version.

    A request is of the version that its client says. Params of the deployment that only the older version takes make
    it one of the older: the client has not said them, so it could not leave them out.
    """
    if b"anthropic-version:" not in passed or not _SAMPLING.isdisjoint(target.params):
        kept = b"".join(line for line in passed.splitlines(keepends=True) if not line.startswith(b"anthropic-version:"))
        return b"anthropic-version: %b\r\n%b" % (OLDER_VERSION, kept)
    return passed


class MessagesForward:
    """Anthropic's protocol on both ends."""

    endpoint: str = MESSAGES

    def request(self, asked: Asked, target: Target, *, want_usage: bool) -> bytes:  # noqa: ARG002 - it always comes
        """Return the client's body with the upstream's name of the model."""
        return upstream_body(asked, target, self.endpoint, want_usage=False)

    def head_lines(self, asked: Asked, target: Target) -> bytes:
        """Return what the head needs besides."""
        return version_lines(asked.passed, target)

    def answer(self, asked: Asked, status: int, body: bytes) -> Answer:  # noqa: ARG002 - the body says it all
        """Return *body* as it is."""
        return Answer(body, answer_tokens(body) if status < _ANSWERED else None)

    def stream(self, asked: Asked) -> Guarded:  # noqa: ARG002 - nothing to hide
        """Return a relay of bytes."""
        return Guarded(NativeStream())


class CountTokens(MessagesForward):
    """The count of a request's tokens, by Anthropic."""

    endpoint = COUNT_TOKENS

    def request(self, asked: Asked, target: Target, *, want_usage: bool) -> bytes:  # noqa: ARG002 - no usage here
        """Return the client's body with the upstream's name of the model; params belong to answers."""
        return msgspec.json.encode({**asked.fields, "model": target.model_json})

    def answer(self, asked: Asked, status: int, body: bytes) -> Answer:  # noqa: ARG002 - a count uses nothing
        """Return *body* as it is."""
        return Answer(body, 0)


class MessagesToChat:
    """An Anthropic client, an upstream that speaks OpenAI's protocol."""

    endpoint = CHAT

    def request(self, asked: Asked, target: Target, *, want_usage: bool) -> bytes:  # noqa: ARG002 - always needed
        """Return a chat completion request; a stream's usage is asked for, because its end must say it."""
        fields = mapped(lambda: request_to_openai.from_messages(asked.fields, target.traits))
        made = msgspec.structs.replace(asked, fields=fields, usage_asked=False)
        return upstream_body(made, target, self.endpoint, want_usage=True)

    def head_lines(self, asked: Asked, target: Target) -> bytes:  # noqa: ARG002 - nothing of it is OpenAI's
        """Return what the head needs besides."""
        return b""

    def answer(self, asked: Asked, status: int, body: bytes) -> Answer:  # noqa: ARG002 - the body says it all
        """Return a message; an error in Anthropic's shape."""
        if status >= _ANSWERED:
            return Answer(errors.to_anthropic(status, body), None, mapped=True)
        return understood(lambda: response_from_openai.from_chat(body))

    def stream(self, asked: Asked) -> Guarded:  # noqa: ARG002 - nothing to hide
        """Return the way of one stream."""
        return Guarded(MessagesStream())


class ChatToMessages:
    """An OpenAI client, Anthropic as the upstream."""

    endpoint = MESSAGES

    def request(self, asked: Asked, target: Target, *, want_usage: bool) -> bytes:  # noqa: ARG002 - it always comes
        """Return a messages request."""
        limit = target.params.get("max_tokens")
        default = request_to_anthropic.DEFAULT_MAX_TOKENS if limit is None else _decode_int(limit)
        fields = mapped(lambda: request_to_anthropic.from_chat(asked.fields, target.upstream_model, default))
        made = msgspec.structs.replace(asked, fields=fields)
        return upstream_body(made, target, self.endpoint, want_usage=False)

    def head_lines(self, asked: Asked, target: Target) -> bytes:  # noqa: ARG002 - an OpenAI client says no version
        """Return what the head needs besides."""
        return b"anthropic-version: %b\r\n" % OLDER_VERSION

    def answer(self, asked: Asked, status: int, body: bytes) -> Answer:  # noqa: ARG002 - the body says it all
        """Return a chat completion; an error in OpenAI's shape."""
        if status >= _ANSWERED:
            return Answer(errors.to_openai(status, body), None, mapped=True)
        return understood(lambda: response_from_anthropic.from_message(body, int(time.time())))

    def stream(self, asked: Asked) -> Guarded:
        """Return the way of one stream."""
        return Guarded(ChatStream(int(time.time()), with_usage=asked.usage_asked))


def _described(name: str) -> dict[str, str]:
    """Return a model as Anthropic's API describes one; nobody knows when it was made."""
    made = {"type": "model", "id": name, "display_name": name}
    return {**made, "created_at": "1970-01-01T00:00:00Z", "lifecycle": "active"}


def mapped(make: Callable[[], Json]) -> Json:
    """Return a mapped request; what cannot be said is the client's error."""
    try:
        return make()
    except MappingError as exc:
        raise BadRequestError(str(exc), param=exc.param) from exc


def understood(make: Callable[[], tuple[bytes, int]]) -> Answer:
    """Return a mapped answer; what is none of its protocol is the upstream's error."""
    try:
        body, tokens = make()
    except AnswerError as exc:
        raise UpstreamError(
            f"the model server's answer is {exc}; see that it serves the protocol it is said to"
        ) from exc
    return Answer(body, tokens, mapped=True)
