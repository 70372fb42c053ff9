"""Calls of litellm: the only module that imports it.

It is used as a library of translations and nothing else: no router, no retries, no callbacks, no cost map from the
network, no log of its own. Everything that it could take from the environment is passed.
"""

import logging
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # read at its import, which would fetch a file otherwise
os.environ["LITELLM_LOG"] = "CRITICAL"
os.environ.setdefault("DISABLE_AIOHTTP_TRUST_ENV", "True")

import httpx
import litellm
from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

from llmproxy import providers
from llmproxy.contract import Deployment, Translation
from llmproxy.translator import shapes
from llmproxy.translator.transport import NO_KEY, TRACE, Transport, UpstreamTrace


class TranslationError(Exception):
    """litellm gave no answer; `status` is its own, UpstreamTrace has the provider's."""

    def __init__(self, status: object, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Backend:
    """One deployment, ready to be called."""

    deployment: Deployment
    provider: str
    upstream_model: str
    key: str | None
    client: AsyncHTTPHandler

    def arguments(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a litellm call; *arguments* cannot override what is ours."""
        deployment = self.deployment
        base = {} if deployment.api_base is None else {"api_base": deployment.api_base.rstrip("/")}
        own = {"model": deployment.model, "api_key": self.key or NO_KEY, "client": self.client, "max_retries": 0}
        return {**arguments, **base, **own, "num_retries": 0, "timeout": deployment.timeout_s}

    def for_model(self, name: str | None) -> "Backend":
        """Return the backend of a request with the model *name*: the gateway has replaced the * of a prefix in it."""
        if not self.upstream_model.endswith("*") or name is None:
            return self
        deployment = self.deployment.model_copy(update={"model": f"{self.provider}/{name}"})
        return replace(self, deployment=deployment, upstream_model=name)


def prepare(transport: Transport, translation: Translation) -> None:
    """Make litellm quiet, and *transport* its only way out: some of its providers make clients of their own."""
    AsyncHTTPHandler.create_async_transport = staticmethod(lambda *_, **__: transport)
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.drop_params = translation.drop_params
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def make_backend(deployment: Deployment, key: str | None, transport: Transport) -> Backend:
    """Return *deployment* ready to be called."""
    provider, model = providers.split(deployment.model)
    timeout = httpx.Timeout(deployment.timeout_s, connect=min(deployment.connect_timeout_s, deployment.timeout_s))
    # Redirects are not followed: they would carry the key to wherever the provider points.
    client = AsyncHTTPHandler(timeout=timeout, transport=transport, follow_redirects=False)
    return Backend(deployment, provider.name, model, key, client)


async def complete(backend: Backend, arguments: Mapping[str, Any], trace: UpstreamTrace) -> shapes.Json:
    """Return a chat completion; raise TranslationError."""
    TRACE.set(trace)
    try:
        answer = await litellm.acompletion(**backend.arguments(arguments))
    except Exception as exc:
        raise _foreign(exc) from exc
    return shapes.completion(answer.model_dump(exclude_none=True), backend.upstream_model)


async def stream(backend: Backend, arguments: Mapping[str, Any], trace: UpstreamTrace) -> AsyncIterator[shapes.Json]:
    """Yield the chunks of a chat completion; raise TranslationError, the first time before any chunk if it can."""
    TRACE.set(trace)
    try:
        answer = await litellm.acompletion(**backend.arguments(arguments))
        async for part in answer:
            yield shapes.chunk(part.model_dump(exclude_none=True), backend.upstream_model)
    except Exception as exc:
        raise _foreign(exc) from exc


async def embed(backend: Backend, arguments: Mapping[str, Any], trace: UpstreamTrace) -> shapes.Json:
    """Return embeddings; raise TranslationError."""
    TRACE.set(trace)
    try:
        answer = await litellm.aembedding(**backend.arguments(arguments))
    except Exception as exc:
        raise _foreign(exc) from exc
    return shapes.embeddings(answer.model_dump(exclude_none=True), backend.upstream_model)


def _foreign(exc: Exception) -> TranslationError:
    return TranslationError(getattr(exc, "status_code", None), str(getattr(exc, "message", None) or exc))
