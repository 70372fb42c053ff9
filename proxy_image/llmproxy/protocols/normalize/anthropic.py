"""A native Anthropic call as a chat completion, for spans. Nothing is refused; what cannot be said stays as it is."""

import msgspec

from llmproxy.protocols.anthropic_to_openai.request import Traits, from_messages
from llmproxy.protocols.json_fields import MappingError, decode_fields, encode
from llmproxy.protocols.openai_schemas import AnswerError
from llmproxy.protocols.openai_to_anthropic.response import from_message
from llmproxy.protocols.openai_to_anthropic.stream import ChatStream

_AS_IT_IS = Traits(cache_control=True, reasoning_content=True)


def request(body: bytes) -> bytes:
    """Return a messages request as a chat completion request; itself if it is none."""
    try:
        return encode(from_messages(decode_fields(body), _AS_IT_IS, strict=False))
    except (MappingError, msgspec.MsgspecError, UnicodeDecodeError):
        return body


def answer(body: bytes, created_s: int, *, streamed: bool) -> bytes:
    """Return a message or the events of one as a chat completion or its events; itself if it is an error or neither."""
    if streamed and not body.lstrip().startswith(b"{"):
        stream = ChatStream(created_s, with_usage=True)
        chunks = b"".join(stream.feed(body))
        if not stream.done:  # a record that was cut is no error of the model's
            end = stream.rest()
            chunks += end if not stream.failed else b""
        return chunks
    try:
        return from_message(body, created_s)[0]
    except AnswerError:
        return body
