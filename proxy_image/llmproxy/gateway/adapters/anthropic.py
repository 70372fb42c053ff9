"""Anthropic's protocol: its dialect, and the adapters with it on one side or on both.

    client      upstream
    Anthropic   Anthropic   bytes are forwarded, `anthropic-version` and `anthropic-beta` with them
    Anthropic   OpenAI      `protocols.anthropic_to_openai` maps request, response, stream and errors
    OpenAI      Anthropic   `protocols.openai_to_anthropic` does

The upstream counts tokens, or nobody: `count_tokens` is forwarded to Anthropic, and an error for a model that others
serve, because an estimate would be taken for the truth.
"""

import time
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from llmproxy.gateway.adapters.base import ERRORS, Adapter, ClientResponse, Stream
from llmproxy.gateway.adapters.request_body import (
    MAX_MAPPED_VALUES,
    ModelRequest,
    bound_values,
    parse_request,
    upstream_body,
)
from llmproxy.gateway.errors import BadRequestError, CallError, Header, UpstreamError
from llmproxy.gateway.limits import Limiter
from llmproxy.gateway.upstreams.deployments import Upstream
from llmproxy.protocols import errors
from llmproxy.protocols.anthropic_to_openai import request as request_to_openai
from llmproxy.protocols.anthropic_to_openai import response as response_from_openai
from llmproxy.protocols.anthropic_to_openai.stream import MessagesStream
from llmproxy.protocols.json_fields import Json, MappingError
from llmproxy.protocols.openai_schemas import AnswerError, UnfinishedAnswerError
from llmproxy.protocols.openai_to_anthropic import request as request_to_anthropic
from llmproxy.protocols.openai_to_anthropic import response as response_from_anthropic
from llmproxy.protocols.openai_to_anthropic.stream import ChatStream
from llmproxy.protocols.passthrough import MessagesPassthrough
from llmproxy.protocols.sse import anthropic_event
from llmproxy.protocols.usage import answer_tokens

CHAT: Final = "chat.completions"
OLDER_VERSION: Final = b"2023-06-01"
"""Version of calls of OpenAI clients: it takes `temperature`, `top_p` and `top_k`."""
_SAMPLING: Final = frozenset({"temperature", "top_p", "top_k"})
_FORWARDED: Final = (b"anthropic-version", b"anthropic-beta")
_decode_int: Final = msgspec.json.Decoder(int).decode


class AnthropicDialect:
    """Anthropic's protocol; *lines* are the headers of the client that go to an upstream of the same protocol."""

    def __init__(self, lines: bytes = b"") -> None:
        self._lines = lines

    def parse(self, body: bytes, path_model: str) -> ModelRequest:
        """Return the request in a body; raise BadRequestError."""
        request = parse_request(body, path_model)
        request.header_lines = self._lines
        return request

    def error(self, error: CallError) -> bytes:
        """Return `{"type": "error", "error": {type, message}}`."""
        return errors.anthropic_body(error.message, error.status)

    def error_event(self, error: CallError) -> bytes:
        """Return an event that Anthropic's SDKs raise as an APIStatusError."""
        return anthropic_event("error", errors.anthropic_error(error.message, errors.anthropic_type(error.status)))

    def limits(self, limiter: Limiter, model: str) -> list[Header]:
        """Return `anthropic-ratelimit-*`."""
        return limiter.anthropic_headers(model)

    def models(self, names: list[str]) -> bytes:
        """Return the list of models, all on one page."""
        first, last = (names[0], names[-1]) if names else (None, None)
        data = [_description(name) for name in names]
        return msgspec.json.encode({"data": data, "has_more": False, "first_id": first, "last_id": last})

    def model(self, name: str) -> bytes:
        """Return the description of one model."""
        return msgspec.json.encode(_description(name))


def header_lines(headers: Iterable[Header]) -> bytes:
    """Return the header lines of a client that an upstream of its protocol must see."""
    return b"".join(b"%b: %b\r\n" % (name, value) for name, value in headers if name in _FORWARDED)


def version_lines(lines: bytes, upstream: Upstream) -> bytes:
    """Return the lines that state the version.

    A request has its client's version. Params of the deployment that only the older version takes make it one of the
    older: the client has not sent them, so it could not leave them out.
    """
    if b"anthropic-version:" not in lines or not _SAMPLING.isdisjoint(upstream.params):
        rest = b"".join(line for line in lines.splitlines(keepends=True) if not line.startswith(b"anthropic-version:"))
        return b"anthropic-version: %b\r\n%b" % (OLDER_VERSION, rest)
    return lines


