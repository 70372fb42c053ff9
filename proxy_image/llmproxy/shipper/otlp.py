"""From spans to the bytes of OTLP. The only module that knows protobuf.

Each span is encoded with its resource as a batch of its own: the concatenation of several is a batch as well, so that
one can be cut smaller without encoding anything again.
"""

from dataclasses import dataclass

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from llmproxy import __version__
from llmproxy.shipper.attributes import Attributes, Scalar, Value

CLIENT = trace_pb2.Span.SpanKind.SPAN_KIND_CLIENT
INTERNAL = trace_pb2.Span.SpanKind.SPAN_KIND_INTERNAL
_OK = trace_pb2.Status(code=trace_pb2.Status.StatusCode.STATUS_CODE_OK)
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
    resource_pairs = _pairs(resource)
    lists: dict[int, AnyValue] = {}
    made = []
    for span in spans:
        request = ExportTraceServiceRequest()
        resource_spans = request.resource_spans.add()
        resource_spans.resource.attributes.extend(resource_pairs)
        scope_spans = resource_spans.scope_spans.add()
        scope_spans.scope.CopyFrom(_SCOPE)
        _fill(scope_spans.spans.add(), span, lists)
        made.append(request.SerializeToString())
    return made


def _fill(made: trace_pb2.Span, span: Span, lists: dict[int, AnyValue]) -> None:
    made.trace_id = span.trace_id
    made.span_id = span.span_id
    made.parent_span_id = span.parent_id
    made.name = span.name
    made.kind = span.kind
    made.start_time_unix_nano = max(0, span.started_ns)
    made.end_time_unix_nano = max(0, span.ended_ns)
    made.attributes.extend(_pairs(span.attributes, lists))
    for event in span.events:
        made.events.add(name=event.name, time_unix_nano=max(0, event.at_ns), attributes=_pairs(event.attributes))
    if span.error:
        made.status.code = trace_pb2.Status.StatusCode.STATUS_CODE_ERROR
        made.status.message = _text(span.error)
    else:
        made.status.CopyFrom(_OK)


def _pairs(attributes: Attributes, lists: dict[int, AnyValue] | None = None) -> list[KeyValue]:
    return [KeyValue(key=_text(name), value=_any(value, lists)) for name, value in attributes.items()]


def _any(value: Value, lists: dict[int, AnyValue] | None) -> AnyValue:
    if not isinstance(value, list):
        return _scalar(value)
    if lists is None:
        return AnyValue(array_value=ArrayValue(values=[_scalar(item) for item in value]))
    found = lists.get(id(value))  # token ids stand in several spans of a call: encoded once
    if found is None:
        found = lists[id(value)] = AnyValue(array_value=ArrayValue(values=[_scalar(item) for item in value]))
    return found


def _scalar(value: Scalar) -> AnyValue:
    if isinstance(value, str):
        return AnyValue(string_value=_text(value))
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    return AnyValue(double_value=value)


def _text(text: str) -> str:
    """Return *text* without the halves of characters that JSON can hold and UTF-8 cannot."""
    if text.isascii():
        return text
    return text.encode("utf-8", "replace").decode()
