"""Commands for a spool's folder: `inspect` lists its undelivered calls, `replay` delivers them.

No content of calls is printed. A replay removes accepted calls from the folder, and nothing else; it needs the shipper
stopped, `inspect` does not.
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
from llmproxy.shipper.delivery.batches import MAX_BATCH_CALLS, DeliveryUnit
from llmproxy.shipper.delivery.builders import OtlpBuilder, StoreBuilder, UnitBuilder
from llmproxy.shipper.delivery.circuit_breaker import CircuitBreaker
from llmproxy.shipper.delivery.journal import Journal
from llmproxy.shipper.delivery.lightning_store import LightningStore
from llmproxy.shipper.delivery.retry_queue import with_refusal
from llmproxy.shipper.delivery.sender import RefusedUnit, Sender
from llmproxy.shipper.delivery.sequencer import Sequencer
from llmproxy.shipper.metrics import ShipperCounters
from llmproxy.shipper.spans.agent_lightning import AgentLightningEncoder, call_name
from llmproxy.shipper.spans.otel_genai import GenAiEncoder
from llmproxy.shipper.spool import layout, records
from llmproxy.shipper.spool.segments import Place, Segments
from llmproxy.shipper.spool.spool import load_cursor

TIMEOUT_S = 600.0
OTLP = "otlp "
"""Prefix of the states of calls for a collector."""


def main(argv: list[str]) -> int:
    """Run `inspect` or `replay`; return the exit code."""
    flags = _parser().parse_args(argv)
    if not (flags.folder / layout.LOCK).is_file():
        _print(f"{flags.folder}: not a spool: give the folder that is the shipper's --spool-dir", to=sys.stderr)
        return 1
    try:
        lock_fd = layout.lock(flags.folder) if flags.command == "replay" else None
        return _inspect(flags) if lock_fd is None else asyncio.run(_replay(flags))
    except (layout.SpoolInUseError, contract.ContractError, OSError) as exc:
        _print(exc, to=sys.stderr)
        return 1


_States = dict[str, tuple[Segments, tuple[int, int]]]


def _states(folders: layout.SpoolLayout, prefix: str = "") -> _States:
    """Return the segments of each state, each with the cursor of its first undelivered record."""
    return {
        f"{prefix}waiting": (Segments(folders.waiting), load_cursor(folders.waiting) or (0, 0)),
        f"{prefix}retrying": (Segments(folders.retry), (0, 0)),
        f"{prefix}dead": (Segments(folders.dead), (0, 0)),
    }


def _all_states(folder: Path) -> _States:
    """Return the states of the store's calls and, if there ever was a collector, of its calls."""
    folders = layout.SpoolLayout(folder)
    return {**_states(folders), **(_states(folders.otlp, OTLP) if folders.otlp.root.is_dir() else {})}


def _walk(segments: Segments, number: int, cursor: tuple[int, int]) -> Iterator[tuple[Place, records.SpoolRecord]]:
    """Yield the undelivered records of a segment; none of one that a running shipper has just removed."""
    if number < cursor[0]:
        return
    with contextlib.suppress(FileNotFoundError):
        for place, payload in segments.walk(number, cursor[1] if number == cursor[0] else 0):
            try:
                yield place, records.decode(payload)
            except records.DecodeError:
                _print(f"{segments.path(number)}: the record at {place.offset} cannot be decoded", to=sys.stderr)


def _inspect(flags: argparse.Namespace) -> int:
    groups: Counter[tuple[str, str, str, str]] = Counter()
    counts: Counter[str] = Counter()
    size = damaged = 0
    states = _all_states(flags.folder)
    for state, (segments, cursor) in states.items():
        for number in sorted(segments.sizes):
            for _, record in _walk(segments, number, cursor):
                counts[state] += 1
                groups[state, *record.group, record.reason] += 1
                if flags.calls:
                    _print(_line(state, record))
        size += segments.size
        damaged += sum(
            d.bytes for d in segments.damages if not (d.tail and d.segment == segments.last)
        )  # a running shipper writes there
    if not flags.calls:
        for (state, rollout, attempt, reason), count in sorted(groups.items()):
            _print(f"{state:8} {rollout} {attempt} {count} {reason or '-'}")
    summary = ", ".join(f"{counts[state]} {state}" for state in states)
    _print(f"{summary}; {size} bytes on disk, {damaged} damaged")
    return 0


def _line(state: str, record: records.SpoolRecord) -> str:
    call = record.call
    ended = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(call.ended_ns / 1e9))
    names = f"{call.rollout_id} {call.attempt_id} {record.sequence_id or '-'} {call_name(record)}"
    outcome = f"{call.route or '-'} {call.model or '-'} {call.error or call.status}"
    return f"{state:8} {ended} {names} {outcome} {record.tries} {record.reason or '-'}"


