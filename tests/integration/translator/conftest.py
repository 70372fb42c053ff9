"""The translator as the gateway meets it: a process behind a unix socket, before a fake Gemini."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llmproxy import contract
from procs import AGL_PYTHON, FAKES, Process, running

KEY = "AIza-this-is-a-test-key"
KEY_VARIABLE = "UPSTREAM_KEY_TEST"
PRIVATE = "a-prompt-that-nobody-may-log"


@dataclass
class Rig:
    """Both processes, and clients to them."""

    translator: Process
    gemini: Process
    client: httpx2.Client

    def chat(self, text: str, deployment: str = "g/0", **body: Any) -> httpx2.Response:
        message = {"role": "user", "content": text}
        return self.client.post(
            "/v1/chat/completions",
            json={"model": "gemini-2.0-flash", "messages": [message], **body},
            headers={"x-llmproxy-deployment": deployment},
        )

    def seen(self) -> dict[str, object]:
        stats: dict[str, object] = httpx2.get(f"http://127.0.0.1:{self.gemini.port}/stats").json()
        return stats


def document(gemini_port: int, translation: contract.Translation | None = None) -> contract.Document:
    base = f"http://127.0.0.1:{gemini_port}/v1beta"

    def deployment(ident: str, model: str, **more: object) -> contract.Deployment:
        return contract.Deployment.model_validate({"id": ident, "model": model, "api_base": base, **more})

    deployments = (
        deployment("g/0", "gemini/gemini-2.0-flash", api_key_env=KEY_VARIABLE),
        deployment("keyless/0", "gemini/gemini-2.0-flash"),
        deployment("unknown/0", "gemini/gemini-0", api_key_env=KEY_VARIABLE),
        deployment("slow/0", "gemini/gemini-2.0-flash", api_key_env=KEY_VARIABLE, timeout_s=0.5),
        deployment("dead/0", "gemini/gemini-2.0-flash", api_key_env=KEY_VARIABLE).model_copy(
            update={"api_base": "http://127.0.0.1:9/v1beta"}
        ),
        deployment("params/0", "gemini/gemini-2.0-flash", api_key_env=KEY_VARIABLE, params={"temperature": 0.25}),
        deployment("e/0", "gemini/gemini-embedding-001", api_key_env=KEY_VARIABLE),
        deployment("prefix/0", "gemini/*", api_key_env=KEY_VARIABLE),
        deployment("native/0", "openai_like/x"),
    )
    models = tuple(contract.Model(name=d.id.partition("/")[0], deployments=(d,)) for d in deployments)
    proxy = contract.Proxy(name="t", namespace="default")
    return contract.Document(proxy=proxy, models=models, translation=translation, drain_timeout_s=20)


def translator_command(config: Path, run_dir: Path) -> tuple[str, ...]:
    return (
        *(str(AGL_PYTHON), "-m", "llmproxy.translator"),
        *("--config", str(config), "--run-dir", str(run_dir)),
    )


@pytest.fixture(scope="session")
def gemini() -> Iterator[Process]:
    with running("fakes.gemini", "--key", KEY, ready="ready on", env=FAKES) as process:
        yield process


@contextmanager
def translating(gemini: Process, folder: Path, translation: contract.Translation | None = None) -> Iterator[Rig]:
    """Run a translator before *gemini*."""
    (folder / "config.json").write_text(document(gemini.port, translation).to_json())
    command = translator_command(folder / "config.json", folder)
    with running(*command, ready="translator_ready", env={KEY_VARIABLE: KEY}) as process:
        transport = httpx2.HTTPTransport(uds=str(folder / "translator.sock"))
        with httpx2.Client(transport=transport, base_url="http://translator", timeout=30) as client:
            yield Rig(process, gemini, client)


@pytest.fixture(scope="session")
def shared(gemini: Process, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with translating(gemini, tmp_path_factory.mktemp("t")) as rig:
        yield rig


@pytest.fixture
def rig(shared: Rig) -> Rig:
    httpx2.post(f"http://127.0.0.1:{shared.gemini.port}/stats/reset")
    return shared
