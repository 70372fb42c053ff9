"""A run in words, for a terminal and as Markdown.

python -m bench.report [FILE]            print the tables of docs/performance.md
python -m bench.report --readme [FILE]   print the short one of README.md
python -m bench.report --paste [FILE]    put both where they belong
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.floors import floors
from bench.places import RESULT, ROOT
from bench.results import Found, Result
from bench.shapes import BURST, LARGE, MANY, ONE, PACED, SIXTEEN

Column = tuple[str, Callable[[Found], str]]
Table = list[list[str]]
NONE = "-"
NOISE_CORES = 0.1
BEGIN, END = "<!-- make bench: begin -->", "<!-- make bench: end -->"
README_PEERS = ("gateway", "nginx", "envoy", "vllm-router", "portkey", "litellm", "agent-lightning")


def number(value: float | None, digits: int = 3) -> str:
    """Return *value* with so many digits that mean something: 26,100, 38.4, 0.131; a dash for none."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        scale = 10 ** max(0, len(str(int(abs(value)))) - digits)
        return f"{round(value / scale) * scale:,}"
    return f"{value:.{digits}g}"


def _cell(shape: str, name: str) -> Callable[[Found], str]:
    return lambda found: number(found.value(shape, name))


def _pair(shape: str, first: str, second: str) -> Callable[[Found], str]:
    def both(found: Found) -> str:
        one, two = found.value(shape, first), found.value(shape, second)
        return NONE if one is None and two is None else f"{number(one)} / {number(two)}"

    return both


def _memory(found: Found) -> str:
    return number(found.memory_mb or None)


def _start(found: Found) -> str:
    return number(found.start_s or None, 2)


REQUESTS: tuple[Column, ...] = (
    ("1 client\np50 / p99 ms", _pair(ONE.name, "p50_ms", "p99_ms")),
    ("16 clients\nreq/s", _cell(SIXTEEN.name, "rps")),
    ("16 clients\np50 / p99 ms", _pair(SIXTEEN.name, "p50_ms", "p99_ms")),
    ("16 clients\nCPU us/req", _cell(SIXTEEN.name, "cpu_us")),
    ("64 clients\nreq/s", _cell(MANY.name, "rps")),
    ("64 clients\np99 ms", _cell(MANY.name, "p99_ms")),
    ("64 KB\nreq/s", _cell(LARGE.name, "rps")),
    ("64 KB\nCPU us/req", _cell(LARGE.name, "cpu_us")),
    ("memory\nMB", _memory),
    ("start\ns", _start),
)
STREAMS: tuple[Column, ...] = (
    ("first byte\np50 / p99 ms", _pair(PACED.name, "first_byte_p50_ms", "first_byte_p99_ms")),
    ("lag\np50 / p99 ms", _pair(PACED.name, "lag_p50_ms", "lag_p99_ms")),
    ("paced\nCPU us/chunk", _cell(PACED.name, "chunk_cpu_us")),
    ("burst\nchunks/s", _cell(BURST.name, "chunks_per_s")),
    ("burst\nCPU us/chunk", _cell(BURST.name, "chunk_cpu_us")),
)
README: tuple[Column, ...] = (
    ("requests/s", _cell(SIXTEEN.name, "rps")),
    ("CPU a request", lambda f: _with(f.value(SIXTEEN.name, "cpu_us"), "µs")),
    ("p50, 1 client", lambda f: _with(f.value(ONE.name, "p50_ms"), "ms")),
    ("32 streams: lag p99", lambda f: _with(f.value(PACED.name, "lag_p99_ms"), "ms")),
    ("CPU a chunk", lambda f: _with(f.value(PACED.name, "chunk_cpu_us"), "µs")),
    ("memory", lambda f: _with(f.memory_mb or None, "MB")),
)


def _with(value: float | None, unit: str) -> str:
    return NONE if value is None else f"{number(value)} {unit}"


def table(found: Sequence[Found], columns: Sequence[Column]) -> Table:
    """Return header and rows."""
    head = ["", *(title for title, _ in columns)]
    return [head, *([peer.title, *(show(peer) for _, show in columns)] for peer in found)]


def markdown(rows: Table) -> str:
    """Return *rows* as a Markdown table."""
    lines = [f"| {' | '.join(row)} |".replace("\n", ": ") for row in rows]
    lines.insert(1, "|---|" + "--:|" * (len(rows[0]) - 1))
    return "\n".join(lines)


