"""`llmproxy local`: run what a file says, watch the file, roll on an edit, and leave nothing behind at the end.

A roll is what it is in a cluster: the next pod takes the counters over and is ready before the one before it drains.
A file that cannot be used, or a pod that does not get ready, is told and changes nothing.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmproxy import contract
from llmproxy_cli import manifests
from llmproxy_cli.local import plan, registry
from llmproxy_cli.local.child_process import Show
from llmproxy_cli.local.file_watcher import Watch
from llmproxy_cli.local.plan import Plan
from llmproxy_cli.local.pod import Pod, PodError, Setting
from llmproxy_cli.manifests import FileError, SecretRef

BACKLOG = 2048
TOKEN_FILE = "control-token"  # noqa: S105 - the name of a file


class LocalError(Exception):
    """It cannot run; the message says why and what to do."""


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    file: Path
    name: str | None = None
    host: str = "127.0.0.1"
    port: int = 4000
    run_dir: Path | None = None
    translator_python: str = sys.executable
    secrets: Mapping[SecretRef, str] = field(default_factory=dict)
    connect_to: Mapping[str, str] = field(default_factory=dict)
    verbose: bool = False
    told: Callable[["State"], None] | None = None
    """Is told at every change, for programs; what is said is for people."""


@dataclass(frozen=True, slots=True)
class State:
    """What is in force, and what came of the last look at the file."""

    seen: str
    """Digest of the file's content that was looked at last."""
    problem: str = ""
    """Why it is not in force, and what was before is; empty if it is."""


class Local:
    """One run."""

    def __init__(self, options: Options, say: Callable[[str], None], show: Show) -> None:
        self._options = options
        self._say = say
        self._show = show
        self._pod: Pod | None = None
        self._url = ""
        self._alive: list[Pod] = []
        self._retiring: set[asyncio.Task[None]] = set()
        self._next = 1
        self._noted: tuple[str, ...] = ()

    async def run(self) -> int:
        """Serve until SIGINT or SIGTERM; return the exit code. Raise LocalError, FileError, PodError at the start."""
        watch = Watch(self._options.file)  # before it is read: an edit in between is one
        first = self._plan()
        with _run_dir(self._options.run_dir, self._say) as folder, _listen(self._options) as listener:
            setting = Setting(
                listener=listener,
                peer_token=secrets.token_urlsafe(32),
                control_token_file=_new_token(folder),
                translator_python=self._options.translator_python,
                say=self._say,
                show=self._show,
                verbose=self._options.verbose,
            )
            stop = asyncio.Event()
            self._on_signals(stop)
            serving = asyncio.ensure_future(self._serve(first, folder, setting, watch))
            stopping = asyncio.ensure_future(stop.wait())
            try:
                await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if serving.done():
                    serving.result()
            finally:
                stopping.cancel()
                serving.cancel()
                await asyncio.wait({serving})
                await self._end(listener)
                registry.forget(os.getpid())
        return 0

    async def _serve(self, first: Plan, folder: Path, setting: Setting, watch: Watch) -> None:
        await self._roll(first, folder, setting)
        self._tell(State(watch.digest))
        while True:
            await watch.changed()
            try:
                wanted = self._plan()
                if self._pod is None or wanted.hash != self._pod.plan.hash:
                    self._say(f"{self._options.file} has changed: rolling")
                    await self._roll(wanted, folder, setting)
                elif wanted.client_keys != self._pod.plan.client_keys:
                    self._say(f"{self._options.file} has changed: other API keys of callers, nothing is rolled")
                    self._pod.plan = wanted
                    self._pod.set_keys(wanted.client_keys)
                self._tell(State(watch.digest))
            except (FileError, LocalError, PodError) as exc:
                self._say(f"the edit is not in force, what ran before goes on: {exc}")
                self._tell(State(watch.digest, str(exc)))

    def _tell(self, state: State) -> None:
        if self._options.told is not None:
            self._options.told(state)

    def _plan(self) -> Plan:
        options = self._options
        source = str(options.file)
        bundle = manifests.load(options.file, name=options.name, connect_to=options.connect_to)
        made = plan.make(bundle, options.secrets, os.environ, source)
        if made.translated:
            check_translator(options.translator_python, made.translated)
        return made

    async def _roll(self, wanted: Plan, folder: Path, setting: Setting) -> None:
        before = self._pod
        pod = Pod(wanted, _next_folder(folder, self._next), setting)
        self._next += 1
        self._alive.append(pod)
        try:
            await pod.start(before)
        except BaseException:
            self._leave(pod)
            raise
        self._pod = pod
        if wanted.notes != self._noted:
            for note in wanted.notes:
                self._say(note)
        self._noted = wanted.notes
        self._say_ready(pod, setting)
        self._tell_others()
        if before is not None:
            task = asyncio.ensure_future(self._retire(before))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def _retire(self, pod: Pod) -> None:
        await pod.retire()
        self._leave(pod)
        self._tell_others()

    def _leave(self, pod: Pod) -> None:
        """Remove what an ended pod has left, but for records that are not delivered."""
        self._alive.remove(pod)
        left = _undelivered(pod.spool)
        if left:
            self._say(f"{left} bytes of records are not delivered and stay in {pod.spool}")
        else:
            shutil.rmtree(pod.folder, ignore_errors=True)

    async def _end(self, listener: socket.socket) -> None:
        """End all pods; no new call is taken any more."""
        listener.close()
        if self._pod is None:
            return
        self._say("ending: calls in flight are finished; once more ends them at once")
        await asyncio.wait({*self._retiring, asyncio.ensure_future(self._retire(self._pod))})
        self._say("ended")

    def _on_signals(self, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()

        def told() -> None:
            if stop.is_set():
                for pod in self._alive:
                    pod.cut()
            stop.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, told)

    def _tell_others(self) -> None:
        """Say where the pods are to `llmproxy top`, which it is not worth ending for."""
        assert self._pod is not None  # noqa: S101 - a pod is told of once it serves
        proxy = self._pod.plan.document.proxy
        admin = tuple(f"http://127.0.0.1:{pod.admin_port}" for pod in self._alive)
        try:
            registry.tell(registry.Run(os.getpid(), proxy.namespace, proxy.name, self._url, admin))
        except OSError as exc:
            self._say(f"llmproxy top will not find this run: {exc}")

    def _say_ready(self, pod: Pod, setting: Setting) -> None:
        listener = setting.listener
        document = pod.plan.document
        host, port = listener.getsockname()[:2]
        self._url = url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        store = f", spans to {_targets(document.spans)}" if document.spans is not None else ""
        self._say(f"{document.proxy.name} is ready on {url}: {describe(document)}{store}")
        token = setting.control_token_file
        self._say(f"to pause it: http://127.0.0.1:{pod.control_port}/pause with the token in {token}")
        self._say(f"OPENAI_BASE_URL={url}/v1   metrics http://127.0.0.1:{pod.admin_port}/metrics")


