"""A real Redis for tests: started, killed, stopped and started empty again; and a small client of it.

`redis_server()` skips a test where the program is missing and may not be installed: `make test` installs it first.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hiredis
import pytest

PACKAGES = {"redis-server": "redis-server"}
"""Program and the Debian package that it comes in."""


class Client:
    """One blocking connection."""

    def __init__(self, port: int, password: str = "") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()
        if password:
            self("AUTH", password)

    def __call__(self, *command: str | bytes | int) -> Any:
        self._socket.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub knows tuples of one
        while (answer := self._reader.gets()) is False:
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionError("closed")
            self._reader.feed(data)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self._socket.close()


class Server:
    """One redis-server at one port, which keeps nothing when it ends."""

    def __init__(self, port: int, folder: Path, password: str = "") -> None:
        self.port = port
        self.password = password
        self._folder = folder
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it empty."""
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        if self.password:
            command += ["--requirepass", self.password]
        self._popen = subprocess.Popen(command, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while True:
            try:
                client = Client(self.port, self.password)
                client("PING")
                client.close()
                return  # noqa: TRY300 - the loop ends here
            except OSError:
                assert time.monotonic() < deadline, "redis-server did not start"
                time.sleep(0.02)

    def kill(self) -> None:
        assert self._popen is not None
        self._popen.send_signal(signal.SIGCONT)
        self._popen.kill()
        self._popen.wait()

    def stop(self) -> None:
        """It hangs: connections stay, answers do not come."""
        assert self._popen is not None
        self._popen.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._popen is not None
        self._popen.send_signal(signal.SIGCONT)

    def client(self) -> Client:
        return Client(self.port, self.password)


@contextmanager
def redis_server(password: str = "") -> Iterator[Server]:
    """Run one on a free port; skip the test if there is no such program."""
    if shutil.which("redis-server", path=os.environ.get("PATH", "") + ":/usr/sbin") is None:
        pytest.skip("no redis-server here: apt-get install redis-server")
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        server = Server(port, Path(folder), password)
        server.start()
        try:
            yield server
        finally:
            server.kill()
