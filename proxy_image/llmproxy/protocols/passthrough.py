"""Streams that are forwarded as they are, of all three protocols: bytes in, bytes out. Pure.

A piece is forwarded when it comes. Events are read only where they may hold the end, an error, the usage, or the usage
chunk that the gateway asked for and the client did not, which is taken out. The end of a stream is returned apart, so
that it can be held until the call is recorded.

    chat completions, completions   `data: [DONE]`, an error, or a `finish_reason` of every choice
    Responses                       `response.completed`, `.incomplete`, `.failed`, or `error`; there is no `[DONE]`
    Messages                        `message_stop` or `error`
"""

import re
from typing import Final

import msgspec

from llmproxy.protocols.anthropic_schemas import read_event
from llmproxy.protocols.openai_schemas import read_chunk_end, read_response_event
from llmproxy.protocols.repair import readable
from llmproxy.protocols.sse import EventReader, event_data, text_bytes
from llmproxy.protocols.usage import MessagesUsage, tokens_of

_RESPONSE_NOTABLE: Final = re.compile(rb'response\.(?:completed|incomplete|failed)|"type": ?"error"')
_RESPONSE_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed", "error"})
_RESPONSE_FAILURES: Final = frozenset({"response.failed", "error"})
_MESSAGES_NOTABLE: Final = re.compile(rb'"usage"|message_stop|"error"')
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError)


class PassthroughStream:
    """One stream; a subclass reads the events of its protocol."""

    __slots__ = ("_reader", "done", "failed", "tokens")

    def __init__(self) -> None:
        self._reader = EventReader()
        self.done = False
        """The upstream has ended its answer, or failed."""
        self.failed = False
        """It has failed."""
        self.tokens: int | None = None
        """Tokens used, None until the upstream counts them."""

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what to forward now, and what to hold: the end and what follows. Raise EventTooLargeError."""
        reader = self._reader
        if data.endswith(b"\n\n") and not (self.done or reader.pending or self._is_notable(data)):
            return data, b""
        now: list[bytes] = []
        held: list[bytes] = []
        for event in reader.feed(data):
            hidden = not self.done and self._is_notable(event) and self._read(event_data(event))
            if self.done:
                held.append(event)
            elif not hidden:
                now.append(self._rewrite(event))
        return b"".join(now), b"".join(held)

    def rest(self) -> bytes:
        """Return what came after the last whole event, unless it broke off; some servers do not end the last one."""
        tail = self._reader.rest()
        if self.done:
            return tail
        data = event_data(tail)
        hidden = self._read(data)
        if not self.done:
            self.done = self._is_complete(data)
        return tail if self.done and not hidden else b""

    def _rewrite(self, event: bytes) -> bytes:
        """Return an event as clients can read it."""
        return event

    def _is_notable(self, data: bytes) -> bool:
        """Return True where *data* may hold what `_read` looks for. Text of a model may look like it."""
        raise NotImplementedError

    def _read(self, data: bytes) -> bool:
        """Read the data of an event; return True when the event is to be taken out."""
        raise NotImplementedError

    def _is_complete(self, tail: bytes) -> bool:  # noqa: ARG002 - most protocols have an event for it
        """Return True when the answer is whole without an end; *tail* is the data of an event without its own."""
        return False


class ChatPassthrough(PassthroughStream):
    """A stream of chat completions or completions."""

    __slots__ = ("_choices", "_finished", "_hide_usage")

    def __init__(self, *, hide_usage: bool, choices: int = 1) -> None:
        """*choices* is the number of choices that the request asks for."""
        super().__init__()
        self._hide_usage = hide_usage
        self._choices = choices
        self._finished: set[object] = set()
        """Indexes of the choices that have a `finish_reason`."""

    def _is_notable(self, data: bytes) -> bool:
        # A `finish_reason` of null, which OpenAI and vLLM write into every chunk, is none.
        return (
            b'"usage"' in data
            or b"[DONE]" in data
            or b'"finish_reason":"' in data
            or b'"finish_reason": "' in data
            or b'"error"' in data
            or b"NaN" in data
            or b"Infinity" in data
        )

    def _rewrite(self, event: bytes) -> bytes:
        if b"NaN" in event or b"Infinity" in event:
            data = event_data(event)
            if (text := readable(data)) is not data:
                return b"data: %b\n\n" % text_bytes(text)
        return event

    def _read(self, data: bytes) -> bool:
        if data.rstrip().endswith(b"[DONE]"):
            head, _, last = data.rpartition(b"\n")
            if last.strip() == b"[DONE]":
                self.done = True
                data = head
        if not data:
            return False
        try:
            chunk = read_chunk_end(data)
        except _UNREADABLE:
            return False
        if chunk.error:
            self.done = self.failed = True
        for choice in chunk.choices or ():
            if choice.finish_reason == "error":
                self.done = self.failed = True
            if choice.finish_reason:  # an empty one, in each chunk of older SGLang, is none
                self._finished.add(choice.index)
        tokens = tokens_of(chunk.usage)
        if tokens is None:
            return False
        self.tokens = tokens
        return self._hide_usage and not chunk.choices

    def _is_complete(self, tail: bytes) -> bool:
        if len(self._finished) < self._choices:
            return False
        try:
            return not tail or read_chunk_end(tail) is not None
        except _UNREADABLE:
            return False


class ResponsesPassthrough(PassthroughStream):
    """A stream of the Responses API."""

    __slots__ = ()

    def _is_notable(self, data: bytes) -> bool:
        return _RESPONSE_NOTABLE.search(data) is not None

    def _read(self, data: bytes) -> bool:
        try:
            event = read_response_event(data)
        except _UNREADABLE:
            return False
        if event.type in _RESPONSE_ENDS:
            self.done = True
            self.failed = event.type in _RESPONSE_FAILURES
            if event.response is not None:
                self.tokens = tokens_of(event.response.usage)
        return False


class MessagesPassthrough(PassthroughStream):
    """A stream of Anthropic's Messages."""

    __slots__ = ("_usage",)

    def __init__(self) -> None:
        super().__init__()
        self._usage = MessagesUsage()

    def _is_notable(self, data: bytes) -> bool:
        return _MESSAGES_NOTABLE.search(data) is not None

    def _read(self, data: bytes) -> bool:
        try:
            event = read_event(data)
        except _UNREADABLE:
            return False
        for usage in (event.message.usage if event.message is not None else None, event.usage):
            if usage is not None:
                self._usage.update(usage)
        self.tokens = self._usage.total or None
        if event.type in {"message_stop", "error"}:
            self.done = True
            self.failed = event.type == "error"
        return False
