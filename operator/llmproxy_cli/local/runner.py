"""Runner of `llmproxy local`: run a manifest, watch the file, roll on an edit, clean up at the end.

A roll is that of a cluster: the next pod takes over the counters and is ready before the previous one drains. An
invalid file, or a pod that does not become ready, is reported and changes nothing.
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
from llmproxy_cli.local import registry
from llmproxy_cli.local.child_process import LineHandler
from llmproxy_cli.local.file_watcher import FileWatcher
from llmproxy_cli.local.plan import PodPlan, build_plan
from llmproxy_cli.local.pod import LocalPod, PodError, PodSettings
from llmproxy_cli.manifests import FileError, SecretRef

BACKLOG = 2048
TOKEN_FILE = "control-token"  # noqa: S105 - the name of a file


class LocalError(Exception):
    """The run cannot start; the message says why and what to do."""


@dataclass(frozen=True)
class LocalOptions:
    """Flags of the command."""

    file: Path
    name: str | None = None
    host: str = "127.0.0.1"
    port: int = 4000
    run_dir: Path | None = None
    translator_python: str = sys.executable
    secrets: Mapping[SecretRef, str] = field(default_factory=dict)
    connect_to: Mapping[str, str] = field(default_factory=dict)
    verbose: bool = False
    on_state: Callable[["RunState"], None] | None = None
    """Called with every change of state, for programs; messages are for people."""


@dataclass(frozen=True, slots=True)
class RunState:
    """State of the run after the last read of the file."""

    digest: str
    """Digest of the file's content."""
    problem: str = ""
    """Reason why it is not in effect and the previous one still is; empty if it is."""


class LocalRunner:
    """One run of `llmproxy local`."""

    def __init__(self, options: LocalOptions, say: Callable[[str], None], show: LineHandler) -> None:
        self._options = options
        self._say = say
        self._show = show
        self._pod: LocalPod | None = None
        self._url = ""
        self._alive: list[LocalPod] = []
        self._draining: set[asyncio.Task[None]] = set()
        self._next = 1
        self._last_notes: tuple[str, ...] = ()

    async def run(self) -> int:
        """Serve until SIGINT or SIGTERM; return the exit code. Raise LocalError, FileError, PodError at the start."""
        watch = FileWatcher(self._options.file)  # before the first read, so that an edit in between is noticed
        first = self._plan()
        with _run_dir(self._options.run_dir, self._say) as folder, _listen(self._options) as listener:
            settings = PodSettings(
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
            serving = asyncio.ensure_future(self._serve(first, folder, settings, watch))
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
                registry.unregister(os.getpid())
        return 0

    async def _serve(self, first: PodPlan, folder: Path, settings: PodSettings, watch: FileWatcher) -> None:
        await self._roll(first, folder, settings)
        self._report(RunState(watch.digest))
        while True:
            await watch.changed()
            try:
                plan = self._plan()
                if self._pod is None or plan.hash != self._pod.plan.hash:
                    self._say(f"{self._options.file} has changed: rolling")
                    await self._roll(plan, folder, settings)
                elif plan.client_keys != self._pod.plan.client_keys:
                    self._say(f"{self._options.file} has changed: API keys of callers replaced without a roll")
                    self._pod.plan = plan
                    self._pod.set_keys(plan.client_keys)
                self._report(RunState(watch.digest))
            except (FileError, LocalError, PodError) as exc:
                self._say(f"the edit is not in effect, the previous version continues to run: {exc}")
                self._report(RunState(watch.digest, str(exc)))

    def _report(self, state: RunState) -> None:
        if self._options.on_state is not None:
            self._options.on_state(state)

    def _plan(self) -> PodPlan:
        options = self._options
        source = str(options.file)
        bundle = manifests.load(options.file, name=options.name, connect_to=options.connect_to)
        plan = build_plan(bundle, options.secrets, os.environ, source)
        if plan.translated:
            check_translator(options.translator_python, plan.translated)
        return plan

    async def _roll(self, plan: PodPlan, folder: Path, settings: PodSettings) -> None:
        before = self._pod
        pod = LocalPod(plan, _next_folder(folder, self._next), settings)
        self._next += 1
        self._alive.append(pod)
        try:
            await pod.start(before)
        except BaseException:
            self._remove(pod)
            raise
        self._pod = pod
        if plan.notes != self._last_notes:
            for note in plan.notes:
                self._say(note)
        self._last_notes = plan.notes
        self._log_ready(pod, settings)
        self._register()
        if before is not None:
            task = asyncio.ensure_future(self._drain(before))
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)

    async def _drain(self, pod: LocalPod) -> None:
        await pod.drain()
        self._remove(pod)
        self._register()

    def _remove(self, pod: LocalPod) -> None:
        """Remove the folder of a terminated pod, unless it has undelivered records."""
        self._alive.remove(pod)
        undelivered_bytes = _undelivered(pod.spool)
        if undelivered_bytes:
            self._say(f"{undelivered_bytes} bytes of records are not delivered and remain in {pod.spool}")
            shutil.rmtree(pod.folder / "keys", ignore_errors=True)
        else:
            shutil.rmtree(pod.folder, ignore_errors=True)

    async def _end(self, listener: socket.socket) -> None:
        """Terminate all pods; no new connection is accepted."""
        listener.close()
        if self._pod is None:
            return
        self._say("terminating: requests in flight are finished; Ctrl-C again kills them")
        await asyncio.wait({*self._draining, asyncio.ensure_future(self._drain(self._pod))})
        self._say("terminated")

    def _on_signals(self, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()

        def on_signal() -> None:
            if stop.is_set():
                for pod in self._alive:
                    pod.kill()
            stop.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal)

    def _register(self) -> None:
        """Register the pods for `llmproxy top`; a failure does not end the run."""
        assert self._pod is not None  # noqa: S101 - a pod is registered once it serves
        proxy = self._pod.plan.document.proxy
        admin = tuple(f"http://127.0.0.1:{pod.admin_port}" for pod in self._alive)
        try:
            registry.register(registry.LocalRun(os.getpid(), proxy.namespace, proxy.name, self._url, admin))
        except OSError as exc:
            self._say(f"llmproxy top does not show this run: {exc}")

    def _log_ready(self, pod: LocalPod, settings: PodSettings) -> None:
        listener = settings.listener
        document = pod.plan.document
        host, port = listener.getsockname()[:2]
        self._url = url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        store = f", spans to {_span_targets(document.spans)}" if document.spans is not None else ""
        self._say(f"{document.proxy.name} is ready on {url}: {describe(document)}{store}")
        token = settings.control_token_file
        self._say(f"to pause it: http://127.0.0.1:{pod.control_port}/pause with the token in {token}")
        self._say(f"OPENAI_BASE_URL={url}/v1   metrics http://127.0.0.1:{pod.admin_port}/metrics")


