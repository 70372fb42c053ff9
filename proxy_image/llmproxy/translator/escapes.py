"""Escapes three characters in JSON before litellm reads it. Pure.

U+0085, U+2028 and U+2029 are legal inside a JSON string, and so inside a server-sent event. litellm reads streams by a
splitter of lines that takes them for line ends: it loses the chunk, or all that follows it, without an error. Outside
of strings JSON has none of them, so replacing them wherever they are changes no value. Bodies that are no text stay as
they are: AWS streams in binary frames, whose checksums cover every byte.
"""

import re

_ESCAPES = {b"\xc2\x85": b"\\u0085", b"\xe2\x80\xa8": b"\\u2028", b"\xe2\x80\xa9": b"\\u2029"}
_PATTERN = re.compile(b"\xc2\x85|\xe2\x80[\xa8\xa9]")
_BEGINNINGS = (b"\xe2\x80", b"\xe2", b"\xc2")


def is_text(content_type: str) -> bool:
    """Return True if a body of *content_type* may be escaped; without a type it is nearly always JSON."""
    kind = content_type.partition(";")[0].strip().lower()
    return not kind or kind.startswith("text/") or "json" in kind


def escape(data: bytes) -> bytes:
    """Return *data* with the three escaped; *data* does not end within one of them."""
    return _PATTERN.sub(lambda match: _ESCAPES[match.group()], data)


class StreamEscaper:
    """Escapes in a stream of bytes, also where a character is cut in two."""

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, data: bytes) -> bytes:
        """Return the bytes that may be read now: all but the beginning of one of the three at the end."""
        data = self._tail + data
        self._tail = next((begin for begin in _BEGINNINGS if data.endswith(begin)), b"")
        return escape(data[: len(data) - len(self._tail)])

    def rest(self) -> bytes:
        """Return the bytes held back, at the end of the stream."""
        tail, self._tail = self._tail, b""
        return tail
