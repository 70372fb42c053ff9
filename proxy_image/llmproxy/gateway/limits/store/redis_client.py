"""One connection to Redis or Valkey that runs one script, made again whenever it is lost.

Not the redis package: a script call through it costs 90 us of processor time and one through this module about a
fifth, and the limiter makes up to 256 a second. Parsing and packing is hiredis, the package's own.
"""

import asyncio
import contextlib
import hashlib
import logging
import re
import ssl
from typing import cast
from urllib.parse import unquote, urlsplit

import hiredis

from llmproxy.gateway.limits.store.protocol import Owner

CONNECT_S = 1.0
"""For the connection, the password and the script."""
PLAIN = ("redis", "valkey")
TLS = ("rediss", "valkeys")
RETRY_S = 0.1
MAX_RETRY_S = 1.0
log = logging.getLogger(__name__)


class UrlError(ValueError):
    """The address of the store cannot be used."""


class StoreError(Exception):
    """The store does not do what is needed; the message is its own."""


class Address:
    """Where the store is: `redis[s]://[[user]:password@]host[:port][/db]`, or `valkey[s]` for the same."""

    def __init__(self, url: str, ca: str | None = None) -> None:
        """*ca* are the certificates (PEM) that a TLS server's is checked by; None: the system's."""
        try:
            parts = urlsplit(url)
        except ValueError as exc:
            raise UrlError(f"the store's address: {exc}") from exc
        if parts.scheme not in {*PLAIN, *TLS} or not parts.hostname:
            raise UrlError("the store's address must look like redis://:password@host:6379/0 (rediss:// for TLS)")
        db = parts.path.strip("/")
        if db and not db.isdigit():
            raise UrlError(f"the store's address names database {db!r}; it must be a number")
        try:
            self.port = parts.port or 6379
        except ValueError as exc:
            raise UrlError(f"the store's address: {exc}") from exc
        self.host = parts.hostname
        self.db = int(db or 0)
        self.user = unquote(parts.username or "")
        self.password = unquote(parts.password or "")
        try:
            self.tls = ssl.create_default_context(cadata=ca) if parts.scheme in TLS else None
        except (ssl.SSLError, ValueError) as exc:
            raise UrlError(f"the store's certificates cannot be read: {exc}") from exc

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Redis:
    """A `store.Channel`."""

    def __init__(self, address: Address, script: str) -> None:
        self.run = ""
        self._address = address
        self._script = script
        self._sha = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        self._link: _Link | None = None
        self._owner: Owner
        self._task: asyncio.Task[None] | None = None

    def start(self, owner: Owner) -> None:
        """Connect, and again whenever the connection is lost."""
        self._owner = owner
        self._task = asyncio.create_task(self._keep())

    def call(self, keys: list[str], payload: bytes) -> None:
        """Run the script; nothing happens without a connection, whose loss was told."""
        if self._link is not None:
            self._link.send(("EVALSHA", self._sha, str(len(keys)), *keys, payload))

    def abort(self) -> None:
        """Break the connection."""
        if self._link is not None:
            self._link.abort("no answer")

    async def close(self) -> None:
        """Connect no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._link is not None:
            self._link.abort("closing")

    async def _keep(self) -> None:
        pause_s = RETRY_S
        while True:
            try:
                link = await self._connect()
            except (OSError, TimeoutError, StoreError, ssl.SSLError) as exc:
                self._owner.lost(f"{self._address}: {exc or type(exc).__name__}")
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_RETRY_S)
                continue
            pause_s = RETRY_S
            self._link = link
            self._owner.connected()
            reason = await link.ended
            self._link = None
            self.run = ""
            self._owner.lost(f"{self._address}: {reason}")
            await asyncio.sleep(pause_s)

    async def _connect(self) -> "_Link":
        address = self._address
        loop = asyncio.get_running_loop()
        link = _Link(loop.create_future())
        try:
            async with asyncio.timeout(CONNECT_S):
                await loop.create_connection(lambda: link, address.host, address.port, ssl=address.tls)
                if address.password:
                    user = (address.user,) if address.user else ()
                    await link.ask(("AUTH", *user, address.password))
                if address.db:
                    await link.ask(("SELECT", str(address.db)))
                info = cast("bytes", await link.ask(("INFO", "server")))
                await link.ask(("SCRIPT", "LOAD", self._script))
        except BaseException:
            link.abort("not ready")
            raise
        found = re.search(rb"run_id:(\w+)", info)
        if found is None:
            link.abort("not ready")
            raise StoreError("INFO server tells no run_id: this is no Redis or Valkey")
        self.run = found.group(1).decode()
        link.owner = self._owner
        return link


class _Link(asyncio.Protocol):
    def __init__(self, ended: "asyncio.Future[str]") -> None:
        self.ended = ended
        self.owner: Owner | None = None
        self._asked: asyncio.Future[object] | None = None
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._reason = "closed by the store"

    async def ask(self, command: tuple[str, ...]) -> object:
        """Send one command before the calls begin, and return its answer."""
        self._asked = asyncio.get_running_loop().create_future()
        self.send(command)
        answer = await self._asked
        if isinstance(answer, hiredis.ReplyError):
            raise StoreError(f"{command[0]}: {answer}")
        return answer

    def send(self, command: tuple[str | bytes, ...]) -> None:
        if self._transport is not None:
            self._transport.write(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub knows tuples of one

    def abort(self, reason: str) -> None:
        self._reason = reason
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (answer := self._reader.gets()) is not False:
                self._take(answer)
        except hiredis.ProtocolError as exc:
            self.abort(str(exc))

    def connection_lost(self, exc: Exception | None) -> None:
        reason = str(exc) if exc is not None else self._reason
        self._transport = None
        if self._asked is not None and not self._asked.done():
            self._asked.set_exception(StoreError(reason))
        if not self.ended.done():
            self.ended.set_result(reason)

    def _take(self, answer: object) -> None:
        if self._asked is not None and not self._asked.done():
            self._asked.set_result(answer)
        elif self.owner is not None and isinstance(answer, bytes):
            self.owner.answered(answer)
        else:  # an error; a new connection loads the script anew and finds out who is there
            self.abort(str(answer))
