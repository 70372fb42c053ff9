"""docs/compatibility.md, from the oddities."""

from pathlib import Path

from zoo.oddity import CLIENTS, MODES, Oddity

PAGE = Path(__file__).parents[2] / "docs/compatibility.md"
_HEAD = """# Compatibility

Model servers differ from the documents of their protocol. Each row is a server as somebody met it, played byte for
byte by `tests/zoo/oddities/`, and what clients of the three protocols get of it, plain and as a stream.
`PYTHONPATH=tests:tests/support python -m zoo` generates the page; a test runs every cell against a gateway.

- **answer**: the whole answer, as it is meant; also after another try
- **error**: an error with the server's words, never the word for a whole answer
- **as is**: the bytes of the server, since both ends speak its protocol
- **red**: not right yet, with the reason below

| server | chat | chat, stream | Responses | Responses, stream | Anthropic | Anthropic, stream |
|---|---|---|---|---|---|---|
"""


def render(oddities: dict[str, Oddity]) -> str:
    """Return the page."""
    rows, notes = [], []
    for name, oddity in oddities.items():
        cells = [_cell(oddity, client, mode) for client in CLIENTS for mode in MODES]
        rows.append(f"| [{oddity.title}](#{name}) | {' | '.join(cells)} |")
        lines = [f"### {name}", "", f"{oddity.title}. Seen: {', '.join(oddity.seen)}."]
        if oddity.tries > 1:
            lines.append(f"The gateway makes {oddity.tries} tries.")
        lines += [f"Red: {cell}, {why}." for cell, why in oddity.red.items()]
        notes.append("\n".join(lines))
    return _HEAD + "\n".join(rows) + "\n\n## Sources\n\n" + "\n\n".join(notes) + "\n"


def _cell(oddity: Oddity, client: str, mode: str) -> str:
    if (client, mode) not in oddity.cells():
        return ""
    if f"{client}-{mode}" in oddity.red:
        return "red"
    expected = oddity.expectation(client, mode)
    return "as is" if expected.forwarded else "error" if expected.error else "answer"
