"""Where the bench keeps things, and which core runs what."""

import os
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
ROOT = SOURCES.parents[1]
BUILD = ROOT / "build/bench"
RESULT = BUILD / "result.json"
PLOT = ROOT / "docs/img/performance.svg"
AGL = ROOT / ".venv-agl/bin"
LOCK = ROOT / "requirements/bench.txt"


def cache() -> Path:
    """Return the folder for programs to compare with; it may be removed at any time."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base.absolute() / "llmproxy-tests/bench"


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where: the proxy has a core to itself."""

    proxy: int
    load: int
    upstream: int
    rest: int
    """For what a proxy hands over to: our shipper."""

    @classmethod
    def choose(cls, available: set[int]) -> "Cores":
        """Give each its own core as far as there are; ValueError when the proxy would have to share."""
        cores = sorted(available)
        if len(cores) < 2:
            raise ValueError("two cores are needed: one for the proxy, one for load and upstream")
        return cls(cores[0], cores[1], cores[min(2, len(cores) - 1)], cores[min(3, len(cores) - 1)])
