"""Watches a file by polling, which works for every editor's way of writing and without a dependency."""

import asyncio
import hashlib
from pathlib import Path

INTERVAL_S = 0.25


class FileWatcher:
    """Polls one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last_lines = self._read()

    @property
    def digest(self) -> str:
        """SHA-256 of the last content, in hex."""
        return hashlib.sha256(self._last_lines or b"").hexdigest()

    async def changed(self) -> None:
        """Return when the content has changed and is stable for one interval.

        A missing file is being replaced by an editor and is waited for.
        """
        before = self._last_lines
        while True:
            await asyncio.sleep(INTERVAL_S)
            now = self._read()
            if now is not None and now == before and now != self._last_lines:
                self._last_lines = now
                return
            before = now

    def _read(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except OSError:
            return None
