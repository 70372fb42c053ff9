"""Server-sent events: the one reader of them, and the two forms in which they are written. Pure.

An event ends at an empty line; a line ends at LF, CR LF or CR and at nothing else (WHATWG HTML, 9.2.6). U+0085, U+2028
and U+2029 are text, also where Python's `splitlines` breaks.

Work is linear in the bytes of a stream, in whatever pieces they come: no byte of an event is searched twice.
"""

import re
from typing import Final

from llmproxy.protocols.json_fields import encode

MAX_EVENT: Final = 32 << 20
"""Bytes of one event. A larger one is no stream of a model: images in base64 stay below."""
_EVENT_END: Final = re.compile(rb"(?:\r\n?+|\n)(?:\r\n?|\n)")
_LINE_END: Final = re.compile(rb"\r\n?|\n")
_BOM: Final = b"\xef\xbb\xbf"
_LF: Final = 10
_CR: Final = 13
_LINE_ENDS: Final = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))


class EventTooLargeError(Exception):
    """An event has no end within its bound."""


class EventReader:
    """The events of a stream that comes piece by piece, as the bytes that came."""

    __slots__ = ("_after_cr", "_buffer", "_has_cr", "_max_event")

    def __init__(self, max_event: int = MAX_EVENT) -> None:
        self._max_event = max_event
        self._buffer = bytearray()
        """Bytes after the last whole event."""
        self._has_cr = False
        """A CR has come: until then an event's end is LF LF, which is cheaper to search."""
        self._after_cr = False
        """The last event ended in a CR at a piece's border. A LF that follows belongs to it."""

    @property
    def pending(self) -> int:
        """Bytes of an event without an end."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Return each event that *data* completes, its end with it; raise EventTooLargeError."""
        buffer = self._buffer
        if not (buffer or self._after_cr) and _is_one_event(data):  # as nearly all pieces are
            return [data]
        events: list[bytes] = []
        if self._after_cr and data:
            self._after_cr = False
            if data[0] == _LF:
                events.append(data[:1])
                data = data[1:]
        if not self._has_cr:
            self._has_cr = b"\r" in data
        unseen = max(0, len(buffer) - 2)  # an end may have begun in what is here: at most a CR LF
        buffer += data
        cut = 0
        for end in _ends(buffer, unseen, has_cr=self._has_cr):
            events.append(bytes(buffer[cut:end]))
            cut = end
        if cut:
            self._after_cr = cut == len(buffer) and buffer[cut - 1] == _CR
            del buffer[:cut]
        if len(buffer) > self._max_event:
            raise EventTooLargeError
        return events

    def rest(self) -> bytes:
        """Return the bytes after the last whole event, once."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest


def event_data(event: bytes) -> bytes:
    """Return the data of an event, with or without its end; empty for a comment."""
    body = event[:-2] if event.endswith(b"\n\n") else event
    head, _, last = body.rpartition(b"\n")  # one line of data, with or without the event's name before it
    if last.startswith(b"data: ") and not head.startswith(b"data:") and b"\n" not in head and b"\r" not in event:
        return last[6:]
    lines = _LINE_END.split(event.removeprefix(_BOM))
    return b"\n".join([line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")])


def stream_data(body: bytes) -> list[bytes]:
    """Return the data of each event of a whole stream, of a last one without an end too."""
    contents: list[bytes] = []
    start = 0
    for end in [*_ends(body, 0, has_cr=b"\r" in body), len(body)]:
        if data := event_data(body[start:end]):
            contents.append(data)
        start = end
    return contents


def text_bytes(text: bytes) -> bytes:
    """Return JSON with the three characters escaped that some readers of server-sent events take for line ends."""
    if b"\xc2\x85" in text or b"\xe2\x80" in text:
        for raw, escape in _LINE_ENDS:
            text = text.replace(raw, escape)
    return text


def anthropic_event(name: str, content: object) -> bytes:
    """Return an event with its name in `event:` too, which Anthropic's SDKs need."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), text_bytes(encode(content)))


def openai_event(content: object) -> bytes:
    """Return an event of a chat completion's stream."""
    return b"data: %b\n\n" % text_bytes(encode(content))


def _is_one_event(data: bytes) -> bool:
    return data.endswith(b"\n\n") and data.find(b"\n\n") == len(data) - 2 and b"\r" not in data


def _ends(data: bytes | bytearray, start: int, *, has_cr: bool) -> list[int]:
    """Return where the events of *data* end, searching from *start*."""
    if has_cr:
        return [match.end() for match in _EVENT_END.finditer(data, start)]
    ends: list[int] = []
    at = data.find(b"\n\n", start)
    while at >= 0:
        ends.append(at + 2)
        at = data.find(b"\n\n", at + 2)
    return ends
