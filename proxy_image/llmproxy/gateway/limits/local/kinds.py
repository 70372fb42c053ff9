"""The kinds of limits and what is said about them; no counting here.

Every number that the limits rest on stands in this module or in `window`.
"""

from dataclasses import dataclass
from typing import Final, Literal

KindName = Literal["rpm", "rps", "tpm", "maxParallel"]
Scope = Literal["proxy", "model"]

MINUTE_S: Final = 60.0
SECOND_S: Final = 1.0
MAX_WAITING = 10_000
"""Requests that may wait for their turn in one pod; one more is refused at once."""
PARALLEL_RETRY_S: Final = 1.0
"""Said to a request over maxParallel: nobody knows when a call ends."""

_WHAT: Final = {
    "rpm": "{limit} requests in any 60 s",
    "rps": "{limit} requests in any second",
    "tpm": "{limit} tokens in any 60 s",
    "maxParallel": "{limit} calls at one time",
}


@dataclass(frozen=True, slots=True)
class Denial:
    """A request is over a limit.

    `retry_after_s` is the earliest time at which this request could be admitted if nothing else came or ended; for
    maxParallel, where that is unknown, it is `PARALLEL_RETRY_S`.
    """

    retry_after_s: float
    message: str
    kind: KindName
    scope: Scope


def denial(kind: KindName, limit: int, model: str, retry_after_s: float, reason: str = "") -> Denial:
    """Return the Denial by a limit of *model*, or of the whole proxy when *model* is empty.

    *reason* is added for a request that waited in vain or could not wait.
    """
    where = f"model {model!r}" if model else "the proxy"
    what = _WHAT[kind].format(limit=limit)
    if kind == "maxParallel":
        way_out = "try again when a call has ended, or raise maxParallel"
    else:
        way_out = f"try again in {retry_after_s:.3g} s, or raise {kind}"
    said = f" {reason};" if reason else ""
    message = f"Rate limit reached: {where} admits {what} ({kind});{said} {way_out}"
    return Denial(retry_after_s, message, kind, "model" if model else "proxy")