async def _replay(flags: argparse.Namespace) -> int:
    url, identity = flags.store, {"name": "replay", "namespace": "-", "content": flags.content}
    spans: contract.Spans | None = None
    if flags.config is not None:
        document = contract.load(flags.config)
        identity |= {"name": document.proxy.name, "namespace": document.proxy.namespace}
        spans = document.spans
        if spans is not None:
            url, identity["content"] = url or spans.store, spans.content
    otlp = spans.otlp if spans is not None else None
    if url is None and otlp is None:
        _print("replay: name the destination: --store URL, or --config FILE", to=sys.stderr)
        return 2
    folders = layout.SpoolLayout(flags.folder)
    replays: list[Replay] = []
    async with contextlib.AsyncExitStack() as stack:
        if url is not None:
            store = await stack.enter_async_context(LightningStore(url))
            replays.append(to_store(folders, store, AgentLightningEncoder(**identity)))
        if otlp is not None and spans is not None and folders.otlp.root.is_dir():
            counters = ShipperCounters()
            headers = otlp_collector.read_headers(spans, os.environ)
            collector = otlp_collector.OtlpCollector(otlp.endpoint, headers, counters)
            await stack.enter_async_context(collector)
            builder = OtlpBuilder(GenAiEncoder(**identity), counters)
            sender = Sender(collector, CircuitBreaker(name="otlp"), counters, name="otlp")
            replays.append(Replay(_states(folders.otlp, OTLP), builder, sender))
        try:
            async with asyncio.timeout(flags.timeout_s):
                await asyncio.gather(*(replay.run() for replay in replays))
        except TimeoutError:
            targets = " and ".join(filter(None, (url, otlp.endpoint if otlp is not None else None)))
            _print(f"replay: {targets} did not take everything within {flags.timeout_s:g} s", to=sys.stderr)
            return 1
    refused = sum(replay.refused for replay in replays)
    _print(f"{sum(replay.counters.delivered for replay in replays)} delivered, {refused} refused")
    return 1 if refused else 0


def to_store(folders: layout.SpoolLayout, store: LightningStore, encoder: AgentLightningEncoder) -> "Replay":
    """Return the replay of the store's calls."""
    counters, breaker = ShipperCounters(), CircuitBreaker()
    builder = StoreBuilder(Sequencer(store, Journal(folders.journal), counters), breaker, encoder, counters)
    return Replay(_states(folders), builder, Sender(store, breaker, counters))


class Replay:
    """One pass over all segments of a destination: send, move refused calls to the dead letters, unlink."""

    def __init__(self, states: _States, builder: UnitBuilder, sender: Sender) -> None:
        self.counters = builder.counters
        self.refused = 0
        self._states = states
        self._builder = builder
        self._sender = sender

    async def run(self) -> None:
        """Send everything."""
        todo = [(state, number) for state in self._states.values() for number in sorted(state[0].sizes)]
        for (segments, cursor), number in todo:
            await self._segment(segments, number, cursor)

    async def _segment(self, segments: Segments, number: int, cursor: tuple[int, int]) -> None:
        refusals: list[RefusedUnit] = []
        batch: list[DeliveryUnit] = []
        for place, record in _walk(segments, number, cursor):
            batch.append(await self._builder.build(place, record))
            if len(batch) >= MAX_BATCH_CALLS:
                refusals += await self._sender.send(batch, self._on_stored)
                batch = []
        if batch:
            refusals += await self._sender.send(batch, self._on_stored)
        if refusals:
            dead, _ = next(entry for state, entry in self._states.items() if state.endswith("dead"))
            dead.append([records.encode(with_refusal(refusal, time.time_ns())) for refusal in refusals])
        for refusal in refusals:
            _print(f"refused {call_name(refusal.unit.record)} {' '.join(refusal.unit.record.group)} {refusal.reason}")
        self.refused += len(refusals)
        segments.unlink(number)

    def _on_stored(self, units: list[DeliveryUnit]) -> None:
        self.counters.delivered += len(units)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llmproxy.shipper")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("inspect", help="list the undelivered calls of a spool")
    listing.add_argument("--calls", action="store_true", help="print one line per call")
    sending = commands.add_parser("replay", help="send the calls of a spool and remove those that are accepted")
    sending.add_argument("--store", help="base URL of the LightningStore")
    sending.add_argument(
        "--content", choices=("Full", "TokensOnly"), default="Full", help="content of calls in their spans"
    )
    sending.add_argument("--config", type=Path, help="contract document with the store and the collector")
    sending.add_argument(
        "--timeout-s", type=float, default=TIMEOUT_S, help=f"time limit of the whole replay (default {TIMEOUT_S:g})"
    )
    for command in (listing, sending):
        command.add_argument("folder", type=Path, metavar="DIR")
    return parser


def _print(text: object, to: TextIO | None = None) -> None:
    print(text, file=to or sys.stdout)
