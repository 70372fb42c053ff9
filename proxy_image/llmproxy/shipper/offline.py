"""`inspect DIR` lists what is in a spool, `replay DIR` sends it: for a person, and without a running shipper.

Nothing of what calls hold is printed. A replay takes out of the folder what the store took, and nothing else.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from llmproxy import contract
from llmproxy.shipper import folders, records
from llmproxy.shipper.counts import Counts
from llmproxy.shipper.delivery import UnitMaker
from llmproxy.shipper.gate import Gate
from llmproxy.shipper.journal import Journal
from llmproxy.shipper.parked import noted
from llmproxy.shipper.segments import Place, Segments
from llmproxy.shipper.sender import Refusal, Sender
from llmproxy.shipper.sequence import Sequencer
from llmproxy.shipper.spans import Content, Encoder, call_name
from llmproxy.shipper.spool import load_cursor
from llmproxy.shipper.store import Store
from llmproxy.shipper.units import MAX_BATCH_CALLS, Unit

TIMEOUT_S = 600.0


def main(argv: list[str]) -> int:
    """Run `inspect` or `replay`; return the exit code."""
    flags = _parser().parse_args(argv)
    if not flags.folder.is_dir():
        _say(f"{flags.folder}: no such folder", to=sys.stderr)
        return 1
    try:
        held = folders.lock(flags.folder) if flags.command == "replay" else None
        return _inspect(flags) if held is None else asyncio.run(_replay(flags))
    except (folders.InUseError, contract.ContractError, OSError) as exc:
        _say(exc, to=sys.stderr)
        return 1


def _parts(folder: Path) -> dict[str, tuple[Segments, tuple[int, int]]]:
    """Return the segments of each state, and from where on their records are not delivered."""
    where = folders.Folders(folder)
    return {
        "waiting": (Segments(where.waiting), load_cursor(where.waiting)),
        "parked": (Segments(where.parked), (0, 0)),
        "dead": (Segments(where.dead), (0, 0)),
    }


def _walk(segments: Segments, number: int, cursor: tuple[int, int]) -> Iterator[tuple[Place, records.Record]]:
    """Yield the records of a segment that are not delivered."""
    if number < cursor[0]:
        return
    for place, payload in segments.walk(number, cursor[1] if number == cursor[0] else 0):
        try:
            yield place, records.decode(payload)
        except records.DecodeError:
            _say(f"{segments.path(number)}: what is at {place.offset} is no record", to=sys.stderr)


def _inspect(flags: argparse.Namespace) -> int:
    groups: Counter[tuple[str, str, str, str]] = Counter()
    states: Counter[str] = Counter()
    size = damaged = 0
    for state, (segments, cursor) in _parts(flags.folder).items():
        for number in sorted(segments.sizes):
            for _, record in _walk(segments, number, cursor):
                states[state] += 1
                groups[state, *record.group, record.reason] += 1
                if flags.calls:
                    _say(_line(state, record))
        size += segments.size
        damaged += sum(damage.bytes for damage in segments.damages)
    if not flags.calls:
        for (state, rollout, attempt, reason), count in sorted(groups.items()):
            _say(f"{state:8} {rollout} {attempt} {count} {reason or '-'}")
    told = ", ".join(f"{states[state]} {state}" for state in ("waiting", "parked", "dead"))
    _say(f"{told}; {size} bytes on disk, {damaged} damaged")
    return 0


def _line(state: str, record: records.Record) -> str:
    call = record.call
    ended = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(call.ended_ns / 1e9))
    names = f"{call.rollout_id} {call.attempt_id} {record.sequence_id or '-'} {call_name(record)}"
    outcome = f"{call.route or '-'} {call.model or '-'} {call.error or call.status}"
    return f"{state:8} {ended} {names} {outcome} {record.tries} {record.reason or '-'}"


async def _replay(flags: argparse.Namespace) -> int:
    url, name, namespace = flags.store, "replay", "-"
    content: Content = flags.content
    if flags.config is not None:
        document = contract.load(flags.config)
        name, namespace = document.proxy.name, document.proxy.namespace
        if document.spans is not None:
            url, content = url or document.spans.store, document.spans.content
    if url is None:
        _say("replay: say where to: --store URL, or --config FILE", to=sys.stderr)
        return 2
    async with Store(url) as store:
        replay = Replay(flags.folder, store, Encoder(name=name, namespace=namespace, content=content))
        try:
            async with asyncio.timeout(flags.timeout_s):
                await replay.run()
        except TimeoutError:
            _say(f"replay: the store at {url} did not take everything within {flags.timeout_s:g} s", to=sys.stderr)
            return 1
    _say(f"{replay.counts.delivered} delivered, {replay.refused} refused")
    return 1 if replay.refused else 0


class Replay:
    """One pass over all there is: a segment is sent, what is refused of it becomes a dead letter, and it goes."""

    def __init__(self, folder: Path, store: Store, encoder: Encoder) -> None:
        self.counts = Counts()
        self.refused = 0
        self._parts = _parts(folder)
        gate = Gate()
        sequencer = Sequencer(store, Journal(folders.Folders(folder).journal), self.counts)
        self._maker = UnitMaker(sequencer, gate, encoder, self.counts)
        self._sender = Sender(store, gate, self.counts)

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
            dead, _ = self._parts["dead"]
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
    sending.add_argument("--config", type=Path, help="contract document that names the store")
    sending.add_argument(
        "--timeout-s", type=float, default=TIMEOUT_S, help=f"give up after that (default {TIMEOUT_S:g})"
    )
    for command in (listing, sending):
        command.add_argument("folder", type=Path, metavar="DIR")
    return parser


def _say(text: object, to: TextIO | None = None) -> None:
    print(text, file=to or sys.stdout)