class MessagesForward(Adapter):
    """Anthropic's protocol on both sides."""

    def request_headers(self, request: ModelRequest, upstream: Upstream) -> bytes:
        """Return the version and the beta features."""
        return version_lines(request.header_lines, upstream)

    def request_body(self, request: ModelRequest, upstream: Upstream, *, want_usage: bool) -> bytes:  # noqa: ARG002
        """Return the client's body with the upstream's name of the model."""
        return upstream_body(request, upstream, self.endpoint, want_usage=False)

    def response(self, request: ModelRequest, status: int, body: bytes) -> ClientResponse:  # noqa: ARG002
        """Return *body* as it is."""
        return ClientResponse(body, answer_tokens(body) if status < ERRORS else None)

    def stream(self, request: ModelRequest) -> Stream:  # noqa: ARG002
        """Return a stream that passes bytes on."""
        return MessagesPassthrough()


class CountTokens(MessagesForward):
    """Anthropic's count of the tokens of a request."""

    def request_body(self, request: ModelRequest, upstream: Upstream, *, want_usage: bool) -> bytes:  # noqa: ARG002
        """Return the client's body with the upstream's name of the model; params belong to responses."""
        return msgspec.json.encode({**request.fields, "model": upstream.model_json})

    def response(self, request: ModelRequest, status: int, body: bytes) -> ClientResponse:  # noqa: ARG002
        """Return *body* as it is: a count uses no tokens."""
        return ClientResponse(body, 0)


class MessagesToChat(Adapter):
    """An Anthropic client, an upstream that speaks OpenAI's protocol."""

    def request_body(self, request: ModelRequest, upstream: Upstream, *, want_usage: bool) -> bytes:  # noqa: ARG002
        """Return a chat completion request, which always asks for usage: the end of a stream must state it."""
        fields = map_request(request, lambda: request_to_openai.from_messages(request.fields, upstream.traits))
        chat = msgspec.structs.replace(request, fields=fields, include_usage=False)
        return upstream_body(chat, upstream, self.endpoint, want_usage=True)

    def response(self, request: ModelRequest, status: int, body: bytes) -> ClientResponse:  # noqa: ARG002
        """Return a message, or an error in Anthropic's shape."""
        if status >= ERRORS:
            return ClientResponse(errors.to_anthropic(status, body), None, mapped=True)
        return map_response(lambda: response_from_openai.from_chat(body))

    def stream(self, request: ModelRequest) -> Stream:  # noqa: ARG002
        """Return a stream of messages."""
        return MessagesStream()


class ChatToMessages(Adapter):
    """An OpenAI client, Anthropic as the upstream."""

    def request_headers(self, request: ModelRequest, upstream: Upstream) -> bytes:  # noqa: ARG002
        """Return the version, which OpenAI clients do not send."""
        return b"anthropic-version: %b\r\n" % OLDER_VERSION

    def request_body(self, request: ModelRequest, upstream: Upstream, *, want_usage: bool) -> bytes:  # noqa: ARG002
        """Return a messages request."""
        limit = upstream.params.get("max_tokens")
        default = request_to_anthropic.DEFAULT_MAX_TOKENS if limit is None else _decode_int(limit)
        fields = map_request(
            request, lambda: request_to_anthropic.from_chat(request.fields, upstream.upstream_model, default)
        )
        return upstream_body(msgspec.structs.replace(request, fields=fields), upstream, self.endpoint, want_usage=False)

    def response(self, request: ModelRequest, status: int, body: bytes) -> ClientResponse:  # noqa: ARG002
        """Return a chat completion, or an error in OpenAI's shape."""
        if status >= ERRORS:
            return ClientResponse(errors.to_openai(status, body), None, mapped=True)
        return map_response(lambda: response_from_anthropic.from_message(body, int(time.time())))

    def stream(self, request: ModelRequest) -> Stream:
        """Return a stream of chat completion chunks."""
        return ChatStream(int(time.time()), with_usage=request.include_usage)


def _description(name: str) -> dict[str, str]:
    """Return a model as Anthropic's API describes one; its time of creation is unknown."""
    model = {"type": "model", "id": name, "display_name": name}
    return {**model, "created_at": "1970-01-01T00:00:00Z", "lifecycle": "active"}


def map_request(request: ModelRequest, build: Callable[[], Json]) -> Json:
    """Return the fields of *request* as *build* maps them; one that cannot be mapped is the client's error."""
    for field in request.fields.values():
        bound_values(field, MAX_MAPPED_VALUES)
    try:
        return build()
    except MappingError as exc:
        raise BadRequestError(str(exc), param=exc.param) from exc


def map_response(build: Callable[[], tuple[bytes, int]]) -> ClientResponse:
    """Return the body and tokens that *build* gives; a response of another protocol is the upstream's error."""
    try:
        body, tokens = build()
    except UnfinishedAnswerError as exc:
        raise UpstreamError(f"the model server {exc}: send the request again") from exc
    except AnswerError as exc:
        raise UpstreamError(
            f"the model server's answer is {exc}; see that it serves the protocol it is said to"
        ) from exc
    return ClientResponse(body, tokens, mapped=True)
