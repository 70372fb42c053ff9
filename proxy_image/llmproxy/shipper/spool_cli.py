"""`inspect DIR` lists what is in a spool, `replay DIR` sends it: for a person. Only a replay needs the shipper ended.

Nothing of what calls hold is printed. A replay takes out of the folder what the store took, and nothing else.
"""

import argparse
import asyncio
import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from llmproxy import contract
from llmproxy.shipper.delivery import otlp_collector
from llmproxy.shipper.delivery.batches import MAX_BATCH_CALLS, Unit
from llmproxy.shipper.delivery.builders import Maker, PlainMaker, UnitMaker
from llmproxy.shipper.delivery.circuit_breaker import Gate
from llmproxy.shipper.delivery.journal import Journal
from llmproxy.shipper.delivery.lightning_store import Store
from llmproxy.shipper.delivery.retry_queue import noted
from llmproxy.shipper.delivery.sender import Refusal, Sender
from llmproxy.shipper.delivery.sequencer import Sequencer
from llmproxy.shipper.metrics import Counts
from llmproxy.shipper.spans.agent_lightning import Encoder, call_name
from llmproxy.shipper.spans.otel_genai import GenAiEncoder
from llmproxy.shipper.spool import layout, records
from llmproxy.shipper.spool.segments import Place, Segments
from llmproxy.shipper.spool.spool import load_cursor

TIMEOUT_S = 600.0
OTLP = "otlp "
"""Before the states of what waits for a collector."""


def main(argv: list[str]) -> int:
    """Run `inspect` or `replay`; return the exit code."""
    flags = _parser().parse_args(argv)
    if not (flags.folder / layout.LOCK).is_file():
        _say(f"{flags.folder}: no spool: name the folder that a shipper has as --spool-dir", to=sys.stderr)
        return 1
    try:
        held = layout.lock(flags.folder) if flags.command == "replay" else None
        return _inspect(flags) if held is None else asyncio.run(_replay(flags))
    except (layout.InUseError, contract.ContractError, OSError) as exc:
        _say(exc, to=sys.stderr)
        return 1


_Parts = dict[str, tuple[Segments, tuple[int, int]]]


def _parts(where: layout.Folders, prefix: str = "") -> _Parts:
    """Return the segments of each state, and from where on their records are not delivered."""
    return {
        f"{prefix}waiting": (Segments(where.waiting), load_cursor(where.waiting)),
        f"{prefix}parked": (Segments(where.parked), (0, 0)),
        f"{prefix}dead": (Segments(where.dead), (0, 0)),
    }


def _all_parts(folder: Path) -> _Parts:
    """Return the parts of the store and, if there ever was one, of the collector."""
    where = layout.Folders(folder)
    return {**_parts(where), **(_parts(where.otlp, OTLP) if where.otlp.root.is_dir() else {})}


def _walk(segments: Segments, number: int, cursor: tuple[int, int]) -> Iterator[tuple[Place, records.Record]]:
    """Yield the records of a segment that are not delivered; none of one that a running shipper has just removed."""
    if number < cursor[0]:
        return
    with contextlib.suppress(FileNotFoundError):
        for place, payload in segments.walk(number, cursor[1] if number == cursor[0] else 0):
            try:
                yield place, records.decode(payload)
            except records.DecodeError:
                _say(f"{segments.path(number)}: what is at {place.offset} is no record", to=sys.stderr)


def _inspect(flags: argparse.Namespace) -> int:
    groups: Counter[tuple[str, str, str, str]] = Counter()
    states: Counter[str] = Counter()
    size = damaged = 0
    parts = _all_parts(flags.folder)
    for state, (segments, cursor) in parts.items():
        for number in sorted(segments.sizes):
            for _, record in _walk(segments, number, cursor):
                states[state] += 1
                groups[state, *record.group, record.reason] += 1
                if flags.calls:
                    _say(_line(state, record))
        size += segments.size
        damaged += sum(
            d.bytes for d in segments.damages if not (d.tail and d.segment == segments.last)
        )  # being written
    if not flags.calls:
        for (state, rollout, attempt, reason), count in sorted(groups.items()):
            _say(f"{state:8} {rollout} {attempt} {count} {reason or '-'}")
    told = ", ".join(f"{states[state]} {state}" for state in parts)
    _say(f"{told}; {size} bytes on disk, {damaged} damaged")
    return 0


def _line(state: str, record: records.Record) -> str:
    call = record.call
    ended = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(call.ended_ns / 1e9))
    names = f"{call.rollout_id} {call.attempt_id} {record.sequence_id or '-'} {call_name(record)}"
    outcome = f"{call.route or '-'} {call.model or '-'} {call.error or call.status}"
    return f"{state:8} {ended} {names} {outcome} {record.tries} {record.reason or '-'}"


