"""Remembers over a kill which calls have begun and not ended, and their sequence ids.

Lines of JSON, never synced: the kernel keeps them when the process is killed, and a machine that dies takes the calls
along anyway. A journal that cannot be written costs nothing but that memory.
"""

import contextlib
import logging
import os
from pathlib import Path

import msgspec

log = logging.getLogger("llmproxy.shipper")

MAX_BYTES = 4 << 20
"""Written anew when it is larger than this and most of it is of the past."""
Key = tuple[str, int]
"""Gateway and call id."""


class Begun(msgspec.Struct, array_like=True, frozen=True):
    """A call that has begun."""

    gateway: str
    call_id: int
    rollout_id: str
    attempt_id: str
    arrived_ns: int
    sequence_id: int
    ended: bool = False
    """It has ended and is on disk, but its record does not have the id."""

    @property
    def key(self) -> Key:
        """What names the call."""
        return self.gateway, self.call_id


_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(Begun).decode


class Journal:
    """The calls that have begun, in memory and in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._size = 0
        self._said = False
        self.begun: dict[Key, Begun] = {}
        self._load()
        self._rewrite()

    @property
    def open_calls(self) -> int:
        """How many have begun and not ended."""
        return sum(not begun.ended for begun in self.begun.values())

    def begin(self, call: Begun) -> None:
        """Remember a call that has begun, with what is known of it; again when more is known."""
        self.begun[call.key] = call
        self._write(b"+" + _encode(call) + b"\n")

    def ended(self, key: Key) -> None:
        """Note that a call is on disk whose id is still needed."""
        begun = self.begun.get(key)
        if begun is not None:
            self.begin(msgspec.structs.replace(begun, ended=True))

    def end(self, keys: list[Key]) -> None:
        """Forget calls that are on disk with their id, or delivered."""
        ended = [key for key in keys if self.begun.pop(key, None) is not None]
        if ended:
            self._write(b"".join(b"-" + _encode(key) + b"\n" for key in ended))
            if self._size > MAX_BYTES and self._size > 400 * len(self.begun):
                self._rewrite()

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, line: bytes) -> None:
        try:
            if self._fd < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                self._fd = os.open(self._path, flags, 0o600)
            os.write(self._fd, line)
        except OSError as exc:
            self._failed(exc)
        else:
            self._size += len(line)

    def _load(self) -> None:
        with contextlib.suppress(OSError):
            for line in self._path.read_bytes().split(b"\n"):
                self._read(line)

    def _read(self, line: bytes) -> None:
        """Take one line; one that was cut by a kill, or by a full disk, says nothing."""
        with contextlib.suppress(msgspec.MsgspecError):
            if line[:1] == b"+":
                call = _decode(line[1:])
                self.begun[call.key] = call
            elif line[:1] == b"-":
                gateway, call_id = msgspec.json.decode(line[1:], type=tuple[str, int])
                self.begun.pop((gateway, call_id), None)

    def _rewrite(self) -> None:
        self.close()
        part = self._path.with_suffix(".part")
        data = b"".join(b"+" + _encode(call) + b"\n" for call in self.begun.values())
        try:
            part.write_bytes(data)
            part.replace(self._path)
        except OSError as exc:
            self._failed(exc)
        self._size = len(data)

    def _failed(self, exc: OSError) -> None:
        if not self._said:
            log.error("journal_not_written", extra={"reason": exc.strerror or str(exc)})
        self._said = True
