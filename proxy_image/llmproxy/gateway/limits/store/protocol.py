"""What a gateway and the store of shared limits say to each other: the arguments and the answer of `take.lua`.

No connection here (`resp`), no decision (`shared`).
"""

from bisect import bisect_left
from importlib.resources import files
from typing import Literal, Protocol, get_args

import msgspec

from llmproxy.gateway.limits.local.counters import Slots
from llmproxy.gateway.limits.local.window import Window

SCRIPT = files("llmproxy.gateway.limits.store").joinpath("take.lua").read_text()
OK = 0
WARMING = 1
"""The store began anew and cannot know what was admitted before: pods go on with their shares."""
UNKNOWN = 2
"""The store does not count this pod among those that ask it: join first."""

Flag = Literal["poll", "join", "take", "bye"]
Change = tuple[int, int, int]
"""Window (from 1), number of its bucket (0: the current one), amount (negative: given back)."""
Ask = tuple[list[int], list[int], int, int, int, int]
"""Windows and slots (from 1), requests, tokens for all and for the first of them, and for how long, in us."""


class Reply(msgspec.Struct, array_like=True, frozen=True):
    """The store's answer."""

    status: int
    now_us: int
    minute: int
    second: int
    pods: list[str]
    results: list[tuple[int, int, int, int]]
    """For each ask: requests, tokens; if none, us until the first fits and what is in the way (from 1)."""
    used: list[int]
    others: list[int]


LATENCY_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)
Cause = Literal["lost", "late", "anew", "out"]
"""The connection was lost or not made; no answer in time; the store began anew; it had counted this pod out."""


class Told:
    """What a pod's conversation with the store came to; only ever grows."""

    def __init__(self) -> None:
        self.calls = 0
        self.cuts = 0
        """How often the pod went apart."""
        self.failures: dict[Cause, int] = dict.fromkeys(get_args(Cause), 0)
        self.seconds = 0.0
        self.latency = [0] * (len(LATENCY_S) + 1)
        """Answers by how long they took: up to each of LATENCY_S, and longer."""

    def answered(self, took_s: float) -> None:
        """Count one answer."""
        self.seconds += took_s
        self.latency[bisect_left(LATENCY_S, took_s)] += 1


class Channel(Protocol):
    """A way to the store."""

    run: str
    """Names the process behind the connection; empty without one."""

    def start(self, owner: "Owner") -> None:
        """Connect, and again whenever the connection is lost."""

    def call(self, keys: list[str], payload: bytes) -> None:
        """Run the script; the owner hears the answer."""

    def abort(self) -> None:
        """Break the connection: it does not answer."""

    async def close(self) -> None:
        """Connect no more."""


class Owner(Protocol):
    """Hears from a channel."""

    def connected(self) -> None:
        """Calls can be made."""

    def answered(self, data: bytes) -> None:
        """The answer to the oldest call."""

    def lost(self, reason: str) -> None:
        """No call that is open will be answered. Called also when a connection could not be made."""


class Part:
    """The windows and slots that one call speaks of, in the order of their first mention."""

    def __init__(self) -> None:
        self.windows: dict[Window, int] = {}
        self.slots: dict[Slots, int] = {}

    def window(self, window: Window) -> int:
        """Return the number of *window* in this call."""
        return self.windows.setdefault(window, len(self.windows) + 1)

    def slot(self, slots: Slots) -> int:
        """Return the number of *slots* in this call."""
        return self.slots.setdefault(slots, len(self.slots) + 1)


class Keys:
    """Names in the store: the proxy's UID, the model, the kind. Not the config: a roll counts on."""

    def __init__(self, uid: str) -> None:
        self._prefix = f"llmproxy:{{{uid}}}"
        self._names: dict[Window | Slots, str] = {}

    def of(self, part: Part) -> list[str]:
        """Return all keys that a call touches."""
        keys = [f"{self._prefix}:clock", f"{self._prefix}:pods"]
        keys.extend([self._name(window, window.kind) for window in part.windows])
        keys.extend([self._name(slots, "maxParallel") for slots in part.slots])
        return keys

    def _name(self, counted: Window | Slots, kind: str) -> str:
        name = self._names.get(counted)
        if name is None:
            name = self._names[counted] = f"{self._prefix}:{kind}:{counted.model}"
        return name


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Reply).decode
