"""Server-sent events between upstream and caller: bytes in, bytes out, events only where they must be known.

A part of a stream is forwarded when it comes. Looked for are the end (`data: [DONE]`, or an error), the usage, and the
usage chunk that we asked for and the caller did not, which is taken out again. A stream of a server that never sends
`[DONE]` is whole when every choice has its `finish_reason`. Lines are never split at anything but LF: U+2028, U+2029
and U+0085 are text.
"""

import re
from typing import Final

import msgspec

from llmproxy.protocols.usage import chunk_tokens
from llmproxy.protocols.usage_json import Chunk, read_chunk

_DONE: Final = re.compile(rb"(?:^|\n)data: ?\[DONE\][ \r]*(?:\n|$)")
_EVENT_END: Final = re.compile(rb"\r?\n\r?\n")
_LONGEST_END: Final = 4
MAX_EVENT = 16 << 20
"""Bytes of one event. A larger one is no stream of a model."""


class EventTooLargeError(Exception):
    """An event has no end within MAX_EVENT."""


class Relay:
    """One stream on its way to the caller."""

    __slots__ = ("_buffer", "_choices", "_finished", "_hide_usage", "_passed", "done", "failed", "tokens")

    def __init__(self, *, hide_usage: bool, choices: int = 1) -> None:
        """*choices* are how many were asked for."""
        self._hide_usage = hide_usage
        self._choices = choices
        self._finished: set[int | None] = set()
        """Indexes of the choices that have a `finish_reason`."""
        self._buffer = bytearray()
        """What came after the last whole event."""
        self._passed = b""
        """The last part, if it was passed on without being read."""
        self.done = False
        """`[DONE]` has come, or an error."""
        self.failed = False
        """It was an error."""
        self.tokens: int | None = None

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what to forward now, and what to hold until the call has been told: the end and what follows."""
        buffer = self._buffer
        if not (buffer or self.done) and data.endswith(b"\n\n") and not _is_notable(data):
            self._passed = data
            return data, b""
        self._look_back()
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
            hidden = not self.done and self._read(event)
            if self.done:
                held.append(event)
            elif not hidden:
                now.append(event)
        del buffer[:cut]
        return b"".join(now), b"".join(held)

    def rest(self) -> bytes:
        """Return what came after the last whole event, unless it broke off; some servers do not end the last one."""
        self._look_back()
        rest = bytes(self._buffer)
        self._buffer.clear()
        if self.done:
            return rest
        hidden = self._read(rest)
        if not self.done:
            self.done = len(self._finished) >= self._choices and _is_whole(rest)
        return rest if self.done and not hidden else b""

    def _look_back(self) -> None:
        """Read the part before if it may be an error: after one comes the end, so it is not looked for in each part."""
        if b'"error"' in self._passed:
            self._read(self._passed)
        self._passed = b""

    def _read(self, event: bytes) -> bool:
        """Read what is notable of an event; True when the event is to be taken out."""
        if b"[DONE]" in event and _DONE.search(event):
            self.done = True
            return False
        if not (_is_notable(event) or b'"error"' in event):
            return False
        hidden = False
        for chunk in _chunks(event):
            if chunk is None:
                continue
            if chunk.error:
                self.done = self.failed = True
            for choice in chunk.choices or ():
                if choice.finish_reason is not None:
                    self._finished.add(choice.index)
            tokens = chunk_tokens(chunk)
            if tokens is not None:
                self.tokens = tokens
                hidden = self._hide_usage and not chunk.choices
        return hidden


def _is_notable(data: bytes) -> bool:
    """Whether there may be a usage, a choice's or the stream's end in *data*; a `finish_reason` of null is none."""
    return b'"usage"' in data or b"[DONE]" in data or b'"finish_reason":"' in data or b'"finish_reason": "' in data


def _is_whole(event: bytes) -> bool:
    return None not in _chunks(event)


def _chunks(event: bytes) -> list[Chunk | None]:
    """Return what the lines of an event say, None for one that cannot be read."""
    found: list[Chunk | None] = []
    for line in event.split(b"\n"):
        if line.startswith(b"data:"):
            try:
                found.append(read_chunk(line[5:]))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                found.append(None)
    return found