def _new_token(folder: Path) -> Path:
    """Write the token of the control ports, for this user only; return where it is."""
    file = folder / TOKEN_FILE
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as out:
        out.write(secrets.token_urlsafe(32))
    return file


def _targets(spans: contract.Spans) -> str:
    return " and ".join(filter(None, (spans.store, spans.otlp.endpoint if spans.otlp is not None else None)))


def describe(document: contract.Document) -> str:
    """Return models and limits in a few words."""
    limits = document.rate_limits
    named = (("rpm", limits.rpm), ("rps", limits.rps), ("tpm", limits.tpm), ("maxParallel", limits.max_parallel))
    said = " ".join(f"{name} {value}" for name, value in named if value is not None) or "none"
    return f"models {', '.join(model.name for model in document.models)}; limits {said}"


def check_translator(python: str, models: tuple[str, ...]) -> None:
    """See that *python* can run the translator; raise LocalError with the way out."""
    code = "import importlib.util as u, sys; sys.exit(not (u.find_spec('litellm') and u.find_spec('llmproxy')))"
    try:
        found = subprocess.run([python, "-c", code], check=False, capture_output=True, timeout=60).returncode == 0  # noqa: S603 - the user's own Python
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise LocalError(f"--translator-python {python}: {exc}") from exc
    if not found:
        raise LocalError(
            f"the model {', '.join(models)} needs the translator, and {python} has no litellm: say --translator-python "
            "PATH of an environment with `pip install 'llmproxy[translator]'` (litellm cannot share this one)"
        )


@contextlib.contextmanager
def _listen(options: Options) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        listener = socket.create_server((options.host, options.port), family=family, backlog=BACKLOG)
    except OSError as exc:
        reason = exc.strerror or str(exc)
        raise LocalError(f"cannot listen on {options.host}:{options.port}: {reason}; choose another --port") from exc
    with listener:
        yield listener


@contextlib.contextmanager
def _run_dir(wanted: Path | None, say: Callable[[str], None]) -> Iterator[Path]:
    """Yield a folder that is ours alone; one that we made is removed unless records are left in it."""
    if wanted is None:
        folder = Path(tempfile.mkdtemp(prefix="llmproxy-"))
        try:
            yield folder
        finally:
            if any(_undelivered(spool) for spool in folder.glob("*/spool")):
                say(f"to deliver what is left: the same command with --run-dir {folder}")
            else:
                shutil.rmtree(folder, ignore_errors=True)
        return
    wanted.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (wanted / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise LocalError(f"{wanted} is in use by another run: choose another --run-dir") from exc
        yield wanted.resolve()


def _next_folder(folder: Path, number: int) -> Path:
    """Return the folder of the next pod: one that an ended run left records in, else a new one."""
    if number == 1:
        for spool in sorted(folder.glob("*/spool")):
            if _undelivered(spool):
                return spool.parent
    made = folder / str(number)
    while made.exists():
        number += 1
        made = folder / str(number)
    return made


def _undelivered(spool: Path) -> int:
    """Return how many bytes of records *spool* holds that the store has not got; those before the cursor it has."""
    segments = [part for part in spool.rglob("*.seg") if part.is_file()] if spool.is_dir() else []
    return sum(max(0, part.stat().st_size - _delivered(part)) for part in segments)


def _delivered(segment: Path) -> int:
    """Return up to where a segment is delivered: the shipper's cursor says segment and offset."""
    try:
        number, offset = json.loads((segment.parent / "cursor").read_bytes())
        own = int(segment.stem)
        return segment.stat().st_size if own < number else int(offset) if own == number else 0
    except (OSError, ValueError, TypeError):
        return 0
