"""Backend for this machine: the proxy as a process tree of its own, `python -m llmproxy_cli.local.embedded`.

All state is in a folder named after the proxy, so that a copy in another process (a fork, a pickle) shares it: a lock
while the proxy runs, a file with the manifest in effect. An edit of the manifest is a roll.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import yaml

from llmproxy_agl.errors import ProxyError
from llmproxy_agl.manifest import Manifests
from llmproxy_agl.notices import log
from llmproxy_agl.pause import ControlPorts

READY_S = 180.0
STOP_S = 360.0
"""Requests in flight may take drainTimeout, then the shipper empties the spool."""
MAX_SOCKET_PATH = 100
"""Bytes; the kernel accepts 107."""
_LOOK_S = 0.02
_TAIL_LINES = 25


class LocalBackend:
    """Runs the proxy on this machine."""

    in_cluster = False

    def __init__(self, name: str, host: str, port: int, endpoint: str) -> None:
        self.name = name
        self.endpoint = endpoint
        self._host = host
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def __getstate__(self) -> dict[str, Any]:
        """Drop state of this process."""
        return {**self.__dict__, "_process": None, "_owner": 0}

    @property
    def folder(self) -> Path:
        """Folder with the state of the proxy."""
        return Path(tempfile.gettempdir()) / f"llmproxy-agl-{os.getuid()}-{self.name}"

    @property
    def started_here(self) -> bool:
        """True if this process has started it."""
        return self._owner == os.getpid()

    def is_running(self) -> bool:
        """Return whether it runs, started by any process."""
        if self._process is not None and self.started_here:
            self._process.poll()
        try:
            with (self.folder / "run/lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def apply(self, manifests: Manifests, cancelled: threading.Event) -> None:
        """Start or roll the proxy; return when *manifests* are in effect. Raise ProxyError."""
        text = _manifests(manifests)
        digest = hashlib.sha256(text.encode()).hexdigest()
        running = self.is_running()
        state = self._state()
        if running and (state.get("digest"), state.get("problem")) == (digest, ""):
            return
        self._prepare()
        if not running:
            (self.folder / "state.json").unlink(missing_ok=True)
        _write(self.folder / "proxy.yaml", text)
        if not running:
            self._start()
        self._wait(digest, cancelled)

    def stop(self, limit_s: float = STOP_S) -> None:
        """Terminate it: requests in flight are finished, then the spool is delivered to the store."""
        pid = self._state().get("pid")
        if not self.is_running() or not isinstance(pid, int):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline_s = time.monotonic() + limit_s
        while self.is_running():
            if time.monotonic() > deadline_s:
                raise ProxyError(f"LLMProxy {self.name}: still running after {limit_s:g} s, see {self.folder / 'log'}")
            time.sleep(_LOOK_S)
        if self._process is not None and self.started_here:
            self._process.wait()
        remaining = next((self.folder / "run").glob("*/spool"), None)  # its process removes a delivered spool
        if remaining is None:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            log.warning("LLMProxy %s: undelivered records remain in %s", self.name, remaining)

    def control(self) -> ControlPorts:
        """Return the control ports of the running gateways: two during a roll."""
        run = self.folder / "run"
        try:
            token = (run / "control-token").read_text()
            files = sorted(run.glob("*/control"))
            return ControlPorts(tuple(file.read_text().strip() for file in files), token)
        except OSError as exc:
            raise ProxyError(f"LLMProxy {self.name}: is not running here, so there is nothing to pause: {exc}") from exc

    def _prepare(self) -> None:
        if len(bytes(self.folder / "run/9999/translator.sock")) > MAX_SOCKET_PATH:
            raise ProxyError(
                f"{self.folder}: is too long a path for a socket: set TMPDIR to a shorter one, such as /tmp"
            )
        self.folder.mkdir(mode=0o700, exist_ok=True)
        if self.folder.stat().st_uid != os.getuid():
            raise ProxyError(f"{self.folder}: belongs to another user: choose another name=")

    def _start(self) -> None:
        missing = [m for m in ("llmproxy_cli", "uvloop", "msgspec") if importlib.util.find_spec(m) is None]
        if missing:
            raise ProxyError(
                f"{sys.executable}: has no {', '.join(missing)}, which the proxy runs on: "
                "pip install 'llmproxy[agl,proxy]'"
            )
        command = [sys.executable, "-m", "llmproxy_cli.local.embedded", "--file", str(self.folder / "proxy.yaml")]
        command += ["--host", self._host, "--port", str(self._port), "--run-dir", str(self.folder / "run")]
        command += ["--state", str(self.folder / "state.json"), "--parent", str(os.getpid())]
        with (self.folder / "log").open("wb") as out:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._owner = os.getpid()

    def _wait(self, digest: str, cancelled: threading.Event) -> None:
        deadline_s = time.monotonic() + READY_S
        while True:
            state = self._state()
            if state.get("digest") == digest:
                if state.get("problem"):
                    raise ProxyError(
                        f"LLMProxy {self.name}: the change is not in effect, the previous version continues to run: "
                        f"{state['problem']}"
                    )
                return
            ended = self._process is not None and self.started_here and self._process.poll() is not None
            if ended and not self.is_running():
                raise ProxyError(f"LLMProxy {self.name}: the proxy did not start:\n{self._tail()}")
            if time.monotonic() > deadline_s:
                raise ProxyError(
                    f"LLMProxy {self.name}: not in effect within {READY_S:g} s; its last output:\n{self._tail()}"
                )
            if cancelled.wait(_LOOK_S):
                raise ProxyError(f"LLMProxy {self.name}: the wait was cancelled")

    def _state(self) -> dict[str, Any]:
        try:
            state = json.loads((self.folder / "state.json").read_text())
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def _tail(self) -> str:
        try:
            lines = (self.folder / "log").read_text(errors="replace").splitlines()
        except OSError:
            return "  (nothing)"
        return "\n".join(f"  {line}" for line in lines[-_TAIL_LINES:])


def _manifests(manifests: Manifests) -> str:
    objects = [manifests.proxy, *manifests.secrets]
    return yaml.safe_dump_all(objects, sort_keys=True)


def _write(path: Path, text: str) -> None:
    """Replace *path* atomically, readable by its owner only: it may hold keys."""
    beside = path.with_suffix(".new")
    with contextlib.suppress(FileNotFoundError):
        beside.unlink()
    with os.fdopen(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as out:
        out.write(text)
    beside.replace(path)
