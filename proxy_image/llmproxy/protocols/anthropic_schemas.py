"""A message (Anthropic's) as an upstream sends it, in the events of a stream: what its mapping reads. Pure.

A whole message, in `chat_answer`, adds what it has at once.
"""

import msgspec

from llmproxy.protocols.stop_reasons import MessagesUsage


class Delta(msgspec.Struct):
    """A piece of a block, or of the message at its end."""

    type: str | None = None
    text: str = ""
    thinking: str = ""
    signature: str = ""
    partial_json: str = ""
    stop_reason: str | None = None
    stop_sequence: str | None = None


class Block(msgspec.Struct):
    """A content block; in a stream, as it begins."""

    type: str
    id: str = ""
    name: str = ""
    data: str = ""
    text: str = ""
    input: msgspec.Raw = msgspec.Raw(b"{}")


class Message(msgspec.Struct):
    """A message; in a stream, as it begins."""

    id: str = ""
    model: str = ""
    usage: MessagesUsage | None = None


class Event(msgspec.Struct):
    """An event of any type."""

    type: str
    index: int = 0
    message: Message | None = None
    content_block: Block | None = None
    delta: Delta | None = None
    usage: MessagesUsage | None = None
