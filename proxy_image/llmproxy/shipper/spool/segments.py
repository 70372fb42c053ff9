"""Segments: numbered append-only files of records; one fdatasync a batch, random reads, unlinked whole.

A record is `mark, length, crc32, payload`, on disk when `append` returns. A file of an earlier process is never
appended to, since its end may be torn; damage inside a file is skipped up to the next mark with a complete record. The
meaning of a payload and the lifetime of a file are the caller's.
"""

import contextlib
import logging
import os
import stat
import struct
import threading
import zlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger("llmproxy.shipper")

MAGIC = b"llmproxy-spool-1\n"
MARK = b"\xf5\xc1\n\xa7"
"""Not valid UTF-8, so that no body of a call holds it by chance."""
HEAD = struct.Struct("<4sII")
SUFFIX = ".seg"
SEGMENT_BYTES = 16 << 20
MAX_RECORD = 80 << 20
"""Bytes of a payload; a larger length means damage."""


class Place(NamedTuple):
    """Location of a record."""

    segment: int
    offset: int
    """Of its header."""
    length: int
    """Of its payload."""

    @property
    def end(self) -> int:
        """Offset of the next record."""
        return self.offset + HEAD.size + self.length


class Damage(NamedTuple):
    """Unreadable bytes of a segment."""

    segment: int
    offset: int
    bytes: int
    tail: bool
    """True if it reaches the end of the file: the remains of a record that was never acknowledged."""


