"""Content codings of bodies (RFC 9110, 8.4): gzip, deflate, and zstd where Python has it."""

import importlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final

STEP: Final = 1 << 20
"""Bytes of a decoded part."""
_IDENTITY: Final = frozenset({b"", b"identity"})


class CodingError(Exception):
    """The body is not in its coding, or ends early."""


def _zstd() -> "Callable[[], Any] | None":
    for module in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(module).ZstdDecompressor  # type: ignore[no-any-return]
        except ImportError:
            continue
    return None


_ZSTD: Final = _zstd()
SUPPORTED: Final = ("gzip", "deflate", "zstd") if _ZSTD is not None else ("gzip", "deflate")
_NAMES: Final = {b"x-gzip": "gzip", **{name.encode(): name for name in SUPPORTED}}


def coding_of(value: bytes) -> str | None:
    """Return the coding in a Content-Encoding, empty for none; None for one that is not supported."""
    name = value.strip().lower()
    return "" if name in _IDENTITY else _NAMES.get(name)


class Decoder:
    """Decodes one body as its bytes come."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._inner = self._new(coding)
        self._is_empty = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the decoded bytes in parts of at most STEP; raise CodingError."""
        try:
            yield from self._feed_zstd(data) if self._coding == "zstd" else self._feed_zlib(data)
        except CodingError:
            raise
        except Exception as exc:  # each library has an error of its own
            raise CodingError(str(exc)) from exc

    def finish(self) -> None:
        """Raise CodingError when the body has not ended."""
        if not self._inner.eof:
            raise CodingError("the body ends early")

    def _new(self, coding: str) -> Any:  # noqa: ANN401 - of either library
        if coding == "zstd" and _ZSTD is not None:
            return _ZSTD()
        return zlib.decompressobj(31 if coding == "gzip" else zlib.MAX_WBITS)

    def _feed_zlib(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._inner.eof:  # gzip may have several members
                self._inner = self._new(self._coding)
            try:
                part = self._inner.decompress(data, STEP)
            except zlib.error:
                if not self._is_empty or self._coding != "deflate":
                    raise
                self._inner = zlib.decompressobj(-zlib.MAX_WBITS)  # some send deflate without its zlib header
                part = self._inner.decompress(data, STEP)
            self._is_empty = False
            data = self._inner.unconsumed_tail or self._inner.unused_data
            if part:
                yield part

    def _feed_zstd(self, data: bytes) -> Iterator[bytes]:
        while data or not self._inner.needs_input:
            if self._inner.eof:
                self._inner = self._new(self._coding)
            part = self._inner.decompress(data, STEP)
            data = self._inner.unused_data if self._inner.eof else b""
            if part:
                yield part
            if self._inner.eof and not data:
                return
