"""The kinds of limits, one row each, and the rejection of a request that is over one. No counting here.

A new kind is a row of `KINDS` and a field of `contract.Limits`. Not compiled: messages are decoded into these types.
"""

from math import ceil
from typing import Final, Literal

import msgspec

Scope = Literal["proxy", "model"]

MAX_WAITING = 10_000
"""Requests that may wait for their turn in one pod; one more is rejected at once. Not Final: tests make it smaller."""
PARALLEL_RETRY_S: Final = 1.0
"""Wait of a request over maxParallel: nobody knows when a call ends."""


_LENGTHS: Final = {1: "second", 3600: "hour", 86_400: "24 hours"}


class LimitKind(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One row of the table."""

    name: str
    """In `spec.rateLimits`, metrics, errors, messages between pods and keys of the store."""
    field: str
    """In `contract.Limits`."""
    unit: Literal["requests", "tokens", "calls"]
    """Counted unit: admissions, the tokens charged for them, or calls while they run."""
    window_s: int = 0
    """Length of the window; 0 for calls."""

    def describe(self, limit: int) -> str:
        """Return a limit of this kind in words."""
        if not self.window_s:
            return f"{limit} {self.unit} at one time"
        return f"{limit} {self.unit} in any {_LENGTHS.get(self.window_s, f'{self.window_s} s')}"


MAX_PARALLEL: Final = LimitKind("maxParallel", "max_parallel", "calls")
KINDS: Final = (
    LimitKind("rps", "rps", "requests", 1),
    LimitKind("rpm", "rpm", "requests", 60),
    LimitKind("tpm", "tpm", "tokens", 60),
    LimitKind("rph", "rph", "requests", 3600),
    LimitKind("tph", "tph", "tokens", 3600),
    LimitKind("rpd", "rpd", "requests", 86_400),
    LimitKind("tpd", "tpd", "tokens", 86_400),
    MAX_PARALLEL,
)


class Rejection(msgspec.Struct, array_like=True, frozen=True):
    """A request is over a limit: of several in the way, the one that takes longest."""

    limit_kind: LimitKind
    limit: int
    model: str
    """Empty for a limit of the proxy."""
    retry_after_s: float
    """Earliest time at which this request could be admitted if nothing else came or ended; see `PARALLEL_RETRY_S`."""
    by_proxy: bool
    """One of the limits in the way is the proxy's: no request behind this one may pass."""
    reason: str = ""
    """Why a request that could have waited did not."""

    @property
    def kind(self) -> str:
        """Name of the limit's kind."""
        return self.limit_kind.name

    @property
    def scope(self) -> Scope:
        """Whose limit it is."""
        return "model" if self.model else "proxy"

    @property
    def message(self) -> str:
        """The error's text for the caller."""
        where = f"model {self.model!r}" if self.model else "the proxy"
        what = self.limit_kind.describe(self.limit)
        if self.limit_kind.window_s:
            way_out = f"try again in {_duration(self.retry_after_s)}, or raise {self.kind}"
        else:
            way_out = f"try again when a call has ended, or raise {self.kind}"
        reason = f" {self.reason};" if self.reason else ""
        return f"Rate limit reached: {where} admits {what} ({self.kind});{reason} {way_out}"

    def because(self, reason: str) -> "Rejection":
        """Return the same with a reason."""
        return msgspec.structs.replace(self, reason=reason) if reason else self


def _duration(seconds: float) -> str:
    if seconds < 300:  # noqa: PLR2004 - up to here seconds are easier to read
        return f"{seconds:.3g} s"
    hours, minutes = divmod(ceil(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