class Segments:
    """Segment files of one folder. `append` may run in one thread while others read."""

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.folder = folder
        self._segment_bytes = segment_bytes
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.damages: list[Damage] = []
        """Each once; whoever reports one removes it."""
        numbers = _numbers(folder)
        self.sizes: dict[int, int] = self._sizes(numbers)
        """Complete bytes of each file, in order."""
        self._next = max(numbers, default=0) + 1
        self._writing = threading.Lock()
        self._fd = -1
        self._current = 0
        self._damaged: set[tuple[int, int]] = set()

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(list(self.sizes.values()))

    def rotatable_bytes(self, *, scarce: bool) -> int:
        """Return the size of the open file if giving it back is worth a new file, else 0."""
        size = self.sizes.get(self._current, 0)
        least = 2 * len(MAGIC) if scarce else self._segment_bytes // 4
        return size if size >= least else 0

    @property
    def current(self) -> int:
        """Number of the open file, 0 for none."""
        return self._current

    @property
    def last(self) -> int:
        """Highest number ever used here."""
        return self._next - 1

    def path(self, number: int) -> Path:
        """Return the path of segment *number*."""
        return self.folder / f"{number:012d}{SUFFIX}"

    def advance_to(self, number: int) -> None:
        """Use no number below *number*: a cursor may point there."""
        self._next = max(self._next, number)

    def append(self, payloads: Sequence[bytes]) -> list[Place]:
        """Write records, on disk when this returns, and return their places; raise OSError with nothing written."""
        with self._writing:
            return self._append(payloads)

    def rotate(self, size: int) -> bool:
        """Close the open file if it has *size* bytes; return False if it has grown meanwhile."""
        with self._writing:
            if self._current and self.sizes[self._current] == size:
                self._close()
                return True
            return False

    def _append(self, payloads: Sequence[bytes]) -> list[Place]:
        if self._fd < 0 or self.sizes[self._current] >= self._segment_bytes:
            self._begin()
        number, start = self._current, self.sizes[self._current]
        places, parts, offset = [], [], start
        for payload in payloads:
            parts.append(HEAD.pack(MARK, len(payload), zlib.crc32(payload)))
            parts.append(payload)
            places.append(Place(number, offset, len(payload)))
            offset += HEAD.size + len(payload)
        try:
            _write_all(self._fd, b"".join(parts), start)
            os.fdatasync(self._fd)
        except OSError:
            self._truncate(start)
            raise
        self.sizes[number] = offset
        return places

    def read(self, place: Place) -> bytes:
        """Return the payload at *place*; raise OSError if it cannot be read whole."""
        with self._opened(place.segment) as fd:
            data = os.pread(fd, HEAD.size + place.length, place.offset)
        payload = _payload(data, 0)
        if payload is None:
            raise OSError(f"{self.path(place.segment)}: damaged at {place.offset}")
        return payload

    def walk(self, number: int, offset: int = 0, *, max_bytes: int | None = None) -> Iterator[tuple[Place, bytes]]:
        """Yield the records of a segment from *offset*, at most about *max_bytes*; damage goes to `damages`."""
        end = self.sizes.get(number, 0)
        at: int | None = max(offset, len(MAGIC))
        while at is not None and at < end:
            data = self._window(number, at, end, max_bytes)
            at = yield from self._records(number, at, data, whole=at + len(data) >= end)
            max_bytes = None  # the window ends inside damage: read the rest at once

    def count(self, number: int, offset: int = 0) -> int:
        """Return the number of records from *offset* up to damage, by their headers alone."""
        count, at, end = 0, max(offset, len(MAGIC)), self.sizes.get(number, 0)
        with self._opened(number) as fd:
            while (size := _record_size(os.pread(fd, HEAD.size, at), 0)) and at + size <= end:
                count, at = count + 1, at + size
        return count

    def _window(self, number: int, offset: int, end: int, max_bytes: int | None) -> bytes:
        """Return about *max_bytes* at *offset*, at least one complete record."""
        available = end - offset
        with self._opened(number) as fd:
            data = os.pread(fd, available if max_bytes is None else min(available, max_bytes), offset)
            more = min(_record_size(data, 0), available) - len(data)
            return data + os.pread(fd, more, offset + len(data)) if more > 0 else data

    def report_damages(self) -> int:
        """Log the damages that are not reported yet, and return their bytes."""
        damages, self.damages = self.damages, []
        for damage in damages:
            log.error("segment_damaged", extra={"folder": str(self.folder), **damage._asdict()})
        return sum(damage.bytes for damage in damages)

    def unlink(self, number: int) -> None:
        """Remove a segment; one that is gone already is no error."""
        if number == self._current:
            self._close()
        self.sizes.pop(number, None)
        with contextlib.suppress(OSError):
            self.path(number).unlink()

    def close(self) -> None:
        """Close the open file."""
        self._close()

    def _records(
        self, number: int, base: int, data: bytes, *, whole: bool
    ) -> Generator[tuple[Place, bytes], None, int | None]:
        """Yield the records in *data*; return the offset from which more of the segment is needed."""
        at = 0
        while at < len(data):
            payload = _payload(data, at)
            if payload is not None:
                place = Place(number, base + at, len(payload))
                yield place, payload
                at = place.end - base
                continue
            if not whole:
                return base + at if at == 0 or not _is_truncated(data, at) else None
            resume = _find_record(data, at + 1)
            stop = resume if resume >= 0 else len(data)
            if (number, base + at) not in self._damaged:
                self._damaged.add((number, base + at))
                self.damages.append(Damage(number, base + at, stop - at, tail=resume < 0))
            at = stop
        return None

    def _sizes(self, numbers: list[int]) -> dict[int, int]:
        """Return the size of each segment, without those that another process removes meanwhile.

        What is no regular file is damage: it is never opened, for opening a FIFO would block.
        """
        sizes: dict[int, int] = {}
        for number in numbers:
            with contextlib.suppress(FileNotFoundError):
                status = self.path(number).lstat()
                if not stat.S_ISREG(status.st_mode):
                    self.damages.append(Damage(number, 0, max(1, status.st_size), tail=False))
                    continue
                sizes[number] = status.st_size
                with self._opened(number) as fd:
                    magic = os.pread(fd, len(MAGIC), 0)
                if magic != MAGIC:
                    self.damages.append(Damage(number, 0, len(magic), tail=MAGIC.startswith(magic)))
        return sizes

    def _begin(self) -> None:
        self._close()
        number = self._next
        fd = os.open(self.path(number), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _write_all(fd, MAGIC, 0)
            os.fdatasync(fd)
            _sync_folder(self.folder)
        except OSError:
            os.close(fd)
            with contextlib.suppress(OSError):
                self.path(number).unlink()
            raise
        self._fd, self._current, self._next = fd, number, number + 1
        self.sizes[number] = len(MAGIC)

    def _truncate(self, size: int) -> None:
        try:
            os.ftruncate(self._fd, size)
        except OSError:
            self._close()  # its end is torn: the next record begins another file

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._current = -1, 0

    @contextlib.contextmanager
    def _opened(self, number: int) -> Iterator[int]:
        fd = os.open(self.path(number), os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)


def _numbers(folder: Path) -> list[int]:
    """Return the numbers of the segments in *folder*, in order."""
    return sorted(int(path.stem) for path in folder.glob(f"*{SUFFIX}") if path.stem.isdigit())


def _record_size(data: bytes, at: int) -> int:
    """Return the size of a record by its header at *at*, 0 without a valid header."""
    if at + HEAD.size > len(data):
        return 0
    mark, length, _ = HEAD.unpack_from(data, at)
    return HEAD.size + length if mark == MARK and length <= MAX_RECORD else 0


def _is_truncated(data: bytes, at: int) -> bool:
    """Return True if the record at *at* may continue beyond the end of *data*."""
    return len(data) - at < HEAD.size or _record_size(data, at) > len(data) - at


def _payload(data: bytes, at: int) -> bytes | None:
    size = _record_size(data, at)
    if not size or at + size > len(data):
        return None
    payload = data[at + HEAD.size : at + size]
    return payload if zlib.crc32(payload) == HEAD.unpack_from(data, at)[2] else None


def _find_record(data: bytes, at: int) -> int:
    while (at := data.find(MARK, at)) >= 0:
        if _payload(data, at) is not None:
            return at
        at += 1
    return -1


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
