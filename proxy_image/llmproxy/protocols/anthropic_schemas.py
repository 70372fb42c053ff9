"""A message (Anthropic's) as an upstream sends it, whole and in the events of a stream. Pure."""

from collections.abc import Callable
from typing import Any

import msgspec


class ContentBlock(msgspec.Struct):
    """A content block; in a stream, its beginning."""

    type: str
    id: str = ""
    name: str = ""
    data: str = ""
    text: str = ""
    thinking: str = ""
    signature: str = ""
    input: msgspec.Raw = msgspec.Raw(b"{}")


class MessageHead(msgspec.Struct):
    """The fields of a message beside its content."""

    id: str = ""
    model: str = ""
    usage: Any = None


class WholeMessage(MessageHead, kw_only=True):
    """A whole message."""

    content: list[ContentBlock]
    stop_reason: str | None = None
    stop_sequence: str | None = None


class MessageDelta(msgspec.Struct):
    """A piece of a block, or of the message at its end."""

    type: str | None = None
    text: str = ""
    thinking: str = ""
    signature: str = ""
    partial_json: str = ""
    stop_reason: str | None = None
    stop_sequence: str | None = None


class MessagesEvent(msgspec.Struct):
    """An event of any type."""

    type: str
    index: int = 0
    message: MessageHead | None = None
    content_block: ContentBlock | None = None
    delta: MessageDelta | None = None
    usage: Any = None


read_event: Callable[[bytes], MessagesEvent] = msgspec.json.Decoder(MessagesEvent).decode
read_message: Callable[[bytes], WholeMessage] = msgspec.json.Decoder(WholeMessage).decode
