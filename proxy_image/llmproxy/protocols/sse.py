"""What both directions share: JSON as it goes over the wire, errors that name a field, server-sent events in and out.

A stream is read in whatever pieces it comes; an event ends at an empty line, a line at LF or CR LF and at nothing
else (WHATWG HTML, 9.2.6, without the lone CR that no model server sends).
"""

import re
from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

Json = dict[str, Any]
Fields = Mapping[str, msgspec.Raw]
"""The top level of a body; what is not looked at stays the bytes that came."""

encode: Final = msgspec.json.encode
decode: Final = msgspec.json.Decoder().decode
decode_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

NULL: Final = b"null"
_EVENT_END: Final = re.compile(rb"\r?\n\r?\n")
_LINE_ENDS: Final = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))


class MappingError(Exception):
    """A request cannot be said in the other protocol; `param` is the field, the message begins with it."""

    def __init__(self, param: str, problem: str) -> None:
        super().__init__(f"{param}: {problem}")
        self.param = param


def value(fields: Fields, name: str, kind: object, what: str) -> Any:  # noqa: ANN401 - *kind* says it
    """Return the field *name* as *kind*, None when it is absent or null; raise MappingError."""
    raw = fields.get(name)
    if raw is None or bytes(raw) == NULL:
        return None
    try:
        return msgspec.json.decode(raw, type=cast("Any", kind))
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise MappingError(name, f"must be {what}: {exc}") from exc


def refuse_unknown(given: Mapping[str, Any], known: frozenset[str], path: str) -> None:
    """Raise MappingError for a key of a part that the other protocol cannot say; null says nothing."""
    for name, found in given.items():
        if name not in known and found is not None:
            raise MappingError(f"{path}.{name}", "has no counterpart in the model server's protocol: leave it out")


def text_bytes(made: bytes) -> bytes:
    """Return JSON with the three characters escaped that some readers of server-sent events take for line ends."""
    if b"\xc2\x85" in made or b"\xe2\x80" in made:
        for raw, escape in _LINE_ENDS:
            made = made.replace(raw, escape)
    return made


def anthropic_event(name: str, content: object) -> bytes:
    """Return an event of a messages stream; its name stands in `event:` too, which Anthropic's SDKs need."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), text_bytes(encode(content)))


def openai_event(content: object) -> bytes:
    """Return an event of a chat completion's stream."""
    return b"data: %b\n\n" % text_bytes(encode(content))


class Events:
    """The data of the events in a stream that comes piece by piece."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b""

    @property
    def pending(self) -> int:
        """Bytes of an event without an end."""
        return len(self._tail)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the data of each event that *data* completes."""
        if not self._tail and _is_one_event(data):  # as nearly all parts are
            content = _content(data[:-2])
            return [content] if content else []
        scanned = max(0, len(self._tail) - 3)
        data = self._tail + data
        found: list[bytes] = []
        start = 0
        for end in _EVENT_END.finditer(data, scanned):
            if content := _content(data[start : end.start()]):
                found.append(content)
            start = end.end()
        self._tail = data[start:]
        return found

    def rest(self) -> list[bytes]:
        """Return the data of a last event that its server did not end."""
        tail, self._tail = self._tail, b""
        content = _content(tail)
        return [content] if content else []


def _is_one_event(data: bytes) -> bool:
    return data.endswith(b"\n\n") and data.find(b"\n\n") == len(data) - 2 and b"\r" not in data


def _content(event: bytes) -> bytes:
    head, _, last = event.rpartition(b"\n")  # one line of data, with or without the event's name before it
    if last.startswith(b"data: ") and not head.startswith(b"data:") and b"\n" not in head and b"\r" not in event:
        return last[6:]
    lines = [
        line[5:].removeprefix(b" ")
        for raw in event.split(b"\n")
        if (line := raw.removesuffix(b"\r")).startswith(b"data:")
    ]
    return b"\n".join(lines)
