"""Counters as data: the form in which they go to another pod or to a file. Not compiled: files are decoded into it."""

import msgspec

Buckets = dict[int, int]
"""Bucket numbers, or what to add to them, by the length of the window in seconds."""


class WindowCounts(msgspec.Struct, array_like=True, frozen=True):
    """The buckets of one limit, oldest first."""

    model: str
    kind: str
    limit: int
    first: int
    """Number of the first bucket."""
    amounts: list[int]


class History(msgspec.Struct, array_like=True, frozen=True):
    """All counters of a pod."""

    epoch: str
    now_s: float
    """Seconds since bucket 0 began, when this was sent. It is later when it arrives, so what was counted looks a little
    younger than it is and is kept a little longer: the safe side."""
    windows: list[WindowCounts]
    foreign: dict[str, Buckets]
    """See `Counters.foreign`."""
