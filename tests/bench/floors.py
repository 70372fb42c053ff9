"""What "fast" means here, and whether a run has met it. Pure.

Ratios are against programs measured in the same run: they hold on other machines, absolute numbers only roughly.
"""

from dataclasses import dataclass

from bench.peers import OURS
from bench.results import Found, Result
from bench.shapes import ONE, PACED, SIXTEEN


@dataclass(frozen=True, slots=True)
class Floor:
    """One promise: a number and its bound."""

    title: str
    unit: str
    bound: float
    aim: float
    value: float | None
    """None when what it is compared with was not measured."""
    at_least: bool = False

    @property
    def verdict(self) -> str:
        """PASS, FAIL or, without a value, SKIP."""
        if self.value is None:
            return "SKIP"
        met = self.value >= self.bound if self.at_least else self.value <= self.bound
        return "PASS" if met else "FAIL"

    def line(self) -> str:
        """Return it for a terminal."""
        sign = ">=" if self.at_least else "<="
        value = "not measured" if self.value is None else f"{self.value:.3g}{self.unit}"
        promise = f"floor {sign} {self.bound:g}{self.unit}, aim {self.aim:g}{self.unit}"
        return f"{self.verdict}  {self.title}: {value} ({promise})"


def floors(result: Result) -> list[Floor]:
    """Return every floor that a run can speak of."""
    ours = result.peer(OURS)
    if ours is None:
        return []
    direct, nginx, litellm = (result.peer(name) for name in ("direct", "nginx", "litellm"))
    rps = ours.value(SIXTEEN.name, "rps")
    added = _minus(ours.value(ONE.name, "p50_ms"), _of(direct, ONE.name, "p50_ms"))
    return [
        Floor("CPU of a 1 KB request, all features on", " us", 60, 40, ours.value(SIXTEEN.name, "cpu_us")),
        Floor(
            "requests/s against LiteLLM's proxy",
            "x",
            100,
            180,
            _ratio(rps, _of(litellm, SIXTEEN.name, "rps")),
            at_least=True,
        ),
        Floor(
            "requests/s against nginx proxy_pass",
            "x",
            0.25,
            0.4,
            _ratio(rps, _of(nginx, SIXTEEN.name, "rps")),
            at_least=True,
        ),
        Floor("p50 added at one client", " ms", 0.20, 0.13, added),
        Floor("32 paced streams: CPU of a chunk", " us", 45, 33, ours.value(PACED.name, "chunk_cpu_us")),
        Floor("32 paced streams: lag p99", " ms", 1.5, 1.0, ours.value(PACED.name, "lag_p99_ms")),
        Floor("memory of the gateway", " MB", 60, 40, ours.memory_mb or None),
        Floor("start of the gateway to ready", " s", 1.0, 0.4, ours.start_s or None),
    ]


def _of(peer: Found | None, shape: str, name: str) -> float | None:
    return None if peer is None else peer.value(shape, name)


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
