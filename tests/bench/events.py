"""CPU of long server-sent events, which arrive in pieces: a MB of an event of 16 MB costs what one of 1 MB costs.

Part of `make bench-mapping`. The ratio is of one run and one process, so it says the same on every machine: 16 where a
reader searches an event anew with each piece.
"""

import time
from collections.abc import Callable
from typing import Protocol

from bench.floors import Floor
from llmproxy.protocols.normalize.assemble import read_answer
from llmproxy.protocols.passthrough import ChatPassthrough, MessagesPassthrough, ResponsesPassthrough

MB = 1 << 20
PIECE = 4 << 10
SHORT, LONG = 1, 16
"""MB of an event."""
ROUNDS = 3
TEXT = {
    "chat": b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n',
    "Responses": b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"%b"}\n\n',
    "Messages": b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"%b"}}\n\n',
}


class Stream(Protocol):
    """A stream that is forwarded."""

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the bytes to send now, and those to hold."""


STREAMS: dict[str, Callable[[], Stream]] = {
    "chat": lambda: ChatPassthrough(hide_usage=True),
    "Responses": ResponsesPassthrough,
    "Messages": MessagesPassthrough,
}


def floors() -> list[Floor]:
    """Return the ratio for each protocol, and for the shipper's reader of a recorded stream."""
    rows = [
        Floor(f"event of {LONG} MB in pieces, {name}: CPU a MB, to {SHORT} MB", "x", 2.0, 1.2, _ratio(_forward(name)))
        for name in STREAMS
    ]
    title = f"the same in a recorded stream, for spans: CPU a MB, to {SHORT} MB"
    return [*rows, Floor(title, "x", 2.0, 1.2, _ratio(_record))]


def _ratio(cpu_s: Callable[[int], float]) -> float:
    short = min(cpu_s(SHORT) for _ in range(ROUNDS * LONG)) / SHORT
    return min(cpu_s(LONG) for _ in range(ROUNDS)) / LONG / short


def _forward(name: str) -> Callable[[int], float]:
    def cpu_s(size: int) -> float:
        event = _event(name, size)
        pieces = [event[at : at + PIECE] for at in range(0, len(event), PIECE)]
        stream = STREAMS[name]()

        def run() -> None:
            if sum(len(stream.feed(piece)[0]) for piece in pieces) != len(event):
                raise RuntimeError(f"{name}: not all of the event was forwarded")

        return _cpu_s(run)

    return cpu_s


def _record(size: int) -> float:
    event = _event("chat", size)
    return _cpu_s(lambda: read_answer(event, streamed=True))


def _event(name: str, size: int) -> bytes:
    return TEXT[name] % (b"x" * (size * MB))


def _cpu_s(run: Callable[[], object]) -> float:
    before = time.process_time()
    run()
    return time.process_time() - before
