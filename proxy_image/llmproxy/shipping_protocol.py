"""What the gateway and the shipper say to each other on the unix socket, and nothing else.

Frames in both directions: length of the rest as unsigned 32-bit little endian, then a msgpack array of messages. The
gateway opens the connection and sends `Hello` first. It tells of a call twice: `Arrival` when it begins (the shipper
then takes the store's sequence id, so that the order is that of arrival) and `Call` when it has ended, with the raw
bytes: the gateway builds no span. It keeps a `Call` until it is `Durable` and sends it again on a new connection, so
the shipper must take a repeated one as the same: (gateway, call_id) names it. No message can be part of a cycle, so
none is a garbage collector's business (`gc=False`): it cost a seventh of the shipper's time.
"""

import struct
from collections.abc import Callable, Iterable, Sequence

import msgspec

PROTOCOL = 1
HEADER = struct.Struct("<I")
MAX_FRAME = 64 << 20
"""Bytes after the header. A frame above it is a broken peer: close the connection."""
BATCH_BYTES = 256 << 10
"""A batch is cut at this size: encoding more at once stalls every stream of the gateway (22-44 ms at 32 MB)."""


class Hello(msgspec.Struct, array_like=True, tag="hello", frozen=True, gc=False):
    """First message of a gateway on a connection."""

    protocol: int
    gateway: str
    """Random name of this gateway process; a restarted one has another."""


class Arrival(msgspec.Struct, array_like=True, tag="arrival", frozen=True, gc=False):
    """A call of a rollout has been admitted; its sequence id is to be taken now."""

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
    """Empty, or why this try failed: `connect`, `timeout`, `http_503`, `closed`, ..."""


class Call(msgspec.Struct, array_like=True, tag="call", frozen=True, gc=False):
    """One call that has ended. Times are Unix nanoseconds; bodies are bytes as they were received."""

    call_id: int
    rollout_id: str
    attempt_id: str
    sequence_id: int
    """From the client's `x-sequence-id`, else 0: the shipper asks the store."""
    route: str
    """`chat.completions`, `completions`, `embeddings`, ..."""
    model: str
    """The name that the client asked for."""
    provider: str
    """LiteLLM's name: `openai`, `hosted_vllm`, ..."""
    upstream_model: str
    started_ns: int
    first_byte_ns: int
    """0 when no byte of an answer was sent."""
    ended_ns: int
    status: int
    """HTTP status that the client got."""
    error: str
    """Empty for an answered call; else a short code, `upstream_closed`, `client_closed`, `http_500`, ..."""
    streamed: bool
    request: bytes
    response: bytes
    """The upstream's body, or the server-sent events as they came."""
    tries: list[Try]


class Durable(msgspec.Struct, array_like=True, tag="durable", frozen=True):
    """These calls are on disk: the gateway may forget them."""

    call_ids: list[int]


class Stored(msgspec.Struct, array_like=True, tag="stored", frozen=True):
    """The spans of these calls are in the store."""

    call_ids: list[int]


class Refused(msgspec.Struct, array_like=True, tag="refused", frozen=True):
    """These calls were not kept, and are counted; the gateway forgets them."""

    call_ids: list[int]
    reason: str


ToShipper = Hello | Arrival | Call
ToGateway = Durable | Stored | Refused

_ARRAY = struct.Struct(">BI")
_ARRAY_32 = 0xDD
"""How msgpack begins an array, before its length in 32 bits."""
encode: Callable[[ToShipper | ToGateway], bytes] = msgspec.msgpack.Encoder().encode
"""A message by itself, for `frame_encoded`."""
decode_to_shipper = msgspec.msgpack.Decoder(list[ToShipper]).decode
decode_to_gateway = msgspec.msgpack.Decoder(list[ToGateway]).decode


def frame(messages: Iterable[ToShipper | ToGateway]) -> bytes:
    """Return *messages* as one frame."""
    return frame_encoded([encode(message) for message in messages])


def frame_encoded(messages: Sequence[bytes]) -> bytes:
    """Return messages that are encoded already as one frame."""
    payload = b"".join((_ARRAY.pack(_ARRAY_32, len(messages)), *messages))
    return HEADER.pack(len(payload)) + payload
