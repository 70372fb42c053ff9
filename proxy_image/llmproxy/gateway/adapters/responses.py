"""OpenAI's Responses API: its dialect and adapters. Forwarded to upstreams that have it, mapped for others.

    upstream                          what happens
    has `/responses`                  bytes are forwarded
    speaks OpenAI's protocol          `protocols.responses_to_openai` maps request, response and stream
    Anthropic                         the same, and `protocols.openai_to_anthropic` maps that chat completion

Nothing is stored here: a mapped call must bring all its turns.
"""

import time
from typing import Final

import msgspec

from llmproxy.gateway.adapters import anthropic
from llmproxy.gateway.adapters.base import ERRORS, Adapter, ClientResponse, OpenAIDialect, Stream
from llmproxy.gateway.adapters.request_body import Fields, ModelRequest, parse_request, upstream_body
from llmproxy.gateway.errors import BadRequestError, CallError
from llmproxy.gateway.upstreams.deployments import Upstream
from llmproxy.protocols.openai_to_anthropic.stream import ChatStream
from llmproxy.protocols.passthrough import ResponsesPassthrough
from llmproxy.protocols.responses_to_openai.request import from_responses
from llmproxy.protocols.responses_to_openai.response import from_chat
from llmproxy.protocols.responses_to_openai.stream import ResponseStream, error_event
from llmproxy.protocols.translated_stream import ChainedStream
from llmproxy.protocols.usage import answer_tokens

_CHAT_LIMITS: Final = ("max_completion_tokens", "max_tokens")
_TRUE: Final = b"true"


class ResponsesDialect(OpenAIDialect):
    """OpenAI's Responses API."""

    def parse(self, body: bytes, path_model: str) -> ModelRequest:
        """Return the request in a body; raise BadRequestError."""
        request = parse_request(body, path_model, limits=("max_output_tokens",))
        if "background" in request.fields and bytes(memoryview(request.fields["background"])) == _TRUE:
            raise BadRequestError(
                "background: true is not served here, because answers cannot be fetched later: leave it out, or stream",
                param="background",
            )
        return request

    def error_event(self, error: CallError) -> bytes:
        """Return the API's own event `error`."""
        return error_event(error.message, error.type, error.param, error.code)


class ResponsesForward(Adapter):
    """The Responses API on both sides."""

    def request_body(self, request: ModelRequest, upstream: Upstream, *, want_usage: bool) -> bytes:  # noqa: ARG002
        """Return the client's body with the upstream's name of the model, and params by this API's names."""
        return upstream_body(request, upstream, self.endpoint, want_usage=False, params=_params(upstream.params))

    def response(self, request: ModelRequest, status: int, body: bytes) -> ClientResponse:  # noqa: ARG002
        """Return *body* as it is."""
        return ClientResponse(body, answer_tokens(body) if status < ERRORS else None)

    def stream(self, request: ModelRequest) -> Stream:  # noqa: ARG002
        """Return a stream that passes bytes on."""
        return ResponsesPassthrough()


class ResponsesToChat(Adapter):
    """The Responses API at the client, chat completions at the upstream."""

    def request_body(self, request: ModelRequest, upstream: Upstream, *, want_usage: bool) -> bytes:  # noqa: ARG002
        """Return a chat completion request, which always asks for usage: the end of a stream must state it."""
        chat = to_chat(request, upstream.traits.output_limit, upstream.traits.max_effort)
        return upstream_body(chat, upstream, self.endpoint, want_usage=True)

    def response(self, request: ModelRequest, status: int, body: bytes) -> ClientResponse:
        """Return a response; an error has the client's shape already."""
        if status >= ERRORS:
            return ClientResponse(body, None)
        return anthropic.map_response(lambda: from_chat(body, request.fields, int(time.time())))

    def stream(self, request: ModelRequest) -> Stream:
        """Return a stream of response events."""
        return ResponseStream(request.fields, int(time.time()))


class ResponsesToMessages(anthropic.ChatToMessages):
    """The Responses API at the client, Anthropic as the upstream: by way of a chat completion."""

    def request_body(self, request: ModelRequest, upstream: Upstream, *, want_usage: bool) -> bytes:
        """Return a messages request."""
        return super().request_body(to_chat(request, "max_tokens", "max"), upstream, want_usage=want_usage)

    def response(self, request: ModelRequest, status: int, body: bytes) -> ClientResponse:
        """Return a response, or an error in OpenAI's shape."""
        chat = super().response(request, status, body)
        if status >= ERRORS:
            return chat
        mapped, _ = from_chat(chat.body, request.fields, int(time.time()))
        return ClientResponse(mapped, chat.tokens, mapped=True)

    def stream(self, request: ModelRequest) -> Stream:
        """Return a stream of response events."""
        now_s = int(time.time())
        return ChainedStream(ChatStream(now_s, with_usage=True), ResponseStream(request.fields, now_s))


def to_chat(request: ModelRequest, output_limit: str, max_effort: str) -> ModelRequest:
    """Return a request of the Responses API as one for a chat completion; raise BadRequestError."""
    fields = anthropic.map_request(request, lambda: from_responses(request.fields, output_limit, max_effort))
    # The chat mapping reads bytes, and some fields are decoded here.
    raw = {name: msgspec.Raw(msgspec.json.encode(field)) for name, field in fields.items()}
    return msgspec.structs.replace(request, fields=raw, include_usage=False)


def _params(params: Fields) -> Fields:
    limit = next((params[name] for name in _CHAT_LIMITS if name in params), None)
    if limit is None:
        return params
    return {"max_output_tokens": limit, **{name: value for name, value in params.items() if name not in _CHAT_LIMITS}}


RESPONSES_DIALECT: Final = ResponsesDialect()
