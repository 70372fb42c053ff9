"""The LLMProxies in `valid/` and `invalid/`: what each of the two judges must say of them.

A file in `invalid/` begins with comments: `# refused: PATH`, the field that must be named, and `# says: TEXT`, words
that the message must have.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """One object."""

    path: Path
    refused: tuple[str, ...]
    says: tuple[str, ...]

    @property
    def manifest(self) -> dict[str, Any]:
        loaded: dict[str, Any] = yaml.safe_load(self.path.read_text())
        return loaded

    def missing_in(self, message: str) -> list[str]:
        """Return what *message* should have and has not."""
        lowered = message.lower()
        return [text for text in (*self.refused, *self.says) if text.lower() not in lowered]


def cases(folder: str) -> list[Case]:
    """Return the cases in `valid` or `invalid`."""
    return [_read(path) for path in sorted((HERE / folder).glob("*.yaml"))]


def _read(path: Path) -> Case:
    lines = path.read_text().splitlines()

    def marked(mark: str) -> tuple[str, ...]:
        return tuple(line.removeprefix(mark).strip() for line in lines if line.startswith(mark))

    return Case(path, marked("# refused:"), marked("# says:"))
