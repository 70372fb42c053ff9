"""OTLP encoding of spans, in protobuf.

Each span is encoded with its resource as a batch of its own. A concatenation of batches is a batch, so a batch is split
without encoding again. The encoder is hand-written, since the library's objects cost several times as much; a test
compares its bytes with the library's.
"""

import struct
from dataclasses import dataclass
from typing import cast

from llmproxy import __version__
from llmproxy.shipper.spans.attributes import Attributes, Scalar, Value

INTERNAL, CLIENT = 1, 3
"""Span kinds."""
_OK, _ERROR = b"\x18\x01", b"\x18\x02"
"""Field `code` of a Status."""
_SPAN_ATTRIBUTES, _EVENT_ATTRIBUTES, _RESOURCE_ATTRIBUTES = b"\x4a", b"\x1a", b"\x0a"
"""Tags of the `attributes` field."""
_MAX_CACHED = 8192


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """Event of a span."""

    name: str
    at_ns: int
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Span:
    """One span before its encoding."""

    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    """Empty for a root."""
    name: str
    started_ns: int
    ended_ns: int
    attributes: Attributes
    error: str = ""
    """Empty for a span with status OK."""
    events: tuple[SpanEvent, ...] = ()
    kind: int = INTERNAL


def encode(resource: Attributes, spans: list[Span]) -> list[bytes]:
    """Return each span as a serialized ExportTraceServiceRequest."""
    shared = _sized(b"\x0a", attributes_field(_RESOURCE_ATTRIBUTES, resource))
    batches = []
    for span in spans:
        scope_spans = _sized(b"\x12", _SCOPE + _sized(b"\x12", _span(span)))
        batches.append(_sized(b"\x0a", shared + scope_spans))
    return batches


def _span(span: Span) -> bytes:
    """Return a Span, its fields in the order of their numbers."""
    status = _sized(b"\x12", _utf8(span.error)) + _ERROR if span.error else _OK
    return b"".join(
        (
            _sized(b"\x0a", span.trace_id),
            _sized(b"\x12", span.span_id),
            _sized(b"\x22", span.parent_id) if span.parent_id else b"",
            _sized(b"\x2a", _utf8(span.name)),
            b"\x30" + _varint(span.kind),
            b"\x39" + _time(span.started_ns),
            b"\x41" + _time(span.ended_ns),
            attributes_field(_SPAN_ATTRIBUTES, span.attributes),
            *(_sized(b"\x5a", _event(event)) for event in span.events),
            _sized(b"\x7a", status),
        )
    )


def _event(event: SpanEvent) -> bytes:
    name = _sized(b"\x12", _utf8(event.name))
    return b"\x09" + _time(event.at_ns) + name + attributes_field(_EVENT_ATTRIBUTES, event.attributes)


def attributes_field(tag: bytes, attributes: Attributes) -> bytes:
    """Return *attributes* as a repeated field of KeyValues with *tag*."""
    parts: list[bytes] = []
    for name, value in attributes.items():
        key = _keys.get(name) or _key(name)
        if type(value) is str:
            data = _utf8(value)
            size = len(data)
            head = _TEXTS[size] if size < _FEW else _text_head(size)
            size += len(key) + len(head)
            parts += (tag, _VARINTS[size] if size < _FEW else _long_varint(size), key, head, data)
        else:
            data = _any(value)
            head = _varint(len(data))
            parts += (tag, _varint(len(key) + len(head) + len(data)), key, head, data)
    return b"".join(parts)


_keys: dict[str, bytes] = {}
_ints: dict[int, bytes] = {}


def _key(name: str) -> bytes:
    """Return a KeyValue up to the length of its value; cached, since most names recur in every span."""
    head = _sized(b"\x0a", _utf8(name)) + b"\x12"
    if len(_keys) < _MAX_CACHED:
        _keys[name] = head
    return head


def _any(value: Value) -> bytes:
    """Return an AnyValue."""
    if not isinstance(value, list):
        return _scalar(value)
    if type(value[0]) is int:  # all are: token ids, mostly, which come again and again
        return _sized(b"\x2a", b"".join([_ints.get(item) or _int(item) for item in cast("list[int]", value)]))
    return _sized(b"\x2a", b"".join([_sized(b"\x0a", _scalar(item)) for item in value]))


def _int(value: int) -> bytes:
    """Return an integer element of an ArrayValue."""
    element = _sized(b"\x0a", _scalar(value))
    if len(_ints) < _MAX_CACHED:
        _ints[value] = element
    return element


def _scalar(value: Scalar) -> bytes:
    if isinstance(value, str):
        return _sized(b"\x0a", _utf8(value))
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + _varint(value & 0xFFFFFFFFFFFFFFFF)
    return b"\x21" + struct.pack("<d", value)


def _time(at_ns: int) -> bytes:
    return struct.pack("<Q", max(0, at_ns))


def _sized(tag: bytes, data: bytes) -> bytes:
    return tag + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    return _VARINTS[number] if number < _FEW else _long_varint(number)


def _long_varint(number: int) -> bytes:
    data = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - one byte holds 7 bits
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


def _text_head(size: int) -> bytes:
    """Return the length and head of an AnyValue with a text of *size* bytes."""
    head = b"\x0a" + _long_varint(size)
    return _long_varint(len(head) + size) + head


def _utf8(text: str) -> bytes:
    """Return *text* as UTF-8, with lone surrogates, which JSON allows and UTF-8 does not, replaced."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


_FEW = 1 << 14
"""Limit of one- and two-byte varints, nearly every length; they are looked up."""
_VARINTS = [_long_varint(i) for i in range(_FEW)]
_TEXTS = [_text_head(i) for i in range(_FEW)]
_SCOPE = _sized(b"\x0a", _sized(b"\x0a", b"llmproxy") + _sized(b"\x12", _utf8(__version__)))