def _new_token(folder: Path) -> Path:
    """Write the token of the control ports, readable by this user only; return its path."""
    file = folder / TOKEN_FILE
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as out:
        out.write(secrets.token_urlsafe(32))
    return file


def _span_targets(spans: contract.Spans) -> str:
    return " and ".join(filter(None, (spans.store, spans.otlp.endpoint if spans.otlp is not None else None)))


def describe(document: contract.Document) -> str:
    """Return models and limits in a few words."""
    limits = document.rate_limits
    named = (("rpm", limits.rpm), ("rps", limits.rps), ("tpm", limits.tpm), ("maxParallel", limits.max_parallel))
    text = " ".join(f"{name} {value}" for name, value in named if value is not None) or "none"
    return f"models {', '.join(model.name for model in document.models)}; limits {text}"


def check_translator(python: str, models: tuple[str, ...]) -> None:
    """Check that *python* can run the translator; raise LocalError with what to do."""
    code = "import importlib.util as u, sys; sys.exit(not (u.find_spec('litellm') and u.find_spec('llmproxy')))"
    try:
        capable = subprocess.run([python, "-c", code], check=False, capture_output=True, timeout=60).returncode == 0  # noqa: S603 - the user's own Python
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise LocalError(f"--translator-python {python}: {exc}") from exc
    if not capable:
        raise LocalError(
            f"the model {', '.join(models)} needs the translator, and {python} has no litellm: use --translator-python "
            "PATH of an environment with `pip install 'llmproxy[translator]'` (litellm conflicts with this one)"
        )


@contextlib.contextmanager
def _listen(options: LocalOptions) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        listener = socket.create_server((options.host, options.port), family=family, backlog=BACKLOG)
    except OSError as exc:
        reason = exc.strerror or str(exc)
        raise LocalError(f"cannot listen on {options.host}:{options.port}: {reason}; choose another --port") from exc
    with listener:
        yield listener


@contextlib.contextmanager
def _run_dir(run_dir: Path | None, say: Callable[[str], None]) -> Iterator[Path]:
    """Yield a folder for this run only; a temporary one is removed unless it has undelivered records."""
    if run_dir is None:
        folder = Path(tempfile.mkdtemp(prefix="llmproxy-"))
        try:
            yield folder
        finally:
            if any(_undelivered(spool) for spool in folder.glob("*/spool")):
                say(f"to deliver the remaining records, run the same command with --run-dir {folder}")
            else:
                shutil.rmtree(folder, ignore_errors=True)
        return
    run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (run_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise LocalError(f"{run_dir} is in use by another run: choose another --run-dir") from exc
        yield run_dir.resolve()


def _next_folder(folder: Path, number: int) -> Path:
    """Return the folder of the next pod: the first reuses one with undelivered records."""
    if number == 1:
        for spool in sorted(folder.glob("*/spool")):
            if _undelivered(spool):
                return spool.parent
    next_folder = folder / str(number)
    while next_folder.exists():
        number += 1
        next_folder = folder / str(number)
    return next_folder


def _undelivered(spool: Path) -> int:
    """Return the bytes of undelivered records in *spool*: those after the cursor."""
    segments = [part for part in spool.rglob("*.seg") if part.is_file()] if spool.is_dir() else []
    return sum(max(0, part.stat().st_size - _delivered(part)) for part in segments)


def _delivered(segment: Path) -> int:
    """Return the delivered bytes of a segment; the shipper's cursor has segment, offset and a checksum."""
    try:
        number, offset, _ = json.loads((segment.parent / "cursor").read_bytes())
        own = int(segment.stem)
        return segment.stat().st_size if own < number else int(offset) if own == number else 0
    except (OSError, ValueError, TypeError):
        return 0
