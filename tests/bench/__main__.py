"""`make bench`: every gateway alone on a core, one after the other, under the same loads; then tables and verdicts.

It says what is missing before it begins, shows each number as it comes, and ends with 1 when a floor is not met.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench import install, machine, peers
from bench.floors import floors
from bench.measure import Rig
from bench.peers.base import Peer, Place
from bench.places import PLOT, RESULT, Cores
from bench.plot import plot
from bench.report import number, text
from bench.results import Found, Result, combine
from bench.shapes import ALL, QUICK, SIXTEEN, Shape
from procs import ProcessError, free_port, running


def main() -> int:
    """Run; return the exit code."""
    flags = _parser().parse_args()
    try:
        cores = Cores.choose(os.sched_getaffinity(0))
        programs = install.native()
    except (ValueError, RuntimeError) as exc:
        print(f"make bench: {exc}", file=sys.stderr)
        return 2
    wanted = flags.only.split(",") if flags.only else list(peers.QUICK if flags.quick else [p.name for p in peers.ALL])
    unknown = sorted(set(wanted) - {peer.name for peer in peers.ALL})
    if unknown:
        print(f"no peer {unknown[0]!r}; there is {', '.join(peer.name for peer in peers.ALL)}", file=sys.stderr)
        return 2
    there, left_out = _look([peer for peer in peers.ALL if peer.name in wanted])
    shapes = QUICK if flags.quick else ALL
    port = free_port()
    command = ("taskset", "-c", str(cores.upstream), str(programs["upstream"]), str(port))
    with (
        running(*command, ready="ready on") as upstream,
        tempfile.TemporaryDirectory(prefix="llmproxy-bench-") as folder,
    ):
        rig = Rig(programs["load"], Path(folder), cores, upstream.pid)
        found = _rounds(rig, there, shapes, flags.rounds, port, left_out)
    measured = [combine(found[peer.name]) for peer in there if found[peer.name]]
    result = Result(datetime.now(UTC).strftime("%Y-%m-%d"), machine.describe(), flags.rounds, measured, left_out)
    result.write(flags.out)
    print(f"\n{text(result)}\n\n  {os.path.relpath(flags.out)}: all numbers")
    if flags.plot:
        PLOT.parent.mkdir(parents=True, exist_ok=True)
        PLOT.write_text(plot(result))
        print(f"  {os.path.relpath(PLOT)}: the plot")
    if peers.OURS in wanted and result.peer(peers.OURS) is None:
        return 1
    return int(any(floor.verdict == "FAIL" for floor in floors(result)))


def _look(wanted: Sequence[Peer]) -> tuple[list[Peer], dict[str, str]]:
    """Return who can be measured, and why the others cannot; say it."""
    if not machine.is_optimised():
        print(
            "This Python was built without --enable-optimizations: the gateway takes a fifth more CPU than with one\n"
            "that was, as in its image. A distribution's was too: make clean && make bench PYTHON=/usr/bin/python3"
        )
    print("What is compared")
    there: list[Peer] = []
    left_out: dict[str, str] = {}
    for peer in wanted:
        why = peer.missing()
        print(f"  {peer.title}: {f'left out, {why}' if why else peer.version()}", flush=True)
        if why:
            left_out[peer.title] = why
        else:
            there.append(peer)
    return there, left_out


def _rounds(
    rig: Rig, there: Sequence[Peer], shapes: Sequence[Shape], rounds: int, upstream: int, failed: dict[str, str]
) -> dict[str, list[Found]]:
    found: dict[str, list[Found]] = {peer.name: [] for peer in there}
    for turn in range(rounds):
        print(f"\nRound {turn + 1} of {rounds}")
        for peer in there:
            began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix=f"{peer.name}-", dir=rig.folder) as folder:
                place = Place(Path(folder), free_port(), upstream, rig.cores)
                try:
                    one = _measure(rig, peer, place, shapes)
                except ProcessError as exc:
                    last = str(exc).strip().splitlines()[-1]
                    failed[peer.title] = f"it does not run here: {last}"
                    print(f"  {peer.title}: {failed[peer.title]}", flush=True)
                    continue
            found[peer.name].append(one)
            rps, cpu = one.value(SIXTEEN.name, "rps"), one.value(SIXTEEN.name, "cpu_us")
            took_s = time.monotonic() - began
            said = f"{number(rps)} req/s, {number(cpu)} us CPU a request ({took_s:.0f} s)"
            print(f"  {peer.title}: {said}", flush=True)
    return found


def _measure(rig: Rig, peer: Peer, place: Place, shapes: Sequence[Shape]) -> Found:
    one = Found(peer.name, peer.title, peer.version())
    with peer.run(place) as running_peer:
        one.start_s = running_peer.start_s
        for shape in shapes:
            if sys.stdout.isatty():
                print(f"\r\033[K  {peer.title}: {shape.title} ...", end="\r", flush=True)
            cell = rig.measure(running_peer, shape)
            one.cells[shape.name] = cell.as_json()
            if shape is SIXTEEN:
                one.memory_mb = machine.memory_mb(running_peer.pids)
    one.notes = running_peer.notes
    return one


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make bench", description="Speed and cost next to other gateways, on one core each."
    )
    parser.add_argument("--quick", action="store_true", help="nginx and LiteLLM only, three loads")
    parser.add_argument("--only", metavar="NAMES", help=f"of {', '.join(peer.name for peer in peers.ALL)}")
    parser.add_argument("--rounds", type=int, default=1, help="all of it so often; medians are told")
    parser.add_argument("--plot", action="store_true", help="write docs/img/performance.svg too")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the numbers go")
    return parser


if __name__ == "__main__":
    sys.exit(main())
