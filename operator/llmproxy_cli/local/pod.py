"""What a pod is in a cluster: a folder with the contract document and sockets, and the processes of its containers.

Shipper and translator are there before the gateway and end after it. A part that dies is started again; a pod that does
not get ready is a PodError, and whoever asked for it keeps the one before.
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
from llmproxy_cli.local.child_process import Child, Show
from llmproxy_cli.local.plan import Plan

GATEWAY = "gateway"
SHIPPER = "shipper"
TRANSLATOR = "translator"
CONTROL_FILE = "control"
"""In a pod's folder: where its control port is, for who pauses."""

READY_S = 120.0
"""As the startup probe allows: a gateway is ready once it has taken the counters of the one before."""
SOCKET_S = 60.0
"""litellm takes seconds to import, on a busy laptop many."""
FLUSH_S = 30.0
"""How long the shipper may empty its spool at the end."""
MARGIN_S = 10.0
FIRST_RESTART_S = 0.2
LAST_RESTART_S = 10.0
STABLE_S = 30.0
"""A part that ran so long before it died is started again without a longer wait."""
MAX_SOCKET_PATH = 100
"""Bytes; the kernel takes 107."""


class PodError(Exception):
    """A pod did not get ready; the message says which part and what it printed last."""


@dataclass(frozen=True)
class Setting:
    """What all pods of one run have in common."""

    listener: socket.socket
    """Shared by the gateways that follow each other: a connection that nobody has taken yet waits for the next."""
    peer_token: str
    control_token_file: Path
    translator_python: str
    say: Callable[[str], None]
    show: Show
    verbose: bool

    @property
    def url(self) -> str:
        """Where the gateways are reached from this machine."""
        host, port = self.listener.getsockname()[:2]
        near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - every address is ours too
        return f"http://{f'[{near}]' if ':' in near else near}:{port}"


