"""A stream of the Responses API that is forwarded as it is: looked for are its end and the tokens it used. Pure.

It ends with `response.completed`, `response.incomplete`, `response.failed` or `error`; there is no `[DONE]`. What ends
it is given apart, so that it can be held until the call has been told.
"""

import re

import msgspec

_EVENT_END = re.compile(rb"\r?\n\r?\n")
_NOTABLE = re.compile(rb'response\.(?:completed|incomplete|failed)|"type": ?"error"')
"""An event without any of these is a part; one with them may be one all the same, and is read."""
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed", "error"})
_FAILURES = frozenset({"response.failed", "error"})


class Usage(msgspec.Struct):
    """What a response says it used."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.total_tokens or self.input_tokens + self.output_tokens


class _Response(msgspec.Struct):
    usage: Usage | None = None


class _Event(msgspec.Struct):
    type: str
    response: _Response | None = None


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_response = msgspec.json.Decoder(_Response).decode


def answer_tokens(body: bytes) -> int | None:
    """Return the tokens that a plain answer says it used, None if it does not say."""
    try:
        usage = _decode_response(body).usage
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return None if usage is None else usage.total


class ResponsesStream:
    """One stream."""

    __slots__ = ("_tail", "done", "failed", "tokens")

    def __init__(self) -> None:
        self._tail = b""
        self.done = False
        """The upstream has said that this was all, or that it failed."""
        self.failed = False
        self.tokens: int | None = None

    @property
    def pending(self) -> int:
        """Bytes of an event without an end."""
        return len(self._tail)

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
            if found.type in _ENDS:
                self.done = True
                self.failed = found.type in _FAILURES
                if found.response is not None and found.response.usage is not None:
                    self.tokens = found.response.usage.total
