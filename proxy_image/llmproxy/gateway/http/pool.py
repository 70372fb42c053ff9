"""Pool of connections to one model server: idle ones are reused, new ones opened when there is none.

An address is TCP, TLS or a unix socket. One timer enforces the deadlines of all calls.
"""

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass
from typing import Final

from llmproxy.gateway.http.client import MAX_CONNECT_RTT_S, ClientConnection, UpstreamFailure

SWEEP_S: Final = 0.05
"""Largest delay of a call's expiry."""
MAX_IDLE_S: Final = 45.0
"""Age after which an idle connection is not reused: servers close theirs after 60 s or more, seldom less."""


@dataclass(frozen=True, slots=True)
class Address:
    """Address of a model server."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    unix_path: str | None = None
    server_name: str | None = None
    """Name in the server's certificate; None: the host."""


class Pool:
    """Connections to one address; the youngest idle one is reused first, so that spare ones expire."""

    def __init__(self, address: Address, *, max_connections: int = 4096) -> None:
        self.address = address
        self.loop = asyncio.get_running_loop()
        self._idle: deque[ClientConnection] = deque()
        self._all: set[ClientConnection] = set()
        self._max = max_connections
        self._sweep: asyncio.TimerHandle | None = None

    async def connect(self, timeout_s: float) -> ClientConnection:
        """Return a new connection; raise UpstreamFailure if there is none within *timeout_s*."""
        if len(self._all) >= self._max:
            raise UpstreamFailure("connect", f"{self._max} calls are on their way to it already")
        connection = await self._connect(timeout_s)
        self._start_sweep()
        return connection

    def idle(self) -> ClientConnection | None:
        """Return the youngest idle connection, None without one."""
        now = self.loop.time()
        while self._idle:
            connection = self._idle.pop()
            if now - connection.idle_since > MAX_IDLE_S:
                connection.close()
            elif connection in self._all:
                self._start_sweep()
                return connection
        return None

    async def _connect(self, timeout_s: float) -> ClientConnection:
        address = self.address
        connection = ClientConnection(self.loop, self._on_release)
        started_s = self.loop.time()
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
                        server_hostname=(address.server_name or address.host) if address.tls else None,
                    )
        except TimeoutError as exc:
            raise UpstreamFailure("connect_timeout", f"no connection within {timeout_s:g} s") from exc
        except (OSError, ssl.SSLError) as exc:
            raise UpstreamFailure("connect", _reason(exc)) from exc
        connection.connect_rtt_s = min(MAX_CONNECT_RTT_S, self.loop.time() - started_s)
        self._all.add(connection)
        return connection

    def _start_sweep(self) -> None:
        """Let every busy connection expire within SWEEP_S after its deadline.

        One timer for all is a third of what one for each request costs.
        """
        if self._sweep is None:
            self._sweep = self.loop.call_later(SWEEP_S, self._expire)

    def _expire(self) -> None:
        now = self.loop.time()
        in_use = len(self._all) > len(self._idle)
        self._sweep = self.loop.call_later(SWEEP_S, self._expire) if in_use else None
        for connection in [c for c in self._all if c.busy]:
            if connection.deadline <= now:
                connection.expire()

    def _on_release(self, connection: ClientConnection, reusable: bool) -> None:  # noqa: FBT001 - a callback
        """Keep a *reusable* connection for the next call; drop another."""
        if reusable:
            connection.idle_since = self.loop.time()
            self._idle.append(connection)
        elif connection in self._all:
            self._all.discard(connection)
            if not connection.busy and connection in self._idle:
                self._idle.remove(connection)

    def close(self) -> None:
        """Close every connection."""
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self._all):
            connection.close()


def _reason(exc: Exception) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {exc.verify_message}; tls.ca of the deployment sets the CAs"
    return getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
