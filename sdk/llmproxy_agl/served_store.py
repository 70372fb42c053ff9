"""An in-process LightningStore, served over HTTP by the trainer's process while the proxy runs."""

import asyncio
import os
import socket
from typing import Any

from agentlightning.store.base import LightningStore
from agentlightning.store.client_server import LightningStoreServer
from agentlightning.utils.server_launcher import PythonServerLauncherArgs


def is_in_process(store: object) -> bool:
    """Return whether *store* is a store that other processes can only reach through a server."""
    return isinstance(store, LightningStore)


class ServedStore:
    """A store and its server. A copy in another process has the address, not the server."""

    def __init__(self, store: object, access_host: str) -> None:
        self.store = store
        self.url = ""
        self._access_host = access_host
        self._server: LightningStoreServer | None = None
        self._owner = 0

    def __getstate__(self) -> dict[str, Any]:
        """Drop the server and the store, which belong to one process."""
        return {**self.__dict__, "store": None, "_server": None, "_owner": 0}

    def start(self) -> str:
        """Serve the store, if it is not served yet; return its URL."""
        if not self.url:
            local = self._access_host.startswith("127.")
            args = PythonServerLauncherArgs(
                host=self._access_host if local else "0.0.0.0",  # noqa: S104 - pods reach it
                port=_free_port(),
                access_host=self._access_host,
                launch_mode="thread",
                healthcheck_url="/v1/agl/health",
            )
            server = LightningStoreServer(self.store, launcher_args=args)
            asyncio.run(server.start())
            self._server, self._owner, self.url = server, os.getpid(), str(server.endpoint)
        return self.url

    def stop(self) -> None:
        """Stop the server, in the process that has started it."""
        if self._server is not None and self._owner == os.getpid():
            asyncio.run(self._server.stop())
            self._server, self.url = None, ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
