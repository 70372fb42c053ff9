"""What gateways of one proxy say to each other about limits, and nothing else; `wire` carries it.

A frame holds the sender's clock and a list of messages. Clocks of two pods are never compared, only their readings on
one and the same side (see `wire.Link.earliest`).
"""

import msgspec

from llmproxy.gateway.limits.local.history import Buckets, History
from llmproxy.gateway.limits.local.kinds import Rejection

PROTOCOL = b"llmproxy-peers/3"
MAX_FRAME = 8 << 20
"""Bytes. 64 models with every limit are about 0.4 MB; a frame above this is a broken peer: the connection is closed."""
MAX_BATCH = 500
"""Messages in a frame."""


class Hello(msgspec.Struct, array_like=True, tag="hello", frozen=True):
    """First message on a connection, from both sides."""

    id: str
    """Another one for each start of a process."""
    generation: int
    """0 while it has not decided."""
    newest: int
    """The highest generation it has heard of."""
    port: int
    """Where it listens."""
    known: list[tuple[str, int]]
    """Addresses of the others that it is connected to."""


class Rank(msgspec.Struct, array_like=True, tag="rank", frozen=True):
    """The sender has decided: the highest (generation, id) of all that are connected is the authority."""

    generation: int


class Attach(msgspec.Struct, array_like=True, tag="attach", frozen=True):
    """The sender admits nothing by itself from now on, and asks the receiver."""

    authority: bool
    """It admitted by itself until now: what it tells must be added. Otherwise it is a copy of what *leader* has."""
    leader: str
    in_flight: dict[str, int]
    """Its calls by model; `""` for those of models that are not in its document."""
    history: History


class Welcome(msgspec.Struct, array_like=True, tag="welcome", frozen=True):
    """The receiver's counters were taken over: it may ask."""

    history: History


class Elsewhere(msgspec.Struct, array_like=True, tag="elsewhere", frozen=True):
    """Another pod decides."""

    host: str
    port: int


class Ask(msgspec.Struct, array_like=True, tag="ask", frozen=True):
    """May this request be admitted?"""

    id: int
    model: str
    tokens: int
    wait_s: float
    """How long it may stand in line; 0 for not at all."""
    is_fallback: bool = False
    """See `ModelLimits`."""


class Drop(msgspec.Struct, array_like=True, tag="drop", frozen=True):
    """The caller of this request has left: answered with Rejected, unless Granted was sent before."""

    id: int


class Granted(msgspec.Struct, array_like=True, tag="granted", frozen=True):
    """It may, if it is used within *lease_s* of *at_s*, a reading of the asker's clock."""

    id: int
    epoch: str
    buckets: Buckets
    at_s: float
    lease_s: float


class Rejected(msgspec.Struct, array_like=True, tag="rejected", frozen=True):
    """It may not; without a rejection, its caller has left."""

    id: int
    rejection: Rejection | None


class Queued(msgspec.Struct, array_like=True, tag="queued", frozen=True):
    """It stands in line."""

    id: int


class Settle(msgspec.Struct, array_like=True, tag="settle", frozen=True):
    """What a granted request really used."""

    model: str
    epoch: str
    buckets: Buckets
    charged: int
    tokens: int
    requests: int
    """1 if the request itself is given back."""
    is_fallback: bool = False


class Release(msgspec.Struct, array_like=True, tag="release", frozen=True):
    """A call has ended."""

    model: str


class Copy(msgspec.Struct, array_like=True, tag="copy", frozen=True):
    """What the authority has counted lately, so that those who ask it could go on without it."""

    history: History
    whole: bool
    """All buckets, not only the last ones."""


class Detach(msgspec.Struct, array_like=True, tag="detach", frozen=True):
    """The sender asks another pod from now on."""


class Bye(msgspec.Struct, array_like=True, tag="bye", frozen=True):
    """The sender ends."""


Message = (
    Hello
    | Rank
    | Attach
    | Welcome
    | Elsewhere
    | Ask
    | Drop
    | Granted
    | Rejected
    | Queued
    | Settle
    | Release
    | Copy
    | Detach
    | Bye
)


class Frame(msgspec.Struct, array_like=True, frozen=True):
    """What is sent at once."""

    clock_s: float
    messages: list[Message]


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Frame).decode
