"""What a gateway under measurement is to the rest of the bench."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.places import Cores
from procs import Process, running

KEY = "sk-bench-4f1d9c7a2b6e8035"
"""LiteLLM wants one that is not weak; who does not care ignores it."""
PATH = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Place:
    """Where to start."""

    folder: Path
    port: int
    upstream_port: int
    cores: Cores

    @property
    def upstream(self) -> str:
        """URL of the upstream, without a path."""
        return f"http://127.0.0.1:{self.upstream_port}"


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway that answers."""

    port: int
    pids: tuple[int, ...]
    start_s: float
    """From its start until it took connections, or said that it is ready."""
    path: str = PATH
    headers: Mapping[str, str] = field(default_factory=lambda: {"Authorization": f"Bearer {KEY}"})
    helpers: tuple[int, ...] = ()
    unrecorded: Callable[[], int] | None = None
    """How many calls have no record so far, where records are made."""
    notes: dict[str, float] = field(default_factory=dict)
    """Filled at the end: what else the gateway says of the run."""


class Peer(Protocol):
    """One gateway."""

    @property
    def name(self) -> str:
        """For options and the result file."""

    @property
    def title(self) -> str:
        """For people."""

    def missing(self) -> str:
        """Return why it cannot be measured here, with the way out; empty if it can. May install it."""

    def version(self) -> str:
        """Return what is measured."""

    def run(self, place: Place) -> AbstractContextManager[Running]:
        """Start it on `place.cores.proxy`, and end it after the block."""


@contextmanager
def alone(place: Place, *command: str, env: Mapping[str, str] | None = None) -> Iterator[tuple[Process, float]]:
    """Run *command* on the proxy's core until the block ends; it begins when the port takes connections."""
    began = time.monotonic()
    with running(
        "taskset", "-c", str(place.cores.proxy), *command, port=place.port, env={"PYTHONPATH": "", **(env or {})}
    ) as process:
        yield process, time.monotonic() - began


@contextmanager
def simple(
    place: Place, *command: str, env: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Run a gateway that is one command."""
    with alone(place, *command, env=env) as (process, start_s):
        given = {"Authorization": f"Bearer {KEY}", **(headers or {})}
        yield Running(place.port, (process.pid,), start_s, headers=given)
