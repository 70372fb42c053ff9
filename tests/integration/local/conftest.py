"""`llmproxy local` as people run it: a process with a file, before an echo server, a fake Gemini and a real store."""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import openai
import pytest

from procs import AGL_PYTHON, ROOT, Process, free_port, running

PYTHON = str(ROOT / ".venv/bin/python")
READY = "is ready on"


class Local:
    """A running `llmproxy local` and its file."""

    def __init__(self, process: Process, file: Path, port: int) -> None:
        self.process = process
        self.file = file
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def edit(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new))

    def wait_ready(self, times: int) -> None:
        self.process.wait_for(READY, 60, times=times)

    def chat(self, text: str, model: str = "echo", *, path: str = "/v1", timeout_s: float = 30) -> httpx2.Response:
        body = {"model": model, "messages": [{"role": "user", "content": text}]}
        return httpx2.post(f"{self.url}{path}/chat/completions", json=body, timeout=timeout_s)

    def sdk(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def children(self) -> dict[str, int]:
        """Return the ids of the processes that it runs, by what they are."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                words = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if int(parent) == self.process.pid:
                found[next((w for w in words if w.startswith("llmproxy.")), words[0])] = int(entry.name)
        return found


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A short path instead of pytest's: sockets below it must fit into the kernel's 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="llmproxy-") as folder:
        yield Path(folder)


@contextmanager
def local(folder: Path, manifest: str, *flags: str, env: dict[str, str] | None = None) -> Iterator[Local]:
    """Run `llmproxy local` on *manifest*; what it makes for itself is in `folder/tmp`."""
    file = folder / "proxy.yaml"
    file.write_text(manifest)
    (folder / "tmp").mkdir(exist_ok=True)
    port = free_port()
    command = (PYTHON, "-m", "llmproxy_cli", "local", "-f", str(file), "--port", str(port), *flags)
    with running(*command, ready=READY, env={"TMPDIR": str(folder / "tmp"), **(env or {})}) as process:
        yield Local(process, file, port)


@pytest.fixture(scope="session")
def echo() -> Iterator[Process]:
    with running(PYTHON, "-m", "llmproxy.echo", "--port", "0", ready=READY.removeprefix("is ")) as process:
        yield process


@pytest.fixture(scope="session")
def store() -> Iterator[str]:
    port = free_port()
    command = (str(AGL_PYTHON.parent / "agl"), "store", "--host", "127.0.0.1", "--port", str(port))
    with running(*command, port=port, timeout_s=90):
        yield f"http://127.0.0.1:{port}"


def manifest(echo_port: int, spec: str = "") -> str:
    """Return an LLMProxy with one model on the echo server, and the lines of *spec*."""
    return f"""\
apiVersion: llmproxy.dev/v1alpha1
kind: LLMProxy
metadata: {{name: here}}
spec:
  models:
  - name: echo
    deployments:
    - {{model: hosted_vllm/echo, apiBase: "http://127.0.0.1:{echo_port}/v1"}}
{spec}
"""


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
