"""Messages between gateway and shipper on the unix socket, and their frames.

A frame is the length of the rest (unsigned 32-bit, little endian), then a msgpack array of messages. The gateway opens
the connection and sends `GatewayHello` first. Each call of a rollout is sent twice: `Arrival` at its start, so that the
shipper takes the store's sequence id in the order of arrival, and `CallRecord` at its end, with the raw bodies: the
gateway builds no span. The gateway keeps a record until its `DurableAck` and sends it again on a new connection, so the
shipper deduplicates by (gateway, call_id). No message can be part of a cycle, hence `gc=False`: the garbage collector
took a seventh of the shipper's time.
"""

import struct
from collections.abc import Callable, Iterable, Sequence

import msgspec

PROTOCOL = 1
HEADER = struct.Struct("<I")
MAX_FRAME = 64 << 20
"""Bytes after the header. A peer that announces more is broken: close the connection."""
BATCH_BYTES = 256 << 10
"""Bytes of a batch: encoding more at once stalls every stream of the gateway (22-44 ms at 32 MB)."""


class GatewayHello(msgspec.Struct, array_like=True, tag="hello", frozen=True, gc=False):
    """First message of a gateway on a connection."""

    protocol: int
    gateway: str
    """Random name of the gateway process; a restart draws another."""


class Arrival(msgspec.Struct, array_like=True, tag="arrival", frozen=True, gc=False):
    """Start of an admitted call of a rollout; the shipper takes its sequence id now."""

    call_id: int
    rollout_id: str
    attempt_id: str
    arrived_ns: int


class Try(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One request to an upstream."""

    deployment: str
    started_ns: int
    ended_ns: int
    status: int
    """HTTP status of the upstream, 0 if there was none."""
    error: str
    """Empty, or the cause of failure: `connect`, `timeout`, `http_503`, `closed`, ..."""


class CallRecord(msgspec.Struct, array_like=True, tag="call", frozen=True, gc=False):
    """One finished call. Times are Unix nanoseconds; bodies are the raw bytes."""

    call_id: int
    rollout_id: str
    attempt_id: str
    sequence_id: int
    """From the client's `x-sequence-id`, else 0: the shipper asks the store."""
    route: str
    """`chat.completions`, `completions`, `embeddings`, ..."""
    model: str
    """Model name in the client's request."""
    provider: str
    """LiteLLM's name: `openai`, `hosted_vllm`, ..."""
    upstream_model: str
    started_ns: int
    first_byte_ns: int
    """0 if the client was sent no byte of an answer."""
    ended_ns: int
    status: int
    """HTTP status sent to the client."""
    error: str
    """Empty for an answered call; else a short code, `upstream_closed`, `client_closed`, `http_500`, ..."""
    streamed: bool
    request: bytes
    response: bytes
    """Body of the upstream, or its server-sent events, unchanged."""
    tries: list[Try]


class DurableAck(msgspec.Struct, array_like=True, tag="durable", frozen=True):
    """Calls on disk: the gateway forgets them."""

    call_ids: list[int]


class StoredAck(msgspec.Struct, array_like=True, tag="stored", frozen=True):
    """Calls whose spans are in the store: the gateway releases their callers."""

    call_ids: list[int]


class Nack(msgspec.Struct, array_like=True, tag="refused", frozen=True):
    """Calls that the shipper could not keep. Both sides count them; the gateway forgets them."""

    call_ids: list[int]
    reason: str


ToShipper = GatewayHello | Arrival | CallRecord
ToGateway = DurableAck | StoredAck | Nack

_ARRAY = struct.Struct(">BI")
_ARRAY_32 = 0xDD
"""First byte of a msgpack array with a 32-bit length."""
encode: Callable[[ToShipper | ToGateway], bytes] = msgspec.msgpack.Encoder().encode
"""Encoder of one message, for `frame_encoded`."""
decode_to_shipper = msgspec.msgpack.Decoder(list[ToShipper]).decode
decode_to_gateway = msgspec.msgpack.Decoder(list[ToGateway]).decode


def frame(messages: Iterable[ToShipper | ToGateway]) -> bytes:
    """Return *messages* as one frame."""
    return frame_encoded([encode(message) for message in messages])


def frame_encoded(messages: Sequence[bytes]) -> bytes:
    """Return already encoded messages as one frame."""
    payload = b"".join((_ARRAY.pack(_ARRAY_32, len(messages)), *messages))
    return HEADER.pack(len(payload)) + payload
