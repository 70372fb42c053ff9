"""The plot in docs/img: requests a second and CPU a request, as bars on a logarithmic scale. Plain SVG, no library."""

from collections.abc import Callable, Sequence
from html import escape
from math import ceil, floor, log10

from bench.peers import OURS
from bench.report import README_PEERS, number
from bench.results import Found, Result
from bench.shapes import SIXTEEN

LEFT, PANEL, GAP, BAR, STEP, TOP = 178, 300, 66, 18, 27, 64
OWN, OTHER, INK, FAINT, PAPER = "#c2410c", "#94a3b8", "#1e293b", "#cbd5e1", "#ffffff"
FONT = "font-family='system-ui, sans-serif' font-size='13'"


def plot(result: Result) -> str:
    """Return an SVG document."""
    peers = [found for name in README_PEERS if (found := result.peer(name)) and found.value(SIXTEEN.name, "rps")]
    peers.sort(key=lambda found: -(found.value(SIXTEEN.name, "rps") or 0))
    height = TOP + STEP * len(peers) + 34
    width = LEFT + 2 * PANEL + GAP + 60
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' {FONT} fill='{INK}'>",
        f"<rect width='{width}' height='{height}' fill='{PAPER}'/>",
        "<text x='12' y='22' font-weight='600'>1 KB chat completions, 16 clients, one core for the proxy</text>",
    ]
    for row, found in enumerate(peers):
        weight, y = " font-weight='600'" if found.name == OURS else "", TOP + row * STEP + 14
        parts.append(f"<text x='{LEFT - 10}' y='{y}' text-anchor='end'{weight}>{escape(_short(found))}</text>")
    parts += _panel(peers, LEFT, "requests a second (more is better)", lambda f: f.value(SIXTEEN.name, "rps"))
    parts += _panel(
        peers, LEFT + PANEL + GAP, "CPU of a request, µs (less is better)", lambda f: f.value(SIXTEEN.name, "cpu_us")
    )
    return "\n".join([*parts, "</svg>", ""])


def _short(found: Found) -> str:
    return "this gateway" if found.name == OURS else found.title


def _panel(peers: Sequence[Found], x: int, title: str, value_of: Callable[[Found], float | None]) -> list[str]:
    values = [value_of(found) or 0.0 for found in peers]
    there = [value for value in values if value > 0]
    if not there:
        return []
    low, high = floor(log10(min(there)) - 0.2), ceil(log10(max(there)))
    bottom = TOP + STEP * len(peers)
    parts = [f"<text x='{x}' y='{TOP - 18}'>{title}</text>"]
    for power in range(low, high + 1):
        at = x + PANEL * (power - low) / (high - low)
        parts.append(f"<line x1='{at:.1f}' x2='{at:.1f}' y1='{TOP - 8}' y2='{bottom}' stroke='{FAINT}'/>")
        parts.append(f"<text x='{at:.1f}' y='{bottom + 16}' text-anchor='middle' font-size='11'>{10**power:,g}</text>")
    for row, (found, value) in enumerate(zip(peers, values, strict=True)):
        if value <= 0:
            continue
        length = PANEL * (log10(value) - low) / (high - low)
        y = TOP + row * STEP
        colour = OWN if found.name == OURS else OTHER
        parts.append(f"<rect x='{x}' y='{y}' width='{length:.1f}' height='{BAR}' rx='2' fill='{colour}'/>")
        parts.append(f"<text x='{x + length + 5:.1f}' y='{y + 14}' font-size='12'>{number(value)}</text>")
    return parts
