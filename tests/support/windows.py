"""What tests of limits share: the one function that judges windows, a clock that tests move, and documents."""

import asyncio
import selectors
from collections.abc import Iterable, Sequence
from typing import Any

from llmproxy import contract


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
    """Return a document with these limits (`rpm`, `rps`, `tpm`, `max_parallel`); *queue_s* makes overflow wait."""
    overflow = {} if queue_s is None else {"mode": "Queue", "max_queue_time_s": queue_s}
    return contract.Document.model_validate(
        {
            "proxy": {"name": "p", "namespace": "n"},
            "rate_limits": proxy or {},
            "overflow": overflow,
            "models": [
                {"name": name, "rate_limits": limits, "deployments": [{"id": f"{name}/0", "model": "openai/x"}]}
                for name, limits in (models or {"m": {}}).items()
            ],
        }
    )
