"""A local pod: a folder with the contract document and sockets, and processes in place of containers.

Shipper and translator start before the gateway and terminate after it. A process that exits is restarted. A pod that
does not become ready raises PodError.
"""

import asyncio
import contextlib
import hashlib
import http.client
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmproxy import contract
from llmproxy_cli.local.child_process import ChildProcess, LineHandler
from llmproxy_cli.local.plan import PodPlan

GATEWAY = "gateway"
SHIPPER = "shipper"
TRANSLATOR = "translator"
CONTROL_FILE = "control"
"""File in a pod's folder with the address of its control port."""

READY_S = 120.0
"""As in the startup probe: a gateway is ready once it has the counters of its predecessor."""
SOCKET_S = 60.0
"""litellm takes seconds to import, on a busy laptop many."""
FLUSH_S = 30.0
"""Time for the shipper to empty its spool at the end."""
MARGIN_S = 10.0
FIRST_RESTART_S = 0.2
LAST_RESTART_S = 10.0
STABLE_S = 30.0
"""A process that ran for this long is restarted with the first delay again."""
MAX_SOCKET_PATH = 100
"""Bytes; the kernel accepts 107."""


class PodError(Exception):
    """A pod did not become ready; the message has the process and its last lines of output."""


@dataclass(frozen=True)
class PodSettings:
    """Settings that all pods of one run share."""

    listener: socket.socket
    """Shared by successive gateways: connections in its backlog survive a roll."""
    peer_token: str
    control_token_file: Path
    translator_python: str
    say: Callable[[str], None]
    show: LineHandler
    verbose: bool

    @property
    def url(self) -> str:
        """URL of the gateways on this machine."""
        host, port = self.listener.getsockname()[:2]
        near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - every address is ours too
        return f"http://{f'[{near}]' if ':' in near else near}:{port}"


