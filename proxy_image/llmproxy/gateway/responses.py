"""OpenAI's Responses API at the gateway: bytes are forwarded to upstreams that have it; nothing is mapped to others.

What others would make of it (items, stored turns, tools that run at the provider) cannot be told in chat completions
without a loss, so a model whose servers lack it is refused, with those that have it.
"""

import msgspec

from llmproxy.gateway.body import Asked, read_body, upstream_body
from llmproxy.gateway.errors import BadRequestError, CallError
from llmproxy.gateway.exchange import Answer, Guarded, OpenAIClient
from llmproxy.gateway.routes import RESPONSES
from llmproxy.gateway.targets import Target
from llmproxy.responses.stream import ResponsesStream, answer_tokens

_ANSWERED = 300
_LIMITS = ("max_completion_tokens", "max_tokens")
_TRUE = b"true"


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
        """Return the API's own event `error`; with the field `error` in it, OpenAI's SDKs raise it as an APIError."""
        told = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
        event = {"type": "error", "code": error.code, "message": error.message, "param": error.param, "error": told}
        return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"


class ResponsesForward:
    """The Responses API on both ends."""

    endpoint: str = RESPONSES

    def request(self, asked: Asked, target: Target, *, want_usage: bool) -> bytes:  # noqa: ARG002 - it always comes
        """Return the client's body with the upstream's name of the model; params of chat in this API's words."""
        return upstream_body(asked, target, self.endpoint, want_usage=False, params=_params(target.params))

    def head_lines(self, asked: Asked, target: Target) -> bytes:  # noqa: ARG002 - a head of OpenAI's is always the same
        """Return what the head needs besides."""
        return b""

    def answer(self, status: int, body: bytes) -> Answer:
        """Return *body* as it is."""
        return Answer(body, answer_tokens(body) if status < _ANSWERED else None)

    def stream(self, asked: Asked) -> Guarded:  # noqa: ARG002 - nothing to hide
        """Return a relay of bytes."""
        return Guarded(ResponsesStream())


def _params(params: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    limit = next((params[name] for name in _LIMITS if name in params), None)
    if limit is None:
        return params
    made = {name: value for name, value in params.items() if name not in _LIMITS}
    return {"max_output_tokens": limit, **made}


RESPONSES_CLIENT = ResponsesClient()
