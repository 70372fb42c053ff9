"""The protocol between a gateway and the store of shared limits: arguments and answer of `take.lua`.

No connection here (`redis_client`), no decision (`lease_limiter`).
"""

from importlib.resources import files
from math import floor
from typing import Literal, Protocol

import msgspec

from llmproxy.gateway.limits.local.counters import ConcurrencyLimit, Counters
from llmproxy.gateway.limits.local.kinds import MAX_PARALLEL
from llmproxy.gateway.limits.local.window import BUCKETS, Window

SCRIPT = files("llmproxy.gateway.limits.store").joinpath("take.lua").read_text()
OK = 0
WARMING = 1
"""The store began anew and cannot know what was admitted before: pods go on with their quotas."""
UNKNOWN = 2
"""The store does not count this pod among those that ask it: join first."""
STALE = 3
"""The call is older than STALE_US: nothing of it was taken."""

Flag = Literal["poll", "join", "take", "bye"]
Change = tuple[int, int, int]
"""Window (from 1), number of its bucket (0: the current one), amount (negative: given back)."""
Ask = tuple[list[int], list[int], int, int, int, int]
"""Windows and slots (from 1), requests, tokens for all and for the first of them, and for how long, in us."""


class TakeReply(msgspec.Struct, array_like=True, frozen=True):
    """The store's answer."""

    status: int
    now_us: int
    """The store's clock."""
    pods: list[str]
    results: list[tuple[int, int, int, int]]
    """For each ask: requests, tokens; if none, us until the first fits and what is in the way (from 1)."""
    used: list[int]
    others: list[int]


def buckets_at(now_us: int, counters: Counters) -> tuple[int, ...]:
    """Return the buckets of the store's clock, in the order of `Counters.tickers`: in doubles, as take.lua does."""
    return tuple([floor(float(now_us) * BUCKETS / (ticker.window_s * 1e6)) for ticker in counters.tickers])


class Channel(Protocol):
    """A way to the store."""

    run: str
    """Names the process behind the connection; empty without one."""

    def start(self, listener: "StoreListener") -> None:
        """Connect, and again whenever the connection is lost."""

    def call(self, keys: list[str], payload: bytes) -> None:
        """Run the script; the listener gets the answer."""

    def abort(self) -> None:
        """Break the connection: it does not answer."""

    async def close(self) -> None:
        """Connect no more."""


class StoreListener(Protocol):
    """Receiver of a channel's events."""

    def connected(self) -> None:
        """Take note that calls can be made."""

    def answered(self, data: bytes) -> None:
        """Take the answer to the oldest call."""

    def lost(self, reason: str) -> None:
        """Give up the open calls. Called also when a connection could not be made."""


class CounterIndex:
    """The counters of one call, numbered in the order of their first mention."""

    def __init__(self) -> None:
        self.windows: dict[Window, int] = {}
        self.concurrency: dict[ConcurrencyLimit, int] = {}

    def window(self, window: Window) -> int:
        """Return the number of *window* in this call."""
        return self.windows.setdefault(window, len(self.windows) + 1)

    def slot(self, concurrency: ConcurrencyLimit) -> int:
        """Return the number of *concurrency* in this call."""
        return self.concurrency.setdefault(concurrency, len(self.concurrency) + 1)


class StoreKeys:
    """Names in the store: the proxy's UID, the model, the kind. Not the config: a roll counts on."""

    def __init__(self, uid: str) -> None:
        self._prefix = f"llmproxy:{{{uid}}}"
        self._names: dict[Window | ConcurrencyLimit, str] = {}

    def of(self, index: CounterIndex) -> list[str]:
        """Return all keys that a call touches."""
        keys = [f"{self._prefix}:clock", f"{self._prefix}:pods"]
        keys.extend([self._name(window, window.kind.name) for window in index.windows])
        keys.extend([self._name(concurrency, MAX_PARALLEL.name) for concurrency in index.concurrency])
        return keys

    def _name(self, counter: Window | ConcurrencyLimit, kind: str) -> str:
        name = self._names.get(counter)
        if name is None:
            name = self._names[counter] = f"{self._prefix}:{kind}:{counter.model}"
        return name


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(TakeReply).decode
