"""Journal of the calls in flight and their sequence ids, which survives a kill of the shipper.

Lines of JSON, never synced: the kernel keeps them when the process is killed, and a machine that dies takes the calls
along anyway. A failed write costs only that memory.
"""

import contextlib
import logging
import os
from pathlib import Path

import msgspec

log = logging.getLogger("llmproxy.shipper")

MAX_BYTES = 4 << 20
"""Size above which a journal of mostly finished calls is compacted."""
CallKey = tuple[str, int]
"""Gateway and call id."""


class InFlightCall(msgspec.Struct, array_like=True, frozen=True):
    """One call that has started."""

    gateway: str
    call_id: int
    rollout_id: str
    attempt_id: str
    arrived_ns: int
    sequence_id: int
    ended: bool = False
    """True if its record is on disk, without the id that is still on its way."""

    @property
    def key(self) -> CallKey:
        """Identity of the call."""
        return self.gateway, self.call_id


_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(InFlightCall).decode


class Journal:
    """Calls in flight, in memory and in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._size = 0
        self._failure_logged = False
        self.damaged_bytes = 0
        """Bytes of lines that a kill or a full disk has truncated, or that are damaged."""
        self.calls: dict[CallKey, InFlightCall] = {}
        self._load()
        self._rewrite()

    @property
    def in_flight(self) -> int:
        """Number of calls that have not ended."""
        return sum(not call.ended for call in self.calls.values())

    def put(self, call: InFlightCall) -> None:
        """Add a call, or replace what is known of it."""
        self.calls[call.key] = call
        self._write(b"+" + _encode(call) + b"\n")

    def mark_ended(self, key: CallKey) -> None:
        """Mark a call whose record is on disk and whose id is still needed."""
        call = self.calls.get(key)
        if call is not None:
            self.put(msgspec.structs.replace(call, ended=True))

    def remove(self, keys: list[CallKey]) -> None:
        """Remove calls that are on disk with their id, or delivered."""
        removed = [key for key in keys if self.calls.pop(key, None) is not None]
        if removed:
            self._write(b"".join(b"-" + _encode(key) + b"\n" for key in removed))
            if self._size > MAX_BYTES and self._size > 400 * len(self.calls):
                self._rewrite()

    def close(self) -> None:
        """Close the file."""
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
            self._log_failure(exc)
        else:
            self._size += len(line)

    def _load(self) -> None:
        with contextlib.suppress(OSError):
            for line in self._path.read_bytes().split(b"\n"):
                if not self._read(line):
                    self.damaged_bytes += len(line)
        if self.damaged_bytes:
            log.error("journal_damaged", extra={"bytes": self.damaged_bytes})

    def _read(self, line: bytes) -> bool:
        """Apply one line; return False if it is damaged."""
        try:
            if line[:1] == b"+":
                call = _decode(line[1:])
                self.calls[call.key] = call
            elif line[:1] == b"-":
                gateway, call_id = msgspec.json.decode(line[1:], type=tuple[str, int])
                self.calls.pop((gateway, call_id), None)
            else:
                return not line
        except msgspec.MsgspecError:
            return False
        return True

    def _rewrite(self) -> None:
        self.close()
        part = self._path.with_suffix(".part")
        data = b"".join(b"+" + _encode(call) + b"\n" for call in self.calls.values())
        try:
            part.write_bytes(data)
            part.replace(self._path)
        except OSError as exc:
            self._log_failure(exc)
        self._size = len(data)

    def _log_failure(self, exc: OSError) -> None:
        if not self._failure_logged:
            log.error("journal_write_failed", extra={"reason": exc.strerror or str(exc)})
        self._failure_logged = True
