"""The calls that wait for their first delivery: taken in order from segments, settled in any order, forgotten in order.

The cursor says from where on records may be undelivered. It is written and synced before a segment is unlinked, so a
crash at any moment leads to a record being sent twice, never to one that is not sent. Only what was taken and is not
settled yet is known in memory; the rest is on disk alone.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from llmproxy.shipper.spool.segments import SEGMENT_BYTES, Place, Segments

CURSOR = "cursor"


class Spool:
    """Segments with a cursor. `append` and `save` may run in other threads than the rest."""

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.segments = Segments(folder, segment_bytes=segment_bytes)
        self._cursor_path = folder / CURSOR
        self._saved = self._read = load_cursor(folder)
        self.segments.skip_to(self._saved[0] + 1)  # never a new record where the old cursor points
        self._taken: dict[Place, None] = {}
        for number in [n for n in self.segments.sizes if n < self._saved[0]]:
            self.segments.unlink(number)

    @property
    def size(self) -> int:
        """All that is on disk."""
        return self.segments.size

    @property
    def unread_bytes(self) -> int:
        """Bytes of records that were not taken yet."""
        number, offset = self._read
        sizes = self.segments.sizes
        return sum(size - (offset if n == number else 0) for n, size in list(sizes.items()) if n >= number)

    def unread(self) -> int:
        """Count the records that were not taken yet, by their heads in the files."""
        number, offset = self._read
        return sum(self.segments.count(n, offset if n == number else 0) for n in self.segments.sizes if n >= number)

    @property
    def taken(self) -> int:
        """Records that were taken and are not settled."""
        return len(self._taken)

    @property
    def cursor(self) -> tuple[int, int]:
        """Everything before this segment and offset is settled."""
        first = next(iter(self._taken), None)
        return self._read if first is None else (first.segment, first.offset)

    @property
    def saved(self) -> tuple[int, int]:
        """The cursor on disk."""
        return self._saved

    def append(self, payloads: Sequence[bytes]) -> list[Place]:
        """Write records and return where they are, on disk; raise OSError with nothing written."""
        return self.segments.append(payloads)

    def take(self, max_records: int, max_bytes: int) -> list[tuple[Place, bytes]]:
        """Return the next records in order, at most so many and about so many bytes; each is to be settled later."""
        found: list[tuple[Place, bytes]] = []
        while not found:
            number, offset = self._read
            for place, payload in self.segments.walk(number, offset, max_bytes=max_bytes):
                found.append((place, payload))
                self._taken[place] = None
                self._read = number, place.end
                if len(found) >= max_records:
                    return found
            if not found and not self._next_segment():
                break
        return found

    def settle(self, place: Place) -> None:
        """Note that a record that was taken needs nothing more."""
        self._taken.pop(place, None)

    def retire(self, *, scarce: bool = False) -> None:
        """Begin a segment with the next record if the open one is settled: a full spool gets its room back.

        Small ones are left as they are unless room is *scarce*.
        """
        size = self.segments.worth_retiring(scarce=scarce)
        current = self.segments.current
        if size and not self._taken and self._read == (current, size) and self.segments.retire(size):
            self._read = current + 1, 0

    def save(self, cursor: tuple[int, int]) -> None:
        """Write the cursor, sync it, and only then unlink what lies before it; raise OSError if the disk does not."""
        try:
            if cursor != self._saved:
                self._write(cursor)
                self._saved = cursor
        finally:
            # Also when the disk is too full for the cursor: an old one that points at nothing means the next segment.
            for number in [n for n in list(self.segments.sizes) if n < cursor[0]]:
                self.segments.unlink(number)

    def close(self) -> None:
        """Let go of the files."""
        self.segments.close()

    def _write(self, cursor: tuple[int, int]) -> None:
        part = self._cursor_path.with_suffix(".part")
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, json.dumps(cursor).encode())
            os.fdatasync(fd)
        finally:
            os.close(fd)
        part.replace(self._cursor_path)

    def _next_segment(self) -> bool:
        """Go on to the next segment there is; False at the end of the one that is written to."""
        number, _ = self._read
        if number == self.segments.current and number:
            return False
        later = [n for n in sorted(self.segments.sizes) if n > number]
        if not later:
            return False
        self._read = later[0], 0
        return True


def load_cursor(folder: Path) -> tuple[int, int]:
    """Return the saved cursor. One that cannot be read means: send everything there is once more."""
    try:
        number, offset = json.loads((folder / CURSOR).read_bytes())
    except (OSError, ValueError, TypeError):
        return 0, 0
    return (number, offset) if isinstance(number, int) and isinstance(offset, int) else (0, 0)
