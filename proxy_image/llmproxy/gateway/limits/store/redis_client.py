"""One connection to Redis or Valkey that runs one script, made again whenever it is lost.

Not the redis package: a script call through it costs 90 us of processor time and one through this module about a
fifth, and the limiter makes up to 256 a second. Parsing and packing is hiredis, the package's own.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import ssl
from typing import cast
from urllib.parse import unquote, urlsplit

import hiredis

from llmproxy.contract import ContractError, SharedLimits
from llmproxy.gateway.limits.store.protocol import SCRIPT, StoreListener

CONNECT_S = 1.0
"""For the connection, the password and the script."""
PLAIN = ("redis", "valkey")
TLS = ("rediss", "valkeys")
RETRY_S = 0.1
MAX_RETRY_S = 1.0
log = logging.getLogger(__name__)


class UrlError(ValueError):
    """The address of the store cannot be used."""


class RedisError(Exception):
    """The store does not do what is needed; the message is its own."""


class StoreAddress:
    """Address of the store: `redis[s]://[[user]:password@]host[:port][/db]`, or `valkey[s]` for the same."""

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


class RedisChannel:
    """A `protocol.Channel`."""

    def __init__(self, address: StoreAddress, script: str) -> None:
        self.run = ""
        self._address = address
        self._script = script
        self._sha = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        self._connection: _RedisConnection | None = None
        self._listener: StoreListener
        self._task: asyncio.Task[None] | None = None

    def start(self, listener: StoreListener) -> None:
        """Connect, and again whenever the connection is lost."""
        self._listener = listener
        self._task = asyncio.create_task(self._keep())

    def call(self, keys: list[str], payload: bytes) -> None:
        """Run the script; nothing happens without a connection, whose loss was reported."""
        if self._connection is not None:
            self._connection.send(("EVALSHA", self._sha, str(len(keys)), *keys, payload))

    def abort(self) -> None:
        """Break the connection."""
        if self._connection is not None:
            self._connection.abort("no answer")

    async def close(self) -> None:
        """Connect no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._connection is not None:
            self._connection.abort("closing")

    async def _keep(self) -> None:
        pause_s = RETRY_S
        while True:
            try:
                connection = await self._connect()
            except (OSError, TimeoutError, RedisError, ssl.SSLError) as exc:
                self._listener.lost(f"{self._address}: {exc or type(exc).__name__}")
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_RETRY_S)
                continue
            pause_s = RETRY_S
            self._connection = connection
            self._listener.connected()
            reason = await connection.ended
            self._connection = None
            self.run = ""
            self._listener.lost(f"{self._address}: {reason}")
            await asyncio.sleep(pause_s)

    async def _connect(self) -> "_RedisConnection":
        address = self._address
        loop = asyncio.get_running_loop()
        connection = _RedisConnection(loop.create_future())
        try:
            async with asyncio.timeout(CONNECT_S):
                await loop.create_connection(lambda: connection, address.host, address.port, ssl=address.tls)
                if address.password:
                    user = (address.user,) if address.user else ()
                    await connection.ask(("AUTH", *user, address.password))
                if address.db:
                    await connection.ask(("SELECT", str(address.db)))
                info = cast("bytes", await connection.ask(("INFO", "server")))
                await connection.ask(("SCRIPT", "LOAD", self._script))
        except BaseException:
            connection.abort("not ready")
            raise
        run_id = re.search(rb"run_id:(\w+)", info)
        if run_id is None:
            connection.abort("not ready")
            raise RedisError("INFO server tells no run_id: this is no Redis or Valkey")
        self.run = run_id.group(1).decode()
        connection.listener = self._listener
        return connection


def channel_from_environment(shared: SharedLimits) -> RedisChannel:
    """Return the channel to the store that the document names; raise ContractError when its address cannot be used.

    It does not connect: a pod whose store is away serves with its quotas.
    """
    ca = None if shared.ca_env is None else _variable("shared_limits.ca_env", shared.ca_env)
    try:
        address = StoreAddress(_variable("shared_limits.url_env", shared.url_env), ca)
    except UrlError as exc:
        raise ContractError(f"shared_limits.url_env: {shared.url_env}: {exc}") from exc
    return RedisChannel(address, SCRIPT)


def _variable(field: str, name: str) -> str:
    value = os.environ.get(name, "").strip()
    if not value:
        raise ContractError(f"{field}: {name} is not set in the environment")
    return value


class _RedisConnection(asyncio.Protocol):
    def __init__(self, ended: "asyncio.Future[str]") -> None:
        self.ended = ended
        self.listener: StoreListener | None = None
        self._pending: asyncio.Future[object] | None = None
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._reason = "closed by the store"

    async def ask(self, command: tuple[str, ...]) -> object:
        """Send one command before the calls begin, and return its answer."""
        self._pending = asyncio.get_running_loop().create_future()
        self.send(command)
        answer = await self._pending
        if isinstance(answer, hiredis.ReplyError):
            raise RedisError(f"{command[0]}: {answer}")
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
        if self._pending is not None and not self._pending.done():
            self._pending.set_exception(RedisError(reason))
        if not self.ended.done():
            self.ended.set_result(reason)

    def _take(self, answer: object) -> None:
        if self._pending is not None and not self._pending.done():
            self._pending.set_result(answer)
        elif self.listener is not None and isinstance(answer, bytes):
            self.listener.answered(answer)
        else:  # an error; a new connection loads the script anew and finds out who is there
            self.abort(str(answer))
