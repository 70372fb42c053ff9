"""What a call costs whose server speaks another protocol than its client: CPU of this gateway, next to native calls.

    make bench-mapping

A real gateway, compiled where that is possible, before the echo, the fake of Anthropic and, with the translator, the
fake of Gemini; records of calls are handed to nobody. 16 callers on kept connections, 1 KB requests, 32 words back; 32
streams at a time whose chunks come one by one. Of a translated call the translator's CPU is counted too. Long events
are in `events`.
"""

import http.client
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import compile_llmproxy
from bench import events, machine
from bench.floors import Floor
from llmproxy import contract
from procs import AGL_PYTHON, FAKES, free_port, running

KEY = "of-the-deployment"
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
CALLERS, CALLS, TRANSLATED_CALLS = 16, 3200, 320
STREAMS, CHUNKS, CHUNK_MS = 32, 150, 10
WORDS = " ".join(f"word{i:02d}" for i in range(32))
FILLER = " ".join(["context"] * 96)


@dataclass(frozen=True, slots=True)
class Rig:
    """A gateway on a port, and those whose CPU counts."""

    port: int
    pids: tuple[int, ...]

    def call_ms(self, path: str, model: str, calls: int) -> float:
        """Return the CPU of one plain call."""
        body = _body(model, WORDS)
        self._side_by_side(path, body, CALLERS, calls // CALLERS // 10)
        before = machine.cpu_s(self.pids)
        self._side_by_side(path, body, CALLERS, calls // CALLERS)
        return (machine.cpu_s(self.pids) - before) / calls * 1e3

    def chunk_us(self, path: str, model: str, directive: Mapping[str, object]) -> float:
        """Return the CPU of one chunk of a stream."""
        body = _body(model, json.dumps(directive), stream=True)
        self._post(path, body, 1)
        before = machine.cpu_s(self.pids)
        self._side_by_side(path, body, STREAMS, 1)
        return (machine.cpu_s(self.pids) - before) / (STREAMS * CHUNKS) * 1e6

    def _side_by_side(self, path: str, body: bytes, callers: int, times: int) -> None:
        with ThreadPoolExecutor(callers) as pool:
            for done in [pool.submit(self._post, path, body, times) for _ in range(callers)]:
                done.result()

    def _post(self, path: str, body: bytes, times: int) -> None:
        headers = {"content-type": "application/json", "anthropic-version": "2023-06-01"}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)) as connection:
            for _ in range(times):
                connection.request("POST", path, body, headers)
                answer = connection.getresponse()
                said = answer.read()
                if answer.status != http.client.OK or (b'"stream": true' in body and said.count(b"\n\n") < CHUNKS):
                    raise RuntimeError(f"{path}: {answer.status} {said[:500]!r}")


def _body(model: str, said: str, *, stream: bool = False) -> bytes:
    turns = [{"role": "user", "content": FILLER}, {"role": "assistant", "content": "yes"}]
    asked = {"model": model, "max_tokens": 4096, "messages": [*turns, {"role": "user", "content": said}]}
    return json.dumps(asked | ({"stream": True} if stream else {})).encode()


def _document(echo: int, claude: int, gemini: int | None) -> contract.Document:
    bases = {"chat": ("hosted_vllm/echo", f"http://127.0.0.1:{echo}/v1")}
    bases["claude"] = ("anthropic/claude-fake-5", f"http://127.0.0.1:{claude}")
    if gemini is not None:
        bases["gemini"] = ("gemini/gemini-2.0-flash", f"http://127.0.0.1:{gemini}/v1beta")
    models = [
        {"name": name, "deployments": [{"id": f"{name}/0", "model": model, "api_base": base, "api_key_env": "KEY"}]}
        for name, (model, base) in bases.items()
    ]
    return contract.Document.model_validate(
        {"proxy": {"name": "bench", "namespace": "bench"}, "models": models, "drain_timeout_s": 1}
    )


@contextmanager
def rig(*, translated: bool) -> Iterator[Rig]:
    """Run all of it."""
    env = {"KEY": KEY, "PYTHONPATH": str(compile_llmproxy.folder() or "")}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        echo = stack.enter_context(running("llmproxy.echo", "--port", "0", ready="ready on"))
        claude = stack.enter_context(running("fakes.anthropic", "--key", KEY, ready="ready on", env=FAKES))
        gemini = None
        if translated:
            gemini = stack.enter_context(running("fakes.gemini", "--key", KEY, ready="ready on", env=FAKES)).port
        config = folder / "config.json"
        config.write_text(_document(echo.port, claude.port, gemini).to_json())
        common = ("--config", str(config), "--run-dir", str(folder))
        pids: list[int] = []
        if translated:
            translator = (str(AGL_PYTHON), "-m", "llmproxy.translator", *common)
            found = running(*translator, ready="translator_ready", env={"KEY": KEY, "PYTHONPATH": ""})
            pids.append(stack.enter_context(found).pid)
        port, admin = free_port(), free_port()
        listen = ("--host", "127.0.0.1", "--port", str(port), "--admin-host", "127.0.0.1", "--admin-port", str(admin))
        gateway = running(sys.executable, "-m", "llmproxy.gateway", *common, *listen, ready="gateway_ready", env=env)
        pids.append(stack.enter_context(gateway).pid)
        time.sleep(0.5)  # imports that are left for later
        yield Rig(port, tuple(pids))


def main() -> int:
    """Measure and say; 1 when a floor is not met."""
    translated = AGL_PYTHON.exists()
    echo = {"echo": {"chunks": CHUNKS, "chunk_ms": CHUNK_MS}}
    claude = {"claude": {"say": "word " * CHUNKS, "chunk_ms": CHUNK_MS}}
    with rig(translated=translated) as found:
        native_ms, native_us = found.call_ms(CHAT, "chat", CALLS), found.chunk_us(CHAT, "chat", echo)
        floors = [
            Floor("Anthropic client, OpenAI server: call", " ms", 0.2, 0.08, found.call_ms(MESSAGES, "chat", CALLS)),
            Floor("OpenAI client, Anthropic server: call", " ms", 0.2, 0.08, found.call_ms(CHAT, "claude", CALLS)),
            Floor("Anthropic client, OpenAI server: chunk", " us", 50, 35, found.chunk_us(MESSAGES, "chat", echo)),
            Floor("OpenAI client, Anthropic server: chunk", " us", 50, 35, found.chunk_us(CHAT, "claude", claude)),
        ]
        value = found.call_ms(CHAT, "gemini", TRANSLATED_CALLS) if translated else None
        floors.append(Floor("translated provider (Gemini): call", " ms", 10, 5, value))
    floors += events.floors()
    kind = "compiled" if compile_llmproxy.folder() else "not compiled"
    print(f"CPU; the gateway is {kind}; native, in the same run: {native_ms:.3g} ms a call, {native_us:.3g} us a chunk")
    print("\n".join(floor.line() for floor in floors))
    return int(any(floor.verdict == "FAIL" for floor in floors))


if __name__ == "__main__":
    sys.exit(main())
