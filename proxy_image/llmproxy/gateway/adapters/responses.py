"""OpenAI's Responses API at the gateway: forwarded to upstreams that have it, mapped to others.

    upstream                          what happens
    has `/responses`                  bytes are forwarded
    speaks OpenAI's protocol          `llmproxy.responses` maps request, answer, stream to and from a chat completion
    Anthropic                         the same, and `llmproxy.anthropic` maps that chat completion

Nothing is stored here: a mapped call must bring all its turns.
"""

import time
from typing import Final

import msgspec

from llmproxy.gateway.adapters import anthropic
from llmproxy.gateway.adapters.anthropic import CHAT
from llmproxy.gateway.adapters.base import Answer, Guarded, OpenAIClient
from llmproxy.gateway.adapters.request_body import Asked, read_body, upstream_body
from llmproxy.gateway.errors import BadRequestError, CallError
from llmproxy.gateway.http.routing import RESPONSES
from llmproxy.gateway.upstreams.deployments import Target
from llmproxy.protocols.openai_to_anthropic.stream import ChatStream
from llmproxy.protocols.responses_stream import ResponsesStream, answer_tokens
from llmproxy.protocols.responses_to_openai.request import from_responses
from llmproxy.protocols.responses_to_openai.response import from_chat
from llmproxy.protocols.responses_to_openai.stream import ResponseStream, error_event

_ANSWERED: Final = 300
_LIMITS: Final = ("max_completion_tokens", "max_tokens")
_TRUE: Final = b"true"


class ResponsesClient(OpenAIClient):
    """Clients that use OpenAI's Responses API."""

    def read(self, body: bytes, path_model: str) -> Asked:
        """Return what a body asks for; raise BadRequestError."""
        asked = read_body(body, path_model, limits=("max_output_tokens",))
        if "background" in asked.fields and bytes(memoryview(asked.fields["background"])) == _TRUE:
            raise BadRequestError(
                "background: true is not served here, because answers cannot be fetched later: leave it out, or stream",
                param="background",
            )
        return asked

    def error_event(self, error: CallError) -> bytes:
        """Return the API's own event `error`."""
        return error_event(error.message, error.type, error.param, error.code)


class ResponsesForward:
    """The Responses API on both ends."""

    endpoint: str = RESPONSES

    def request(self, asked: Asked, target: Target, *, want_usage: bool) -> bytes:  # noqa: ARG002 - it always comes
        """Return the client's body with the upstream's name of the model; params of chat in this API's words."""
        return upstream_body(asked, target, self.endpoint, want_usage=False, params=_params(target.params))

    def head_lines(self, asked: Asked, target: Target) -> bytes:  # noqa: ARG002 - a head of OpenAI's is always the same
        """Return what the head needs besides."""
        return b""

    def answer(self, asked: Asked, status: int, body: bytes) -> Answer:  # noqa: ARG002 - the body says it all
        """Return *body* as it is."""
        return Answer(body, answer_tokens(body) if status < _ANSWERED else None)

    def stream(self, asked: Asked) -> Guarded:  # noqa: ARG002 - nothing to hide
        """Return a relay of bytes."""
        return Guarded(ResponsesStream())


class ResponsesToChat:
    """The Responses API at the client, chat completions at the upstream."""

    endpoint: str = CHAT

    def request(self, asked: Asked, target: Target, *, want_usage: bool) -> bytes:  # noqa: ARG002 - always needed
        """Return a chat completion request; a stream's usage is asked for, because its end must say it."""
        made = as_chat(asked, target.traits.output_limit)
        return upstream_body(made, target, self.endpoint, want_usage=True)

    def head_lines(self, asked: Asked, target: Target) -> bytes:  # noqa: ARG002 - a head of OpenAI's is always the same
        """Return what the head needs besides."""
        return b""

    def answer(self, asked: Asked, status: int, body: bytes) -> Answer:
        """Return a response; an error is in the client's shape already."""
        if status >= _ANSWERED:
            return Answer(body, None)
        return anthropic.understood(lambda: from_chat(body, asked.fields, int(time.time())))

    def stream(self, asked: Asked) -> Guarded:
        """Return the way of one stream."""
        return Guarded(ResponseStream(asked.fields, int(time.time())))


class ResponsesToMessages(anthropic.ChatToMessages):
    """The Responses API at the client, Anthropic as the upstream: by way of a chat completion."""

    def request(self, asked: Asked, target: Target, *, want_usage: bool) -> bytes:
        """Return a messages request."""
        return super().request(as_chat(asked, "max_tokens"), target, want_usage=want_usage)

    def answer(self, asked: Asked, status: int, body: bytes) -> Answer:
        """Return a response; an error in OpenAI's shape."""
        chat = super().answer(asked, status, body)
        if status >= _ANSWERED:
            return chat
        made, _ = from_chat(chat.body, asked.fields, int(time.time()))
        return Answer(made, chat.tokens, mapped=True)

    def stream(self, asked: Asked) -> Guarded:
        """Return the way of one stream."""
        now_s = int(time.time())
        return Guarded(InTurn(ChatStream(now_s, with_usage=True), ResponseStream(asked.fields, now_s)))


class InTurn:
    """Two maps of a stream, one after the other."""

    def __init__(self, first: ChatStream, second: ResponseStream) -> None:
        self._first = first
        self._second = second
        self.done = False
        """Its end, or an error, has been said."""
        self.failed = False
        """It was an error."""

    @property
    def pending(self) -> int:
        """Bytes of an event without an end."""
        return self._first.pending

    @property
    def tokens(self) -> int | None:
        """Tokens used so far, None before the first count."""
        return self._first.tokens

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the events to send now, and those that end the stream."""
        return self._pass(self._first.feed(data))

    def end(self) -> tuple[bytes, bytes]:
        """The upstream has ended in order: return the last events."""
        now, last = self._pass(self._first.end())
        if self.done:
            return now, last
        more, last = self._second.end()
        self.done, self.failed = self._second.done, self._second.failed
        return now + more, last

    def _pass(self, made: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
        passed = self._second.feed(b"".join(made))
        self.done, self.failed = self._second.done, self._second.failed
        return passed


def as_chat(asked: Asked, output_limit: str) -> Asked:
    """Return what is asked for as a chat completion; raise BadRequestError for what that cannot say."""
    fields = anthropic.mapped(lambda: from_responses(asked.fields, output_limit))
    # The chat mapping reads bytes, and what is here is in part already read.
    made = {name: msgspec.Raw(msgspec.json.encode(field)) for name, field in fields.items()}
    return msgspec.structs.replace(asked, fields=made, usage_asked=False)


def _params(params: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    limit = next((params[name] for name in _LIMITS if name in params), None)
    if limit is None:
        return params
    made = {name: value for name, value in params.items() if name not in _LIMITS}
    return {"max_output_tokens": limit, **made}


RESPONSES_CLIENT: Final = ResponsesClient()
