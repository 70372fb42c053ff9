"""Server-sent events between upstream and caller: bytes in, bytes out, events only where they must be known.

A part of a stream is forwarded when it comes. Looked for are the end (`data: [DONE]`), the usage, and the usage chunk
that we asked for and the caller did not, which is taken out again. Lines are never split at anything but LF: U+2028,
U+2029 and U+0085 are text.
"""

import re

import msgspec

DONE = b"data: [DONE]"
_EVENT_END = re.compile(rb"\r?\n\r?\n")
MAX_EVENT = 16 << 20
"""Bytes of one event. A larger one is no stream of a model."""


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class _Chunk(msgspec.Struct):
    choices: list[msgspec.Raw] | None = None
    usage: _Usage | None = None


class _Answer(msgspec.Struct):
    usage: _Usage | None = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode


class EventTooLargeError(Exception):
    """An event has no end within MAX_EVENT."""


def answer_tokens(body: bytes) -> int | None:
    """Return the tokens that a plain answer says it used, None if it does not say."""
    try:
        usage = _decode_answer(body).usage
    except msgspec.MsgspecError:
        return None
    return _total(usage)


def _total(usage: _Usage | None) -> int | None:
    if usage is None:
        return None
    return usage.total_tokens or usage.prompt_tokens + usage.completion_tokens


class Relay:
    """One stream on its way to the caller."""

    __slots__ = ("_hide_usage", "_tail", "done", "tokens")

    def __init__(self, *, hide_usage: bool) -> None:
        self._hide_usage = hide_usage
        self._tail = b""
        self.done = False
        """`[DONE]` has come."""
        self.tokens: int | None = None

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what to forward now, and what to hold until the call has been told: `[DONE]` and what follows."""
        if not self._tail and not self.done and data.endswith(b"\n\n") and b'"usage"' not in data and DONE not in data:
            return data, b""
        data = self._tail + data
        cut = 0
        for found in _EVENT_END.finditer(data):
            cut = found.end()
        self._tail = data[cut:]
        if len(self._tail) > MAX_EVENT:
            raise EventTooLargeError
        now: list[bytes] = []
        held: list[bytes] = []
        start = 0
        for found in _EVENT_END.finditer(data, 0, cut):
            event = data[start : found.end()]
            start = found.end()
            if self.done or event.lstrip().startswith(DONE):
                self.done = True
                held.append(event)
            elif not (b'"usage"' in event and self._take_usage(event)):
                now.append(event)
        return b"".join(now), b"".join(held)

    def rest(self) -> bytes:
        """Return what came after the last whole event."""
        tail, self._tail = self._tail, b""
        if tail.strip() == DONE:  # some servers do not end the last event
            self.done = True
        return tail

    def _take_usage(self, event: bytes) -> bool:
        """Read the usage of an event; True when the event is to be taken out."""
        for line in event.split(b"\n"):
            if not line.startswith(b"data:"):
                continue
            try:
                chunk = _decode_chunk(line[5:])
            except msgspec.MsgspecError:
                continue
            if chunk.usage is not None:
                self.tokens = _total(chunk.usage)
                return self._hide_usage and not chunk.choices
        return False
