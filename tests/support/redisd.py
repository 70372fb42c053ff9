"""A real Redis for tests: started, killed, stopped and started empty again; and a small client of it.

`redis_server()` skips a test where the program is missing and may not be installed; `make test` installs it first, by
`python -m redisd`. Debian's redis-tools has the whole program under the name of one of its uses and, other than
redis-server, no service that would start.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import hiredis
import pytest

from cluster.errors import UnavailableError
from cluster.packages import ensure, find
from cluster.pki import Keys
from procs import free_port

PROGRAM = "redis-check-rdb"
PROGRAM_NAME = "redis-server"
"""What the program must believe it was called."""
PACKAGES = {PROGRAM: "redis-tools", "openssl": "openssl"}
"""Programs and the Debian packages that they come in."""
REQUIRED = "LLMPROXY_REQUIRE_E2E"


class Client:
    """One blocking connection."""

    def __init__(self, port: int, password: str = "") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
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

    def __init__(self, program: str, port: int, folder: Path, password: str = "", tls_port: int = 0) -> None:
        self.port = port
        self.password = password
        self.ca = ""
        """Certificates (PEM) that it is checked by, if it takes TLS."""
        self._program = program
        self._folder = folder
        self._tls_port = tls_port
        self._tls: list[str] = []
        if tls_port:
            keys = Keys(folder)
            keys.authority("ca")
            keys.leaf("redis", "/CN=redis", names="IP:127.0.0.1")
            self.ca = Path(keys.crt("ca")).read_text()
            self._tls = ["--tls-port", str(tls_port), "--tls-cert-file", keys.crt("redis")]
            self._tls += ["--tls-key-file", keys.key("redis"), "--tls-ca-cert-file", keys.crt("ca")]
            self._tls += ["--tls-auth-clients", "no"]
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        secret = f":{quote(self.password, safe='')}@" if self.password else ""
        scheme, port = ("rediss", self._tls_port) if self._tls_port else ("redis", self.port)
        return f"{scheme}://{secret}127.0.0.1:{port}/0"

    def start(self) -> None:
        """Start it empty."""
        command = [PROGRAM_NAME, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        if self.password:
            command += ["--requirepass", self.password]
        self._popen = subprocess.Popen(
            command + self._tls,
            executable=self._program,
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
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
        self._popen.kill()
        self._popen.wait()

    def stop(self) -> None:
        """It hangs: connections stay, answers do not come."""
        assert self._popen is not None
        self._popen.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._popen is not None
        self._popen.send_signal(signal.SIGCONT)

    def has_run_long(self, *scopes: str) -> None:
        """Make it one that pods of these scopes have used for long: else they wait a window until they trust it."""
        client = self.client()
        run = re.search(rb"run_id:(\w+)", client("INFO", "server"))
        assert run is not None
        for scope in scopes:
            client("HSET", f"llmproxy:{{{scope}}}:clock", "run", run.group(1), "born", 1, "last", 0, "shift", 0)
        client.close()

    def client(self) -> Client:
        return Client(self.port, self.password)


@contextmanager
def redis_server(password: str = "", *, tls: bool = False) -> Iterator[Server]:
    """Run one on a free port; skip the test if there is no such program, or fail it where it is required."""
    program = find(PROGRAM)
    if program is None:
        missing = f"no Redis here: apt-get install {PACKAGES[PROGRAM]}"
        if os.environ.get(REQUIRED):
            pytest.fail(missing)
        pytest.skip(missing)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(program, free_port(), Path(folder), password, free_port() if tls else 0)
        server.start()
        try:
            yield server
        finally:
            server.kill()


if __name__ == "__main__":
    try:
        ensure(PACKAGES)
    except UnavailableError as exc:
        print(f"Tests that need a Redis are skipped: {exc}", file=sys.stderr)
        sys.exit(1 if os.environ.get(REQUIRED) else 0)
