"""Server-sent events between upstream and caller: bytes in, bytes out, events only where they must be known.

A part of a stream is forwarded when it comes. Looked for are the end (`data: [DONE]`), the usage, and the usage chunk
that we asked for and the caller did not, which is taken out again. Lines are never split at anything but LF: U+2028,
U+2029 and U+0085 are text.
"""

import re

import msgspec

from llmproxy.gateway.usage import chunk_tokens, read_chunk

_DONE = re.compile(rb"(?:^|\n)data: ?\[DONE\][ \r]*(?:\n|$)")
_EVENT_END = re.compile(rb"\r?\n\r?\n")
_LONGEST_END = 4
MAX_EVENT = 16 << 20
"""Bytes of one event. A larger one is no stream of a model."""


class EventTooLargeError(Exception):
    """An event has no end within MAX_EVENT."""


class Relay:
    """One stream on its way to the caller."""

    __slots__ = ("_buffer", "_hide_usage", "done", "failed", "tokens")

    def __init__(self, *, hide_usage: bool) -> None:
        self._hide_usage = hide_usage
        self._buffer = bytearray()
        """What came after the last whole event."""
        self.done = False
        """`[DONE]` has come."""
        self.failed = False
        """An error in a stream of OpenAI's is forwarded, not read."""
        self.tokens: int | None = None

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what to forward now, and what to hold until the call has been told: `[DONE]` and what follows."""
        buffer = self._buffer
        if not (buffer or self.done) and data.endswith(b"\n\n") and b'"usage"' not in data and b"[DONE]" not in data:
            return data, b""
        unseen = max(0, len(buffer) - _LONGEST_END + 1)  # an event's end may have begun in what is here already
        buffer += data
        ends = [found.end() for found in _EVENT_END.finditer(buffer, unseen)]
        cut = ends[-1] if ends else 0
        if len(buffer) - cut > MAX_EVENT:
            raise EventTooLargeError
        now: list[bytes] = []
        held: list[bytes] = []
        start = 0
        for end in ends:
            event = bytes(buffer[start:end])
            start = end
            if self.done or (b"[DONE]" in event and _DONE.search(event)):
                self.done = True
                held.append(event)
            elif not (b'"usage"' in event and self._take_usage(event)):
                now.append(event)
        del buffer[:cut]
        return b"".join(now), b"".join(held)

    def rest(self) -> bytes:
        """Return what came after the last whole event; some servers do not end the last one."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        if _DONE.search(rest):
            self.done = True
        elif b'"usage"' in rest and self._take_usage(rest):
            return b""
        return rest

    def _take_usage(self, event: bytes) -> bool:
        """Read the usage of an event; True when the event is to be taken out."""
        for line in event.split(b"\n"):
            if not line.startswith(b"data:"):
                continue
            try:
                chunk = read_chunk(line[5:])
            except msgspec.MsgspecError:
                continue
            tokens = chunk_tokens(chunk)
            if tokens is not None:
                self.tokens = tokens
                return self._hide_usage and not chunk.choices
        return False