def aligned(rows: Table) -> str:
    """Return *rows* for a terminal; a header has one or two lines."""
    heads = [title.split("\n") for title in rows[0]]
    lines = [[head[0] if len(head) > 1 else "" for head in heads], [head[-1] for head in heads], *rows[1:]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)


def problems(result: Result) -> list[str]:
    """Return what a reader must know before believing the numbers."""
    said = [f"left out: {title}: {why}" for title, why in result.left_out.items()]
    for peer in result.peers:
        for shape, cell in peer.cells.items():
            if cell["failed"]:
                share = f"{cell['errors']:g} of {cell['requests']:g} failed"
                said.append(f"{peer.title}, {shape}: no number, {share}: {cell['failed']}")
        if lost := peer.notes.get("dropped", 0) + peer.notes.get("rejected", 0):
            total = lost + peer.notes.get("durable", 0)
            by_shape = {shape: cell.get("unrecorded") or 0 for shape, cell in peer.cells.items()}
            where = (
                ", ".join(f"{shape} {count:,.0f}" for shape, count in by_shape.items() if count) or "while warming up"
            )
            said.append(
                f"{peer.title}: {lost:,.0f} of {total:,.0f} records of calls found no room, as the shipper was slower: "
                f"{where}"
            )
    noisy = max((cell["outside_cores"] for peer in result.peers for cell in peer.cells.values()), default=0.0)
    if noisy > NOISE_CORES:
        said.append(f"something else used up to {noisy:.1f} cores meanwhile: times are too long, CPU less so")
    return said


def text(result: Result) -> str:
    """Return everything for a terminal."""
    measured = result.peers
    parts = [
        "Requests",
        aligned(table(measured, REQUESTS)),
        "",
        "Streams of 50 chunks",
        aligned(table(measured, STREAMS)),
        "",
    ]
    parts += [floor.line() for floor in floors(result)]
    parts += [_handed_over(peer) for peer in measured if peer.notes]
    return "\n".join([*parts, *problems(result)])


def page(result: Result) -> str:
    """Return the tables for docs/performance.md."""
    where = "{cpu}, {cores} cores, Linux {kernel}, Python {python}".format(**result.machine)
    rounds = f"{result.rounds} round{'s' if result.rounds > 1 else ''}, medians"
    versions = ", ".join(
        f"{peer.title} {peer.version}"
        for peer in result.peers
        if peer.name not in {"direct"} and "gateway" not in peer.name
    )
    verdicts = [["", "measured", "floor", "aim", ""]]
    for floor in floors(result):
        sign = "≥" if floor.at_least else "≤"
        value = NONE if floor.value is None else f"{floor.value:.3g}{floor.unit}"
        verdicts.append(
            [floor.title, value, f"{sign} {floor.bound:g}{floor.unit}", f"{floor.aim:g}{floor.unit}", floor.verdict]
        )
    return "\n\n".join(
        [
            f"Measured {result.when}: {where}; {rounds}. {versions}.",
            markdown(table(result.peers, REQUESTS)),
            markdown(table(result.peers, STREAMS)),
            markdown(verdicts),
            *(_handed_over(peer) for peer in result.peers if peer.notes),
            *problems(result),
        ]
    )


def readme(result: Result) -> str:
    """Return the short table for README.md."""
    peers = [found for name in README_PEERS if (found := result.peer(name)) is not None]
    return markdown(table(peers, README))


def _handed_over(peer: Found) -> str:
    return f"{peer.title}: records of calls: " + ", ".join(f"{name} {value:,.0f}" for name, value in peer.notes.items())


def paste(document: str, tables: str) -> str:
    """Return *document* with *tables* between its two marks; ValueError if they are not there."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{BEGIN} and {END} must stand where the tables go")
    return f"{before}{BEGIN}\n{tables}\n{END}{after}"


def main() -> None:
    """Do what the flags ask for."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description="Markdown tables of a run.")
    parser.add_argument("file", nargs="?", type=Path, default=RESULT)
    parser.add_argument("--readme", action="store_true", help="only the short table for README.md")
    parser.add_argument("--paste", action="store_true", help="write the tables into README.md and docs/performance.md")
    flags = parser.parse_args()
    result = Result.read(flags.file)
    if not flags.paste:
        print(readme(result) if flags.readme else page(result))
        return
    for name, tables in (("README.md", readme(result)), ("docs/performance.md", page(result))):
        path = ROOT / name
        path.write_text(paste(path.read_text(), tables))


if __name__ == "__main__":
    main()