class LocalPod:
    """One generation of processes."""

    def __init__(self, plan: PodPlan, folder: Path, settings: PodSettings) -> None:
        self.plan = plan
        self.folder = folder
        self.admin_port = _free_port()
        self.peer_port = _free_port()
        self.control_port = _free_port()
        self._settings = settings
        self._peers: tuple[str, ...] = ()
        self._children: dict[str, ChildProcess] = {}
        self._restarters: list[asyncio.Task[None]] = []
        self._exit_reason = False

    @property
    def spool(self) -> Path:
        """Folder of the shipper's spool."""
        return self.folder / "spool"

    async def start(self, predecessor: "LocalPod | None") -> None:
        """Start all processes and wait until they are ready; on failure kill them and raise PodError.

        The gateway takes over the counters of its *predecessor*, which continues to serve meanwhile.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if len(bytes(self.folder / "translator.sock")) > MAX_SOCKET_PATH:
            raise PodError(f"{self.folder} is too long a path for a socket: use a shorter --run-dir")
        (self.folder / "config.json").write_text(self._document().to_json())
        (self.folder / CONTROL_FILE).write_text(f"http://127.0.0.1:{self.control_port}\n")
        self.set_keys(self.plan.client_keys)
        if predecessor is not None:
            self._peers = ("--peers", f"127.0.0.1:{predecessor.peer_port}")
        try:
            for name in self._sidecars():
                child = self._children[name] = await self._spawn(name)
                await _wait_until((self.folder / f"{name}.sock").exists, child, SOCKET_S)
            child = self._children[GATEWAY] = await self._spawn(GATEWAY)
            await _wait_until(self._is_ready, child, READY_S)
        except BaseException:
            self.kill()
            for child in self._children.values():
                await child.wait()
            raise
        self._peers = ()  # a restarted gateway has no predecessor
        self._restarters = [asyncio.ensure_future(self._restart_on_exit(name)) for name in self._children]

    def set_keys(self, keys: tuple[str, ...]) -> None:
        """Replace the API keys of callers. The gateway reloads them; no request is interrupted."""
        place = self.folder / "keys"
        place.mkdir(mode=0o700, exist_ok=True)
        files = {hashlib.sha256(key.encode()).hexdigest()[:16]: key for key in keys}
        for name, key in files.items():
            beside = place / f"..{name}"
            beside.write_text(key)
            beside.replace(place / name)
        for old in place.iterdir():
            if old.name not in files:
                old.unlink()

    async def drain(self) -> None:
        """Terminate in order: the gateway finishes its requests, then the shipper empties the spool."""
        self._stop_restarters()
        drain_s = self.plan.document.drain_timeout_s + MARGIN_S
        for name, grace_s in ((GATEWAY, drain_s), (SHIPPER, FLUSH_S + MARGIN_S), (TRANSLATOR, MARGIN_S)):
            child = self._children.get(name)
            if child is None or child.code is not None:
                continue
            code = await child.terminate(grace_s)
            if code not in {0, -signal.SIGTERM}:
                self._settings.say(f"{name} exited with {_exit_reason(code)}")

    def kill(self) -> None:
        """Kill all processes without waiting."""
        self._stop_restarters()
        for child in self._children.values():
            if child.code is None:
                child.signal(signal.SIGKILL)

    def _document(self) -> contract.Document:
        """Return the contract document, with the local address of the gateway."""
        document = self.plan.document
        if document.spans is None or document.spans.resource is None:
            return document
        resource = document.spans.resource.model_copy(update={"endpoint": self._settings.url})
        spans = document.spans.model_copy(update={"resource": resource})
        return document.model_copy(update={"spans": spans})

    def _sidecars(self) -> tuple[str, ...]:
        shipper = (SHIPPER,) if self.plan.document.spans is not None else ()
        return shipper + ((TRANSLATOR,) if self.plan.translated else ())

    def _stop_restarters(self) -> None:
        self._exit_reason = True
        for keeper in self._restarters:
            keeper.cancel()

    async def _restart_on_exit(self, name: str) -> None:
        """Restart a process whenever it exits."""
        delay_s = FIRST_RESTART_S
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            code = await self._children[name].wait()
            if self._exit_reason:
                return
            if loop.time() - began_s > STABLE_S:
                delay_s = FIRST_RESTART_S
            self._settings.say(f"{name} exited with {_exit_reason(code)}; restarting it in {delay_s:g} s")
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, LAST_RESTART_S)
            self._children[name] = await self._spawn(name)

    async def _spawn(self, name: str) -> ChildProcess:
        common = ("--config", str(self.folder / "config.json"), "--run-dir", str(self.folder))
        python, more, env = sys.executable, self._arguments(name), self._env(name)
        if name == TRANSLATOR:
            python = self._settings.translator_python
        return await ChildProcess.start(
            name,
            (python, "-m", f"llmproxy.{name}", *common, *more),
            env=env,
            fds=(self._settings.listener.fileno(),) if name == GATEWAY else (),
            show=self._settings.show,
            verbose=self._settings.verbose,
        )

    def _arguments(self, name: str) -> tuple[str, ...]:
        if name == SHIPPER:
            return ("--spool-dir", str(self.spool), "--flush-s", f"{FLUSH_S:g}")
        if name == TRANSLATOR:
            return ()
        fd = str(self._settings.listener.fileno())
        admin = ("--admin-host", "127.0.0.1", "--admin-port", str(self.admin_port))
        control = ("--control-host", "127.0.0.1", "--control-port", str(self.control_port))
        files = (
            "--control-token-file",
            str(self._settings.control_token_file),
            "--keys-dir",
            str(self.folder / "keys"),
        )
        return (
            "--fd",
            fd,
            *admin,
            *control,
            *files,
            "--peer-host",
            "127.0.0.1",
            "--peer-port",
            str(self.peer_port),
            *self._peers,
        )

    def _env(self, name: str) -> Mapping[str, str]:
        if name == GATEWAY:
            return {**self.plan.gateway_keys, "PEER_TOKEN": self._settings.peer_token}
        return self.plan.translator_keys if name == TRANSLATOR else self.plan.shipper_keys

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=1)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.HTTPStatus.OK
        return False


async def _wait_until(holds: Callable[[], bool], child: ChildProcess, timeout_s: float) -> None:
    """Wait until *holds*, which may block for a moment; raise PodError if *child* exits or after *timeout_s*."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + timeout_s
    while not await asyncio.to_thread(holds):
        if child.code is not None:
            await child.wait()
            raise PodError(
                f"{child.name} exited with {_exit_reason(child.code)} before it was ready{_last_lines(child)}"
            )
        if loop.time() > deadline_s:
            raise PodError(f"{child.name} was not ready within {timeout_s:g} s{_last_lines(child)}")
        await asyncio.sleep(0.03)


def _last_lines(child: ChildProcess) -> str:
    return "; its last lines of output:\n" + "\n".join(f"  {line}" for line in child.tail) if child.tail else ""


def _exit_reason(code: int) -> str:
    if code >= 0:
        return f"code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
