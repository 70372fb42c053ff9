"""Support of the tests of limits: the function that judges windows, a clock that tests move, documents, kinds."""

import asyncio
import selectors
from collections.abc import Iterable, Sequence
from typing import Any

from llmproxy import contract
from llmproxy.gateway.limits.local import kinds

KINDS = (
    *kinds.KINDS,
    kinds.LimitKind("rp10s", "rp10s", "requests", 10),
    kinds.LimitKind("tp10s", "tp10s", "tokens", 10),
    kinds.LimitKind("rp3d", "rp3d", "requests", 3 * 86_400),
)
"""The product's kinds and some of the tests' own: whatever holds for a kind must hold for every row of the table."""
SECONDS = {kind.name: float(kind.window_s) for kind in KINDS if kind.window_s}


class Limits(contract.Limits):
    """Limits of all `KINDS`."""

    rp10s: int | None = None
    tp10s: int | None = None
    rp3d: int | None = None


def worst_window(admissions: Iterable[tuple[float, int]], window_s: float) -> int:
    """Return the largest sum of amounts in any window [t, t + window_s) of *admissions*, given as (time, amount)."""
    ordered = sorted(admissions)
    worst = total = first = 0
    for time_s, amount in ordered:
        total += amount
        while ordered[first][0] <= time_s - window_s:
            total -= ordered[first][1]
            first += 1
        worst = max(worst, total)
    return worst


def rate(admissions: Sequence[tuple[float, int]], begin: float, end: float) -> float:
    """Return amounts per second from *begin* to *end*."""
    return sum(amount for time_s, amount in admissions if begin <= time_s < end) / (end - begin)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class _Skipping(selectors.DefaultSelector):
    """Waits for nothing: the time until the next timer has passed already."""

    clock: Clock

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("nothing can ever happen any more")
        if not ready and timeout:
            self.clock.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is *clock*: sleeping takes none of ours."""

    def __init__(self, clock: Clock) -> None:
        selector = _Skipping()
        selector.clock = clock
        self._virtual = clock
        super().__init__(selector)

    def time(self) -> float:
        return self._virtual.now


def document(
    proxy: dict[str, int] | None = None,
    models: dict[str, dict[str, int]] | None = None,
    queue_s: float | None = None,
) -> contract.Document:
    """Return a document with these limits (fields of `KINDS`); *queue_s* makes overflow wait."""
    overflow = {} if queue_s is None else {"mode": "Queue", "max_queue_time_s": queue_s}
    models = models or {"m": {}}
    bare = contract.Document.model_validate(
        {
            "proxy": {"name": "p", "namespace": "n"},
            "overflow": overflow,
            "models": [{"name": name, "deployments": [{"id": f"{name}/0", "model": "openai/x"}]} for name in models],
        }
    )
    limited = tuple(
        model.model_copy(update={"rate_limits": Limits.model_validate(limits)})
        for model, limits in zip(bare.models, models.values(), strict=True)
    )
    return bare.model_copy(update={"rate_limits": Limits.model_validate(proxy or {}), "models": limited})
