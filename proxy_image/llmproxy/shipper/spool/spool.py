"""Spool: a durable queue of records in segments, taken in order, settled in any order, reclaimed in order.

The cursor is the place before which every record is settled. It is written and synced before a segment is unlinked: a
crash at any moment may send a record twice, but never lose one. Only unsettled records are in memory, by place.
"""

import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

from llmproxy.shipper.spool.segments import SEGMENT_BYTES, Damage, Place, Segments

CURSOR = "cursor"


class Spool:
    """Segments with a cursor. `append` and `save` may run in other threads than the rest."""

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.segments = Segments(folder, segment_bytes=segment_bytes)
        self._cursor_path = folder / CURSOR
        cursor = load_cursor(folder)
        if cursor is None:
            damage = Damage(0, 0, self._cursor_path.stat().st_size, tail=False)
            self.segments.damages.append(damage)
        self._saved = self._read = cursor or (0, 0)
        self.segments.advance_to(self._saved[0] + 1)  # never a new record where the old cursor points
        self._unsettled: dict[Place, None] = {}
        for number in [n for n in self.segments.sizes if n < self._saved[0]]:
            self.segments.unlink(number)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.segments.size

    @property
    def unread_bytes(self) -> int:
        """Bytes of records that were not taken."""
        number, offset = self._read
        sizes = self.segments.sizes
        return sum(size - (offset if n == number else 0) for n, size in list(sizes.items()) if n >= number)

    def unread(self) -> int:
        """Return the number of records that were not taken, by their headers on disk."""
        number, offset = self._read
        return sum(self.segments.count(n, offset if n == number else 0) for n in self.segments.sizes if n >= number)

    @property
    def unsettled(self) -> int:
        """Number of records that were taken and are not settled."""
        return len(self._unsettled)

    @property
    def cursor(self) -> tuple[int, int]:
        """Segment and offset before which every record is settled."""
        first = next(iter(self._unsettled), None)
        return self._read if first is None else (first.segment, first.offset)

    @property
    def saved(self) -> tuple[int, int]:
        """The cursor on disk."""
        return self._saved

    def append(self, payloads: Sequence[bytes]) -> list[Place]:
        """Write records, on disk when this returns, and return their places; raise OSError with nothing written."""
        return self.segments.append(payloads)

    def take(self, max_records: int, max_bytes: int) -> list[tuple[Place, bytes]]:
        """Return the next records in order, at most so many and about so many bytes; settle each of them later."""
        entries: list[tuple[Place, bytes]] = []
        while not entries:
            number, offset = self._read
            try:
                for place, payload in self.segments.walk(number, offset, max_bytes=max_bytes):
                    entries.append((place, payload))
                    self._unsettled[place] = None
                    self._read = number, place.end
                    if len(entries) >= max_records:
                        return entries
            except FileNotFoundError:  # somebody has removed it: what it held is gone, the rest is not
                lost = self.segments.sizes.get(number, offset) - offset
                self.segments.damages.append(Damage(number, offset, lost, tail=False))
                self.segments.unlink(number)
            if not entries and not self._next_segment():
                break
        return entries

    def settle(self, place: Place) -> None:
        """Mark a taken record as done."""
        self._unsettled.pop(place, None)

    def rotate(self, *, scarce: bool = False) -> None:
        """Close the open segment if all of it is settled, so that its room can be reclaimed.

        Small ones stay open unless room is *scarce*.
        """
        size = self.segments.rotatable_bytes(scarce=scarce)
        current = self.segments.current
        if size and not self._unsettled and self._read == (current, size) and self.segments.rotate(size):
            self._read = current + 1, 0

    def save(self, cursor: tuple[int, int]) -> None:
        """Write and sync the cursor, then unlink the segments before it; raise OSError if a write fails."""
        try:
            if cursor != self._saved:
                self._write(cursor)
                self._saved = cursor
        finally:
            # Also if the disk is too full for the cursor: an old cursor to a missing segment means the next one.
            for number in [n for n in list(self.segments.sizes) if n < cursor[0]]:
                self.segments.unlink(number)

    def close(self) -> None:
        """Close the files."""
        self.segments.close()

    def _write(self, cursor: tuple[int, int]) -> None:
        part = self._cursor_path.with_suffix(".part")
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, encode_cursor(cursor))
            os.fdatasync(fd)
        finally:
            os.close(fd)
        part.replace(self._cursor_path)

    def _next_segment(self) -> bool:
        """Go on to the next segment; return False at the end of the open one."""
        number, _ = self._read
        if number == self.segments.current and number:
            return False
        later = [n for n in sorted(self.segments.sizes) if n > number]
        if not later:
            return False
        self._read = later[0], 0
        return True


def encode_cursor(cursor: tuple[int, int]) -> bytes:
    """Return the bytes of a cursor, with a checksum: segments before a wrong one would be unlinked."""
    return json.dumps([*cursor, _checksum(*cursor)]).encode()


def load_cursor(folder: Path) -> tuple[int, int] | None:
    """Return the saved cursor, (0, 0) if there is none; None for a damaged one: everything is to be sent once more."""
    try:
        number, offset, checksum = json.loads((folder / CURSOR).read_bytes())
    except FileNotFoundError:
        return 0, 0
    except (OSError, ValueError, TypeError):
        return None
    whole = isinstance(number, int) and isinstance(offset, int) and checksum == _checksum(number, offset)
    return (number, offset) if whole else None


def _checksum(number: int, offset: int) -> int:
    return zlib.crc32(f"{number} {offset}".encode())
