"""From spans to the bytes of OTLP. The only module that knows protobuf.

Each span is encoded with its resource as a batch of its own: the concatenation of several is a batch as well, so that
one can be cut smaller without encoding anything again. Attributes are written by hand, since the library's
objects cost twice as much; a test holds them equal to what it writes.
"""

import struct
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.trace.v1 import trace_pb2

from llmproxy import __version__
from llmproxy.shipper.attributes import Attributes, Scalar, Value

CLIENT = trace_pb2.Span.SpanKind.SPAN_KIND_CLIENT
INTERNAL = trace_pb2.Span.SpanKind.SPAN_KIND_INTERNAL
_OK = trace_pb2.Status(code=trace_pb2.Status.StatusCode.STATUS_CODE_OK)
_SPAN_ATTRIBUTES, _EVENT_ATTRIBUTES, _RESOURCE_ATTRIBUTES = b"\x4a", b"\x1a", b"\x0a"
"""Tags of the field that holds the attributes."""
_MAX_CACHED = 8192
_SCOPE = InstrumentationScope(name="llmproxy", version=__version__)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a span."""

    name: str
    at_ns: int
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Span:
    """One span, before it is encoded."""

    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    """Empty for a root."""
    name: str
    started_ns: int
    ended_ns: int
    attributes: Attributes
    error: str = ""
    """Empty for one that went well."""
    events: tuple[Event, ...] = ()
    kind: "trace_pb2.Span.SpanKind.ValueType" = INTERNAL


def encode(resource: Attributes, spans: list[Span]) -> list[bytes]:
    """Return each span as a serialized ExportTraceServiceRequest."""
    shared = attributes_field(_RESOURCE_ATTRIBUTES, resource)
    made = []
    for span in spans:
        request = ExportTraceServiceRequest()
        resource_spans = request.resource_spans.add()
        resource_spans.resource.MergeFromString(shared)
        scope_spans = resource_spans.scope_spans.add()
        scope_spans.scope.CopyFrom(_SCOPE)
        _fill(scope_spans.spans.add(), span)
        made.append(request.SerializeToString())
    return made


def _fill(made: trace_pb2.Span, span: Span) -> None:
    made.trace_id = span.trace_id
    made.span_id = span.span_id
    made.parent_span_id = span.parent_id
    made.name = span.name
    made.kind = span.kind
    made.start_time_unix_nano = max(0, span.started_ns)
    made.end_time_unix_nano = max(0, span.ended_ns)
    made.MergeFromString(attributes_field(_SPAN_ATTRIBUTES, span.attributes))
    for event in span.events:
        told = made.events.add(name=event.name, time_unix_nano=max(0, event.at_ns))
        told.MergeFromString(attributes_field(_EVENT_ATTRIBUTES, event.attributes))
    if span.error:
        made.status.code = trace_pb2.Status.StatusCode.STATUS_CODE_ERROR
        made.status.message = _utf8(span.error).decode()
    else:
        made.status.CopyFrom(_OK)


def rejected(answer: bytes) -> int:
    """Return how many spans a receiver says that it has dropped of a batch that it took."""
    try:
        count: int = ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans
    except DecodeError:
        return 0  # taken is taken, whatever the answer says besides
    return max(0, count)


def attributes_field(tag: bytes, attributes: Attributes) -> bytes:
    """Return *attributes* as the repeated field of KeyValues that *tag* begins."""
    made: list[bytes] = []
    for name, value in attributes.items():
        key = _key(name)
        worth = _any(value)
        size = _varint(len(worth))
        made += (tag, _varint(len(key) + 1 + len(size) + len(worth)), key, b"\x12", size, worth)
    return b"".join(made)


_keys: dict[str, bytes] = {}
_ints: dict[int, bytes] = {}


def _key(name: str) -> bytes:
    """Return the field of a KeyValue that is its key. Most names are the same in every span."""
    found = _keys.get(name)
    if found is None:
        found = _sized(b"\x0a", _utf8(name))
        if len(_keys) < _MAX_CACHED:
            _keys[name] = found
    return found


def _any(value: Value) -> bytes:
    """Return an AnyValue."""
    if isinstance(value, list):
        return _sized(b"\x2a", b"".join([_element(item) for item in value]))
    return _scalar(value)


def _element(value: Scalar) -> bytes:
    """Return a value of an ArrayValue. Token ids come again and again."""
    if type(value) is not int:
        return _sized(b"\x0a", _scalar(value))
    found = _ints.get(value)
    if found is None:
        found = _sized(b"\x0a", _scalar(value))
        if len(_ints) < _MAX_CACHED:
            _ints[value] = found
    return found


def _scalar(value: Scalar) -> bytes:
    if isinstance(value, str):
        return _sized(b"\x0a", _utf8(value))
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + _varint(value & 0xFFFFFFFFFFFFFFFF)
    return b"\x21" + struct.pack("<d", value)


def _sized(tag: bytes, data: bytes) -> bytes:
    return tag + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    return _VARINTS[number] if number < len(_VARINTS) else _long_varint(number)


def _long_varint(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - one byte holds 7 bits
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)


_VARINTS = [_long_varint(i) for i in range(1 << 14)]
"""Those of one and two bytes: nearly every length."""


def _utf8(text: str) -> bytes:
    """Return *text* as UTF-8, without the halves of characters that JSON can hold and UTF-8 cannot."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")
