"""Who may call: the keys of callers, files in a folder that is read again and again, so that an edit needs no new pod.

A key is kept and looked up only as a digest under a secret of this process: how long a look-up takes says nothing of a
key, for nobody outside can choose or foresee a digest.
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


class Keys:
    """The keys in one folder. Every file is one, without the white space around it; an empty one is none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._secret = secrets.token_bytes(32)
        self._known: frozenset[bytes] = frozenset()
        self._problem = ""
        self.reread()

    def __len__(self) -> int:
        return len(self._known)

    def check(self, headers: Iterable[Header]) -> None:
        """Raise UnauthorizedError unless one of *headers* has a key that is known."""
        shown = False
        for name, value in headers:
            key = value if name in _OWN_NAMES else _bearer(value) if name == b"authorization" else b""
            if key:
                shown = True
                if self._digest(key) in self._known:
                    return
        message = (
            "the API key is not known here: ask who runs this proxy for one"
            if shown
            else "an API key is needed: send it as `Authorization: Bearer KEY`, `x-api-key: KEY` or `api-key: KEY`"
        )
        raise UnauthorizedError(message, headers=(_CHALLENGE,))

    def reread(self) -> None:
        """Read the folder; what cannot be read lets those in that were known before."""
        try:
            found = [
                content
                for path in self._folder.iterdir()
                if not path.name.startswith("..") and path.is_file()  # a volume keeps its versions in ..names
                if (content := _content(path))
            ]
        except OSError as exc:
            self._tell(f"{self._folder}: {exc.strerror or exc}")
            return
        known = frozenset(self._digest(key) for key in found)
        self._tell("" if known else f"{self._folder}: there is no key, so nobody may call")
        if known != self._known:
            log.info("api_keys_read", extra={"keys": len(known)})
        self._known = known

    async def run(self, ended: asyncio.Event) -> None:
        """Look for changes until it is the end."""
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), INTERVAL_S)
            self.reread()

    def _digest(self, key: bytes) -> bytes:
        return hashlib.blake2b(key, key=self._secret, digest_size=32).digest()

    def _tell(self, problem: str) -> None:
        """Log a problem when it comes, not each time that it is still there."""
        if problem and problem != self._problem:
            log.error("api_keys_problem", extra={"reason": problem})
        self._problem = problem


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES).strip()


def _bearer(value: bytes) -> bytes:
    scheme, _, key = value.partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""