async def _replay(flags: argparse.Namespace) -> int:
    url, who = flags.store, {"name": "replay", "namespace": "-", "content": flags.content}
    spans: contract.Spans | None = None
    if flags.config is not None:
        document = contract.load(flags.config)
        who |= {"name": document.proxy.name, "namespace": document.proxy.namespace}
        spans = document.spans
        if spans is not None:
            url, who["content"] = url or spans.store, spans.content
    otlp = spans.otlp if spans is not None else None
    if url is None and otlp is None:
        _say("replay: say where to: --store URL, or --config FILE", to=sys.stderr)
        return 2
    where = layout.Folders(flags.folder)
    replays: list[Replay] = []
    async with contextlib.AsyncExitStack() as stack:
        if url is not None:
            store = await stack.enter_async_context(Store(url))
            replays.append(to_store(where, store, Encoder(**who)))
        if otlp is not None and spans is not None and where.otlp.root.is_dir():
            counts = Counts()
            headers = otlp_collector.read_headers(spans, os.environ)
            there = await stack.enter_async_context(otlp_collector.Collector(otlp.endpoint, headers, counts))
            maker, sender = (
                PlainMaker(GenAiEncoder(**who), counts),
                Sender(there, Gate(name="otlp"), counts, name="otlp"),
            )
            replays.append(Replay(_parts(where.otlp, OTLP), maker, sender))
        try:
            async with asyncio.timeout(flags.timeout_s):
                await asyncio.gather(*(replay.run() for replay in replays))
        except TimeoutError:
            targets = " and ".join(filter(None, (url, otlp.endpoint if otlp is not None else None)))
            _say(f"replay: {targets} did not take everything within {flags.timeout_s:g} s", to=sys.stderr)
            return 1
    refused = sum(replay.refused for replay in replays)
    _say(f"{sum(replay.counts.delivered for replay in replays)} delivered, {refused} refused")
    return 1 if refused else 0


def to_store(where: layout.Folders, store: Store, encoder: Encoder) -> "Replay":
    """Return the pass over all that is for a store."""
    counts, gate = Counts(), Gate()
    maker = UnitMaker(Sequencer(store, Journal(where.journal), counts), gate, encoder, counts)
    return Replay(_parts(where), maker, Sender(store, gate, counts))


class Replay:
    """One pass over all there is: a segment is sent, what is refused of it becomes a dead letter, and it goes."""

    def __init__(self, parts: _Parts, maker: Maker, sender: Sender) -> None:
        self.counts = maker.counts
        self.refused = 0
        self._parts = parts
        self._maker = maker
        self._sender = sender

    async def run(self) -> None:
        """Send everything."""
        there = [(part, number) for part in self._parts.values() for number in sorted(part[0].sizes)]
        for (segments, cursor), number in there:
            await self._segment(segments, number, cursor)

    async def _segment(self, segments: Segments, number: int, cursor: tuple[int, int]) -> None:
        refusals: list[Refusal] = []
        batch: list[Unit] = []
        for place, record in _walk(segments, number, cursor):
            batch.append(await self._maker.make(place, record))
            if len(batch) >= MAX_BATCH_CALLS:
                refusals += await self._sender.send(batch, self._stored)
                batch = []
        if batch:
            refusals += await self._sender.send(batch, self._stored)
        if refusals:
            dead, _ = next(part for state, part in self._parts.items() if state.endswith("dead"))
            dead.append([records.encode(noted(refusal, time.time_ns())) for refusal in refusals])
        for refusal in refusals:
            _say(f"refused {call_name(refusal.unit.record)} {' '.join(refusal.unit.record.group)} {refusal.why}")
        self.refused += len(refusals)
        segments.unlink(number)

    def _stored(self, units: list[Unit]) -> None:
        self.counts.delivered += len(units)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llmproxy.shipper")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("inspect", help="list the calls in a spool that are not delivered")
    listing.add_argument("--calls", action="store_true", help="each call on a line of its own")
    sending = commands.add_parser("replay", help="send the calls in a spool, and remove those that the store takes")
    sending.add_argument("--store", help="base URL of the LightningStore")
    sending.add_argument("--content", choices=("Full", "TokensOnly"), default="Full", help="what of a call is recorded")
    sending.add_argument("--config", type=Path, help="contract document that names store and collector")
    sending.add_argument(
        "--timeout-s", type=float, default=TIMEOUT_S, help=f"give up after that (default {TIMEOUT_S:g})"
    )
    for command in (listing, sending):
        command.add_argument("folder", type=Path, metavar="DIR")
    return parser


def _say(text: object, to: TextIO | None = None) -> None:
    print(text, file=to or sys.stdout)
