"""A messages stream that is forwarded as it is: looked for are its end and the tokens that it used. Pure.

A part is forwarded when it comes. What ends the stream, `message_stop` or an error, is given apart, so that it can be
held until the call has been told.
"""

import re

import msgspec

from llmproxy.protocols.stop_reasons import MessagesUsage

_EVENT_END = re.compile(rb"\r?\n\r?\n")
_NOTABLE = re.compile(rb'"usage"|message_stop|"error"')
"""An event without any of these is text; one with them may be text all the same, and is read."""


class _Message(msgspec.Struct):
    usage: MessagesUsage | None = None


class _Event(msgspec.Struct):
    type: str
    message: _Message | None = None
    usage: MessagesUsage | None = None


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_answer = msgspec.json.Decoder(_Message).decode


def answer_tokens(body: bytes) -> int | None:
    """Return the tokens that a plain answer says it used, None if it does not say."""
    try:
        usage = _decode_answer(body).usage
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return None if usage is None else usage.total


class NativeStream:
    """One stream."""

    __slots__ = ("_tail", "_used", "done", "failed")

    def __init__(self) -> None:
        self._tail = b""
        self._used = MessagesUsage()
        self.done = False
        """The upstream has said that this was all, or that it failed."""
        self.failed = False

    @property
    def pending(self) -> int:
        """Bytes of an event without an end."""
        return len(self._tail)

    @property
    def tokens(self) -> int | None:
        """Tokens used so far, None before the first count."""
        return self._used.total or None

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what to forward now, and what ends the stream."""
        if not self._tail and not self.done and data.endswith(b"\n\n") and not _NOTABLE.search(data):
            return data, b""
        data = self._tail + data
        now: list[bytes] = []
        last: list[bytes] = []
        start = 0
        for end in _EVENT_END.finditer(data):
            event = data[start : end.end()]
            start = end.end()
            if _NOTABLE.search(event):
                self._read(event)
            (last if self.done else now).append(event)
        self._tail = data[start:]
        return b"".join(now), b"".join(last)

    def end(self) -> tuple[bytes, bytes]:
        """The upstream has ended in order: return what came after the last whole event, unless it broke off."""
        tail, self._tail = self._tail, b""
        self._read(tail)  # some servers do not end the last event
        return b"", tail if self.done else b""

    def _read(self, event: bytes) -> None:
        for line in event.split(b"\n"):
            if not line.startswith(b"data:"):
                continue
            try:
                found = _decode_event(line[5:])
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue
            for usage in (found.usage, found.message.usage if found.message else None):
                if usage is not None:
                    self._used.update(usage)
            self.failed = self.failed or found.type == "error"
            self.done = self.done or found.type in {"message_stop", "error"}
