"""API keys of clients: files in a folder that is read again and again, so that an edit needs no new pod.

Keys are stored and compared as digests under a secret of this process. Nobody outside can choose or foresee a digest,
so the time of a look-up reveals nothing about a key.
"""

import asyncio
import contextlib
import hashlib
import logging
import secrets
from collections.abc import Iterable
from pathlib import Path

from llmproxy.gateway.errors import Header, UnauthorizedError

INTERVAL_S = 2.0
MAX_BYTES = 4096
_OWN_NAMES = frozenset({b"x-api-key", b"api-key"})
"""Anthropic's, and that of Azure's form of OpenAI's protocol."""
_CHALLENGE: Header = (b"www-authenticate", b"Bearer")
log = logging.getLogger("llmproxy.gateway")


class ApiKeys:
    """API keys in a folder: one a file, without the white space around it. Empty files are ignored."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._secret = secrets.token_bytes(32)
        self._digests: frozenset[bytes] = frozenset()
        self._error = ""
        self.reread()

    def __len__(self) -> int:
        return len(self._digests)

    def check(self, headers: Iterable[Header]) -> None:
        """Raise UnauthorizedError unless one of *headers* has a valid key."""
        has_key = False
        for name, value in headers:
            key = value if name in _OWN_NAMES else _bearer(value) if name == b"authorization" else b""
            if key:
                has_key = True
                if self._digest(key) in self._digests:
                    return
        message = (
            "the API key is not known here: ask who runs this proxy for one"
            if has_key
            else "an API key is needed: send it as `Authorization: Bearer KEY`, `x-api-key: KEY` or `api-key: KEY`"
        )
        raise UnauthorizedError(message, headers=(_CHALLENGE,))

    def reread(self) -> None:
        """Read the folder; if it cannot be read, the keys stay as they are."""
        try:
            keys = [
                content
                for path in self._folder.iterdir()
                if not path.name.startswith("..") and path.is_file()  # a volume keeps its versions in ..names
                if (content := _read(path))
            ]
        except OSError as exc:
            self._log_error(f"{self._folder}: {exc.strerror or exc}")
            return
        digests = frozenset(self._digest(key) for key in keys)
        self._log_error("" if digests else f"{self._folder}: there is no key, so nobody may call")
        if digests != self._digests:
            log.info("api_keys_loaded", extra={"keys": len(digests)})
        self._digests = digests

    async def run(self, ended: asyncio.Event) -> None:
        """Reread the folder until *ended*."""
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), INTERVAL_S)
            self.reread()

    def _digest(self, key: bytes) -> bytes:
        return hashlib.blake2b(key, key=self._secret, digest_size=32).digest()

    def _log_error(self, error: str) -> None:
        """Log a new error, not one that is still there; empty for none."""
        if error and error != self._error:
            log.error("api_keys_error", extra={"reason": error})
        self._error = error


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES).strip()


def _bearer(value: bytes) -> bytes:
    scheme, _, key = value.partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""