class Pod:
    """One generation of processes."""

    def __init__(self, plan: Plan, folder: Path, setting: Setting) -> None:
        self.plan = plan
        self.folder = folder
        self.admin_port = _free_port()
        self.peer_port = _free_port()
        self.control_port = _free_port()
        self._setting = setting
        self._peers: tuple[str, ...] = ()
        self._children: dict[str, Child] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._ending = False

    @property
    def spool(self) -> Path:
        """Where calls are kept until they are in the store."""
        return self.folder / "spool"

    async def start(self, predecessor: "Pod | None") -> None:
        """Start everything and wait until it is ready; raise PodError and leave nothing behind otherwise.

        The gateway takes the counters of its *predecessor* over, which goes on serving meanwhile.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if len(bytes(self.folder / "translator.sock")) > MAX_SOCKET_PATH:
            raise PodError(f"{self.folder} is too long a path for a socket: choose a shorter --run-dir")
        (self.folder / "config.json").write_text(self._document().to_json())
        (self.folder / CONTROL_FILE).write_text(f"http://127.0.0.1:{self.control_port}\n")
        self.set_keys(self.plan.client_keys)
        if predecessor is not None:
            self._peers = ("--peers", f"127.0.0.1:{predecessor.peer_port}")
        try:
            for name in self._sidecars():
                child = self._children[name] = await self._spawn(name)
                await _until((self.folder / f"{name}.sock").exists, child, SOCKET_S)
            child = self._children[GATEWAY] = await self._spawn(GATEWAY)
            await _until(self._is_ready, child, READY_S)
        except BaseException:
            self.cut()
            for child in self._children.values():
                await child.wait()
            raise
        self._peers = ()  # a gateway that is started again finds no one to take counters from
        self._keepers = [asyncio.ensure_future(self._keep(name)) for name in self._children]

    def set_keys(self, keys: tuple[str, ...]) -> None:
        """Let those in who show one of *keys*, within moments; nobody is cut."""
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

    async def retire(self) -> None:
        """End everything in order: calls are finished, then the spool is emptied."""
        self._stop_keeping()
        drain_s = self.plan.document.drain_timeout_s + MARGIN_S
        for name, grace_s in ((GATEWAY, drain_s), (SHIPPER, FLUSH_S + MARGIN_S), (TRANSLATOR, MARGIN_S)):
            child = self._children.get(name)
            if child is None or child.code is not None:
                continue
            code = await child.end(grace_s)
            if code not in {0, -signal.SIGTERM}:
                self._setting.say(f"{name} ended with {_ending(code)}")

    def cut(self) -> None:
        """End everything at once, without waiting for it."""
        self._stop_keeping()
        for child in self._children.values():
            if child.code is None:
                child.signal(signal.SIGKILL)

    def _document(self) -> contract.Document:
        """Return what the processes are told: here the gateway has another address than in a cluster."""
        document = self.plan.document
        if document.spans is None or document.spans.resource is None:
            return document
        resource = document.spans.resource.model_copy(update={"endpoint": self._setting.url})
        spans = document.spans.model_copy(update={"resource": resource})
        return document.model_copy(update={"spans": spans})

    def _sidecars(self) -> tuple[str, ...]:
        shipper = (SHIPPER,) if self.plan.document.spans is not None else ()
        return shipper + ((TRANSLATOR,) if self.plan.translated else ())

    def _stop_keeping(self) -> None:
        self._ending = True
        for keeper in self._keepers:
            keeper.cancel()

    async def _keep(self, name: str) -> None:
        """Start a part again whenever it dies."""
        delay_s = FIRST_RESTART_S
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            code = await self._children[name].wait()
            if self._ending:
                return
            if loop.time() - began_s > STABLE_S:
                delay_s = FIRST_RESTART_S
            self._setting.say(f"{name} ended with {_ending(code)}; starting it again in {delay_s:g} s")
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, LAST_RESTART_S)
            self._children[name] = await self._spawn(name)

    async def _spawn(self, name: str) -> Child:
        common = ("--config", str(self.folder / "config.json"), "--run-dir", str(self.folder))
        python, more, env = sys.executable, self._more(name), self._env(name)
        if name == TRANSLATOR:
            python = self._setting.translator_python
        return await Child.start(
            name,
            (python, "-m", f"llmproxy.{name}", *common, *more),
            env=env,
            fds=(self._setting.listener.fileno(),) if name == GATEWAY else (),
            show=self._setting.show,
            verbose=self._setting.verbose,
        )

    def _more(self, name: str) -> tuple[str, ...]:
        if name == SHIPPER:
            return ("--spool-dir", str(self.spool), "--flush-s", f"{FLUSH_S:g}")
        if name == TRANSLATOR:
            return ()
        fd = str(self._setting.listener.fileno())
        admin = ("--admin-host", "127.0.0.1", "--admin-port", str(self.admin_port))
        control = ("--control-host", "127.0.0.1", "--control-port", str(self.control_port))
        files = ("--control-token-file", str(self._setting.control_token_file), "--keys-dir", str(self.folder / "keys"))
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
            return {**self.plan.gateway_keys, "PEER_TOKEN": self._setting.peer_token}
        return self.plan.translator_keys if name == TRANSLATOR else self.plan.shipper_keys

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=1)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.HTTPStatus.OK
        return False


async def _until(holds: Callable[[], bool], child: Child, timeout_s: float) -> None:
    """Wait until *holds*, which may block for a moment; raise PodError when *child* ends or time is up before."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + timeout_s
    while not await asyncio.to_thread(holds):
        if child.code is not None:
            await child.wait()
            raise PodError(f"{child.name} ended with {_ending(child.code)} before it was ready{_last(child)}")
        if loop.time() > deadline_s:
            raise PodError(f"{child.name} was not ready within {timeout_s:g} s{_last(child)}")
        await asyncio.sleep(0.03)


def _last(child: Child) -> str:
    return "; it printed last:\n" + "\n".join(f"  {line}" for line in child.tail) if child.tail else ""


def _ending(code: int) -> str:
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
