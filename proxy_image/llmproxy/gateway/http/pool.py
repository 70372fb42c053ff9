"""Connections to one model server: opened when none is kept, kept when an answer has come to a clean end.

An address is TCP, TLS or a unix socket. Deadlines of calls are looked after here, for all with one timer.
"""

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass
from typing import Final

from llmproxy.gateway.http.client import MAX_FAR_S, Connection, UpstreamFailure

SWEEP_S: Final = 0.05
"""How late a call may expire."""
MAX_IDLE_S: Final = 45.0
"""A kept connection that is older is not used again: servers close theirs after 60 s or more, seldom less."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a pool connects to."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    unix_path: str | None = None


class Pool:
    """Connections to one address; newest used first, so that spare ones grow old and go."""

    def __init__(self, address: Address, *, max_connections: int = 4096) -> None:
        self.address = address
        self.loop = asyncio.get_running_loop()
        self._idle: deque[Connection] = deque()
        self._all: set[Connection] = set()
        self._max = max_connections
        self._sweep: asyncio.TimerHandle | None = None

    async def connect(self, timeout_s: float) -> Connection:
        """Return a new connection; raise UpstreamFailure if there is none within *timeout_s*."""
        if len(self._all) >= self._max:
            raise UpstreamFailure("connect", f"{self._max} calls are on their way to it already")
        return await self._connect(timeout_s)

    def idle(self) -> Connection | None:
        """Return a kept connection, the youngest, if there is one."""
        now = self.loop.time()
        while self._idle:
            connection = self._idle.pop()
            if now - connection.idle_since > MAX_IDLE_S:
                connection.close()
            elif connection in self._all:
                return connection
        return None

    async def _connect(self, timeout_s: float) -> Connection:
        address = self.address
        connection = Connection(self)
        began_s = self.loop.time()
        try:
            async with asyncio.timeout(timeout_s):
                if address.unix_path is not None:
                    await self.loop.create_unix_connection(lambda: connection, address.unix_path)
                else:
                    await self.loop.create_connection(
                        lambda: connection,
                        address.host,
                        address.port,
                        ssl=address.tls,
                        server_hostname=address.host if address.tls else None,
                    )
        except TimeoutError as exc:
            raise UpstreamFailure("connect_timeout", f"no connection within {timeout_s:g} s") from exc
        except (OSError, ssl.SSLError) as exc:
            raise UpstreamFailure("connect", _plain(exc)) from exc
        connection.far_s = min(MAX_FAR_S, self.loop.time() - began_s)
        self._all.add(connection)
        return connection

    def look_after(self) -> None:
        """Let every busy connection expire at its deadline or within SWEEP_S after it.

        One timer for all is a third of what one for each request costs.
        """
        if self._sweep is None:
            self._sweep = self.loop.call_later(SWEEP_S, self._expire)

    def _expire(self) -> None:
        now = self.loop.time()
        busy = [connection for connection in self._all if connection.busy]
        self._sweep = self.loop.call_later(SWEEP_S, self._expire) if busy else None
        for connection in busy:
            if connection.deadline <= now:
                connection.expire()

    def keep(self, connection: Connection) -> None:
        """Put a connection by for the next call."""
        connection.idle_since = self.loop.time()
        self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        """Drop a connection that is closed."""
        if connection in self._all:
            self._all.discard(connection)
            if not connection.busy and connection in self._idle:
                self._idle.remove(connection)

    def close(self) -> None:
        """Close every connection."""
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self._all):
            connection.close()


def _plain(exc: Exception) -> str:
    return getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
