"""The table of providers against LiteLLM itself: every name it knows stands there once, and what is called translated
goes through our transport, with the key, to the address that the deployment says."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import litellm
import pytest
from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler
from litellm.llms.openai_like.json_loader import JSONProviderRegistry
from litellm.types.utils import LlmProviders

from llmproxy import contract
from llmproxy.providers import LITELLMS, PROVIDERS, REFUSED, Way
from llmproxy.translator import engine
from llmproxy.translator.transport import Transport, UpstreamTrace

pytestmark = [pytest.mark.agl, pytest.mark.filterwarnings("ignore")]  # LiteLLM's own

BASE = "http://127.0.0.1:9/base"
KEY = "a-key-of-the-test"
IGNORE_BASE = {"bytez": "https://api.bytez.com/", "replicate": "https://api.replicate.com/"}
"""LiteLLM calls these at their own address whatever it is told."""
EMBEDDINGS_ONLY = frozenset({"infinity", "jina_ai", "voyage"})
NAMES = {"triton": "/generate"}
"""What an apiBase must end with."""


def test_every_name_of_litellms_stands_in_exactly_one_place() -> None:
    known = {name.value for name in LlmProviders} | {str(getattr(n, "value", n)) for n in litellm.provider_list}

    assert not PROVIDERS.keys() & REFUSED.keys()
    assert known - PROVIDERS.keys() - REFUSED.keys() == set()
    ours = {name for name in PROVIDERS.keys() | REFUSED.keys() if name not in known}
    assert ours == {"sglang"}
    assert all(len(why.split()) > 4 for why in REFUSED.values())


def test_a_native_one_is_on_litellms_lists_or_says_why_not() -> None:
    listed = {
        *litellm.openai_compatible_providers,
        *litellm._openai_like_providers,
        *JSONProviderRegistry.list_providers(),
    }
    native = [row for row in PROVIDERS.values() if row.way is Way.NATIVE]

    assert len(native) > 70
    assert [row.name for row in native if row.name not in listed and not row.why] == []
    assert [row.name for row in native if row.name in listed and row.why] == ["vllm"] * ("vllm" in listed)


def test_the_addresses_are_litellms() -> None:
    """Where LiteLLM tells one; for a server that people run it tells this machine's."""
    different = {}
    for row in PROVIDERS.values():
        if row.way is not Way.NATIVE or row.api_base is None:
            continue
        _, _, _, base = litellm.get_llm_provider(model=f"{row.name}/x")
        if base and base.rstrip("/") != row.api_base:
            different[row.name] = base
    assert different == {}


class Recording(httpx.AsyncBaseTransport):  # type: ignore[misc]  # httpx has no types here
    """Refuses everything, and knows what was asked."""

    def __init__(self) -> None:
        self.asked: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return httpx.Response(418, json={"error": {"message": "a teapot"}})


@pytest.fixture
def recording() -> Iterator[Recording]:
    kept = AsyncHTTPHandler.create_async_transport
    transport = Recording()
    engine.prepare(transport, contract.Translation())
    litellm.in_memory_llm_clients_cache.flush_cache()
    yield transport
    AsyncHTTPHandler.create_async_transport = staticmethod(kept)


REACHED = sorted(row.name for row in PROVIDERS.values() if row.way is Way.TRANSLATED and not row.environment)


@pytest.mark.parametrize("name", REACHED)
def test_a_translated_one_is_called_through_the_transport_with_its_key(name: str, recording: Recording) -> None:
    document = {"id": "d/0", "model": f"{name}/m", "api_base": BASE + NAMES.get(name, ""), "timeout_s": 20}
    backend = engine.make_backend(contract.Deployment.model_validate(document), KEY, recording)

    with pytest.raises(engine.TranslationError) as told:
        asyncio.run(_ask(name, backend))

    assert len(recording.asked) == 1, str(told.value)
    [request] = recording.asked
    assert str(request.url).startswith(IGNORE_BASE.get(name, BASE))
    assert name == "triton" or any(KEY in value for value in request.headers.values())


async def _ask(name: str, backend: engine.Backend) -> Any:
    if name in EMBEDDINGS_ONLY:
        return await engine.embed(backend, {"input": ["a"]}, UpstreamTrace())
    return await engine.complete(backend, {"messages": [{"role": "user", "content": "hi"}]}, UpstreamTrace())


Json = dict[str, Any]
BREAKERS = "a\u2028b\u2029c\u0085d ä€😀 end"


class Cohere(BaseHTTPRequestHandler):
    """Streams one text in Cohere's words, with the characters as they are: lines of JSON, which LiteLLM asks for."""

    def line(self, event: Json) -> bytes:
        return json.dumps(event, ensure_ascii=False).encode() + b"\n"

    def do_POST(self) -> None:
        text = {"message": {"content": {"text": BREAKERS}}}
        end = {"finish_reason": "COMPLETE", "usage": {"tokens": {"input_tokens": 3, "output_tokens": 4}}}
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write(self.line({"type": "content-delta", "index": 0, "delta": text}))
        self.wfile.write(self.line({"type": "message-end", "delta": end}))

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class Documented(Cohere):
    """The same as Cohere documents it: events with a name."""

    def line(self, event: Json) -> bytes:
        return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def streamed(handler: type[Cohere]) -> str:
    """Return what a caller gets of a stream of *handler*."""

    async def text(port: int) -> str:
        transport = Transport()
        engine.prepare(transport, contract.Translation())
        litellm.in_memory_llm_clients_cache.flush_cache()
        document = {"id": "d/0", "model": "cohere/m", "api_base": f"http://127.0.0.1:{port}/v2/chat"}
        backend = engine.make_backend(contract.Deployment.model_validate(document), KEY, transport)
        asked = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
        seen = UpstreamTrace()
        try:
            parts = [part async for part in engine.stream(backend, asked, seen)]
        finally:
            await transport.close()
        assert seen.status == 200
        return "".join(choice["delta"].get("content") or "" for part in parts for choice in part["choices"])

    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            return asyncio.run(text(server.server_port))
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.usefixtures("recording")  # puts back what `prepare` changes
def test_a_provider_whose_client_is_litellms_own_loses_no_character_either() -> None:
    assert streamed(Cohere) == BREAKERS


@pytest.mark.usefixtures("recording")
def test_the_pinned_litellm_cannot_read_coheres_stream_as_it_is_documented() -> None:
    """When this fails, LiteLLM can: take the remark out of docs/providers.md."""
    with pytest.raises(Exception, match="event: content-delta"):
        streamed(Documented)


def test_one_without_an_address_has_none_in_litellm_either() -> None:
    assert [row.name for row in PROVIDERS.values() if row.way is Way.NATIVE and row.api_base == LITELLMS] == []


def test_a_prefix_of_models_is_called_by_the_requested_name(recording: Recording) -> None:
    document = {"id": "d/0", "model": "gemini/*", "api_base": BASE, "timeout_s": 20}
    backend = engine.make_backend(contract.Deployment.model_validate(document), KEY, recording)
    arguments = {"messages": [{"role": "user", "content": "hi"}]}
    named = backend.for_model("gemini-of-tomorrow")

    with pytest.raises(engine.TranslationError):
        asyncio.run(engine.complete(named, arguments, UpstreamTrace()))

    [request] = recording.asked
    assert "/gemini-of-tomorrow:generateContent" in str(request.url)
    assert named.upstream_model == "gemini-of-tomorrow"
    fixed = engine.make_backend(contract.Deployment(id="d/1", model="gemini/one"), KEY, recording)
    assert fixed.for_model("other") is fixed
