"""uvicorn as a part of a process that has other parts: no signal handling of its own, an end in two steps.

A server that closes kept connections at once cuts requests that are already on their way on them. So it first takes no
new connections while answers say `connection: close` (that is the app's), and hangs up what is left idle afterwards.
"""

import asyncio
import contextlib
import math
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import uvicorn

KEEP_ALIVE_S = 75
"""Longer than clients keep theirs (5 to 60 s): they close theirs, and no request meets a closed one."""
BACKLOG = 2048


class Server(uvicorn.Server):
    """A uvicorn server on sockets that it is given."""

    def __init__(self, app: Callable[..., Coroutine[Any, Any, None]], *, grace_s: float = 0.0) -> None:
        """*grace_s* bounds how long calls in flight may go on once `should_exit` is set."""
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, math.ceil(grace_s)),
            )
        )

        self._up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take connections."""
        await super().startup(sockets)
        self._up.set()

    async def until_up(self) -> None:
        """Wait until connections are taken."""
        await self._up.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process."""
        yield

    def stop_accepting(self) -> None:
        """Take no new connections; those that are there go on."""
        for server in self.servers:
            server.close()

    async def emptied(self, timeout_s: float) -> None:
        """Wait until no connection is left, at most *timeout_s*."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.server_state.connections:  # noqa: ASYNC110 - uvicorn keeps a plain set of them
                    await asyncio.sleep(0.02)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; an empty *host* is all addresses, of both families where there are two."""
    if host:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # the kernel knows IPv6 and the machine has none
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
    return socket.create_server(("", port), backlog=BACKLOG)
