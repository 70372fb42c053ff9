"""No proxy at all: what the rig itself takes."""

from collections.abc import Iterator
from contextlib import contextmanager

from bench.peers.base import Place, Running


class Direct:
    """The upstream itself."""

    name = "direct"
    title = "no proxy"

    def missing(self) -> str:
        return ""

    def version(self) -> str:
        return "the upstream itself"

    @contextmanager
    def run(self, place: Place) -> Iterator[Running]:
        yield Running(place.upstream_port, (), 0.0)
