"""What a run found: the shape of build/bench/result.json, and one cell out of several rounds. Pure."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

Cells = dict[str, dict[str, Any]]
"""Name of a shape to the fields of `measure.Cell`."""


@dataclass(slots=True)
class Found:
    """One gateway."""

    name: str
    title: str
    version: str
    start_s: float = 0.0
    memory_mb: float = 0.0
    cells: Cells = field(default_factory=dict)
    notes: dict[str, float] = field(default_factory=dict)

    def value(self, shape: str, name: str) -> float | None:
        """Return a number, or None where it was not measured or says nothing."""
        cell = self.cells.get(shape)
        if cell is None or cell["failed"]:
            return None
        number = cell[name]
        return None if number is None else float(number)


@dataclass(slots=True)
class Result:
    """One run."""

    when: str
    machine: dict[str, str | int]
    rounds: int
    peers: list[Found]
    left_out: dict[str, str]
    """Title to the reason."""

    def peer(self, name: str) -> Found | None:
        """Return one gateway, if it was measured."""
        return next((found for found in self.peers if found.name == name), None)

    def write(self, path: Path) -> None:
        """Write the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Result":
        """Read it again."""
        data = json.loads(path.read_text())
        return cls(**{**data, "peers": [Found(**found) for found in data["peers"]]})


def combine(rounds: Sequence[Found]) -> Found:
    """Return the median of every number over *rounds* of one gateway."""
    first = rounds[0]
    cells: Cells = {}
    for shape in first.cells:
        same = [found.cells[shape] for found in rounds if shape in found.cells]
        good = [cell for cell in same if not cell["failed"]]
        cells[shape] = _median(good) if good else same[0]
    return Found(
        first.name,
        first.title,
        first.version,
        median(found.start_s for found in rounds),
        median(found.memory_mb for found in rounds),
        cells,
        {name: sum(found.notes.get(name, 0.0) for found in rounds) for name in first.notes},
    )


def _median(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: _middle(cell[name] for cell in cells) for name in cells[0]}


def _middle(values: Iterable[Any]) -> Any:
    there = [value for value in values if value is not None]
    if not there:
        return None
    return there[0] if isinstance(there[0], str) else median(there)
