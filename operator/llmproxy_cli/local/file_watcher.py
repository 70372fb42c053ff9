"""Notices that a file has changed, by looking: no editor's way of writing is missed, and nothing needs installing."""

import asyncio
import hashlib
from pathlib import Path

INTERVAL_S = 0.25


class Watch:
    """Looks at one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last = self._look()

    @property
    def digest(self) -> str:
        """SHA-256 of the content at the last time, in hex."""
        return hashlib.sha256(self._last or b"").hexdigest()

    async def changed(self) -> None:
        """Return when the file has another content than at the last time and stays so for a moment.

        A file that is away is being replaced by an editor; it is waited for.
        """
        before = self._last
        while True:
            await asyncio.sleep(INTERVAL_S)
            now = self._look()
            if now is not None and now == before and now != self._last:
                self._last = now
                return
            before = now

    def _look(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except OSError:
            return None
