"""Messages between the pods of one proxy about limits; `connection` carries them.

A frame holds the sender's clock and a list of messages. Clocks of two pods are never compared, only their readings on
one and the same side (see `connection.PeerConnection.earliest`).
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
    """First message of a connection, from both sides."""

    id: str
    """Unique for each start of a process."""
    generation: int
    """0 before the sender has a rank."""
    newest: int
    """Highest generation known to the sender."""
    port: int
    """Port that the sender listens on."""
    addresses: list[tuple[str, int]]
    """Addresses of its other peers."""


class Rank(msgspec.Struct, array_like=True, tag="rank", frozen=True):
    """Rank of the sender: the highest (generation, id) of all connected pods leads."""

    generation: int


class Attach(msgspec.Struct, array_like=True, tag="attach", frozen=True):
    """The sender follows the receiver and admits nothing locally from now on."""

    unreported: bool
    """The history has local admissions, which must be merged. Otherwise it is a replica of *leader*'s."""
    leader: str
    in_flight: dict[str, int]
    """Calls by model; `""` for models outside its document."""
    history: History


class Welcome(msgspec.Struct, array_like=True, tag="welcome", frozen=True):
    """The leader has merged the receiver's counters: it may acquire."""

    history: History


class Redirect(msgspec.Struct, array_like=True, tag="redirect", frozen=True):
    """Another pod leads: its address."""

    host: str
    port: int


class Acquire(msgspec.Struct, array_like=True, tag="acquire", frozen=True):
    """Request for one admission."""

    id: int
    model: str
    tokens: int
    wait_s: float
    """Longest wait in the queue; 0 for none."""
    is_fallback: bool = False
    """See `ModelLimits`."""


class Cancel(msgspec.Struct, array_like=True, tag="cancel", frozen=True):
    """The caller has left. The answer is Rejected, unless Granted was sent before."""

    id: int


class Granted(msgspec.Struct, array_like=True, tag="granted", frozen=True):
    """Admission, valid for *lease_s* from *at_s* by the follower's clock."""

    id: int
    epoch: str
    buckets: Buckets
    at_s: float
    lease_s: float


class Rejected(msgspec.Struct, array_like=True, tag="rejected", frozen=True):
    """Refusal of an admission; without a rejection the caller has left."""

    id: int
    rejection: Rejection | None


class Queued(msgspec.Struct, array_like=True, tag="queued", frozen=True):
    """The request waits in the leader's queue."""

    id: int


class Settle(msgspec.Struct, array_like=True, tag="settle", frozen=True):
    """Actual use of a grant."""

    model: str
    epoch: str
    buckets: Buckets
    charged: int
    tokens: int
    requests: int
    """1 to return the request itself."""
    is_fallback: bool = False


class Release(msgspec.Struct, array_like=True, tag="release", frozen=True):
    """End of a call."""

    model: str


class Copy(msgspec.Struct, array_like=True, tag="copy", frozen=True):
    """Replication: the leader's latest counters, with which a follower could lead."""

    history: History
    whole: bool
    """All buckets, not only the last ones."""


class Detach(msgspec.Struct, array_like=True, tag="detach", frozen=True):
    """The sender follows another pod from now on."""


class Goodbye(msgspec.Struct, array_like=True, tag="goodbye", frozen=True):
    """The sender shuts down."""


Message = (
    Hello
    | Rank
    | Attach
    | Welcome
    | Redirect
    | Acquire
    | Cancel
    | Granted
    | Rejected
    | Queued
    | Settle
    | Release
    | Copy
    | Detach
    | Goodbye
)


class Frame(msgspec.Struct, array_like=True, frozen=True):
    """Unit of transmission."""

    clock_s: float
    messages: list[Message]


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Frame).decode
