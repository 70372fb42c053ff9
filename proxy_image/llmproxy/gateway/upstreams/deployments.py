"""Upstreams: the deployments of the document, ready to be called.

Address, head of a request and params do not depend on the request: they are computed here, once.
"""

import os
import ssl
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import msgspec

from llmproxy import contract, providers
from llmproxy.gateway.http.pool import Address, Pool
from llmproxy.gateway.http.routing import COUNT_TOKENS, MESSAGES, RESPONSES
from llmproxy.protocols.anthropic_to_openai.request import Traits

PATHS = {"chat.completions": "/chat/completions", "completions": "/completions", "embeddings": "/embeddings"}
_TRANSLATED = ("chat.completions", "embeddings")
ANTHROPIC_PATHS = {MESSAGES: "/messages", COUNT_TOKENS: "/messages/count_tokens"}
TRANSLATOR_SOCKET = "translator.sock"
TRANSLATOR = "translator"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Timeouts of an attempt, in seconds."""

    connect_s: float
    first_byte_s: float | None
    idle_s: float
    """0 is none."""
    total_s: float


@dataclass(frozen=True, slots=True)
class Upstream:
    """One deployment, ready to be called."""

    id: str
    weight: int
    token_ids: bool
    timeouts: Timeouts
    provider: str
    protocol: str
    """Protocol of the server: `openai` or `anthropic`."""
    traits: Traits
    """Fields that it takes of a request mapped from Anthropic's protocol."""
    stream_options: bool
    """The server takes `stream_options.include_usage`."""
    upstream_model: str
    model_json: msgspec.Raw
    params: dict[str, msgspec.Raw]
    heads: dict[str, bytes]
    """Head of a request by endpoint, with `%d` for the length of the body; endpoints that it lacks are absent."""
    pool: Pool
    host: str
    """For messages: host and port, never a path or a key."""

    def for_suffix(self, suffix: str) -> "Upstream":
        """Return this upstream with *suffix* in place of the * that ends its model."""
        model = self.upstream_model[:-1] + suffix
        return replace(self, upstream_model=model, model_json=msgspec.Raw(msgspec.json.encode(model)))


class Pools:
    """One pool an address, shared by the deployments at it."""

    def __init__(self) -> None:
        self._pools: dict[tuple[str, int, ssl.SSLContext | None, str | None, str | None], Pool] = {}
        self._tls: dict[str | None, ssl.SSLContext] = {}
        """By the certificates of the CAs."""

    def at(self, address: Address) -> Pool:
        """Return the pool of *address*."""
        key = (address.host, address.port, address.tls, address.unix_path, address.server_name)
        if key not in self._pools:
            self._pools[key] = Pool(address)
        return self._pools[key]

    def tls(self, ca: str | None) -> ssl.SSLContext:
        """Return the context for TLS to upstreams, names checked: by *ca* (PEM), None for the system's CAs.

        Raise ssl.SSLError for a *ca* without a certificate.
        """
        context = self._tls.get(ca)
        if context is None:
            context = self._tls[ca] = ssl.create_default_context(cadata=ca)
        return context

    def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            pool.close()


def read_key(deployment: contract.Deployment) -> str | None:
    """Return the key of *deployment* from the environment; raise ContractError when it is not there."""
    return None if deployment.api_key_env is None else _header_value(deployment, deployment.api_key_env, "the key")


def _header_value(deployment: contract.Deployment, variable: str, name: str) -> str:
    value = _variable(deployment, variable, name)
    if not value.isascii() or not value.isprintable():
        raise contract.ContractError(f"deployment {deployment.id}: {name} in {variable} has control characters")
    return value


def _variable(deployment: contract.Deployment, variable: str, name: str) -> str:
    value = os.environ.get(variable, "").strip()
    if not value:
        raise contract.ContractError(
            f"deployment {deployment.id}: {variable} is not set in the environment; it must hold {name}"
        )
    return value


def make_upstream(deployment: contract.Deployment, pools: Pools, run_dir: Path) -> Upstream:
    """Return *deployment* ready to be called; raise ContractError when it cannot be."""
    try:
        provider, model = providers.split(deployment.model)
    except providers.UnknownProviderError as exc:
        raise contract.ContractError(f"deployment {deployment.id}: {exc}") from exc
    if provider.way is providers.Way.TRANSLATED:
        path = str(run_dir / TRANSLATOR_SOCKET)
        extra = f"x-llmproxy-deployment: {deployment.id}\r\n"
        pool, host = pools.at(Address("", 0, unix_path=path)), TRANSLATOR
        heads = {e: _head(TRANSLATOR, "/v1" + PATHS[e], extra) for e in _TRANSLATED}
    else:
        base = deployment.api_base or provider.api_base
        if base is None:
            raise contract.ContractError(
                f"deployment {deployment.id}: api_base is needed, {provider.name} has none of its own"
            )
        pool, host, heads = _native(deployment, _with_path(base, provider.path), pools, provider)
    params = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in deployment.params.items()}
    return Upstream(
        id=deployment.id,
        weight=deployment.weight,
        token_ids=deployment.token_ids,
        timeouts=_timeouts(deployment),
        provider=provider.name,
        protocol=provider.protocol.value,
        traits=Traits(provider.output_limit, provider.cache_control, provider.reasoning_content, provider.max_effort),
        stream_options=provider.stream_options,
        upstream_model=model,
        model_json=msgspec.Raw(msgspec.json.encode(model)),
        params=params,
        heads=heads,
        pool=pool,
        host=host,
    )


def _timeouts(deployment: contract.Deployment) -> Timeouts:
    return Timeouts(
        connect_s=min(deployment.connect_timeout_s, deployment.timeout_s),
        first_byte_s=deployment.first_byte_timeout_s,
        idle_s=deployment.idle_timeout_s or 0.0,
        total_s=deployment.timeout_s,
    )


def _native(
    deployment: contract.Deployment, base: str, pools: Pools, provider: providers.Provider
) -> tuple[Pool, str, dict[str, bytes]]:
    url, port = _parsed(base, deployment)
    hostname = str(url.hostname)
    key = read_key(deployment)
    host = f"{hostname}:{port}"
    path = url.path.rstrip("/")
    own = "".join(
        f"{h.name}: {_header_value(deployment, h.value_env, f'the header {h.name}')}\r\n"
        for h in deployment.headers or ()
    )
    if provider.protocol is providers.Protocol.ANTHROPIC:
        extra = own + (f"x-api-key: {key}\r\n" if key else "")
        path = path.removesuffix("/v1") + "/v1"  # Anthropic's SDKs are given addresses without it
        heads = {e: _head(url.netloc, path + p, extra) for e, p in ANTHROPIC_PATHS.items()}
    else:
        extra = own + (f"authorization: Bearer {key}\r\n" if key else "")
        paths = PATHS | ({RESPONSES: "/responses"} if provider.responses else {})
        heads = {e: _head(url.netloc, path + p, extra) for e, p in paths.items()}
    tls = _tls(deployment, pools) if url.scheme == "https" else None
    return pools.at(Address(hostname, port, tls, server_name=deployment.server_name)), host, heads


def _tls(deployment: contract.Deployment, pools: Pools) -> ssl.SSLContext:
    if deployment.ca_env is None:
        return pools.tls(None)
    ca = _variable(deployment, deployment.ca_env, "the certificates of the CAs")
    try:
        return pools.tls(ca)
    except (ssl.SSLError, ValueError) as exc:
        raise contract.ContractError(
            f"deployment {deployment.id}: tls.ca in {deployment.ca_env} has no certificate in PEM: {exc}"
        ) from exc


def _parsed(base: str, deployment: contract.Deployment) -> tuple[SplitResult, int]:
    """Return the parts of *base* and its port; raise ContractError when it cannot be called."""
    error = f"deployment {deployment.id}: api_base {base!r} is not an http(s) URL"
    try:
        url = urlsplit(base)
        port = url.port
    except ValueError as exc:  # a port that is no number, or too large; a bracket that is not closed
        raise contract.ContractError(f"{error}: {exc}") from exc
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise contract.ContractError(error)
    if port == 0:
        raise contract.ContractError(f"{error}: nothing listens at port 0")
    if not base.isascii() or " " in base:
        raise contract.ContractError(f"{error}: what is not ASCII, and spaces, must be percent-encoded")
    return url, port or (443 if url.scheme == "https" else 80)


def _with_path(base: str, path: str) -> str:
    """Return *base* with the *path* that its provider serves under: `http://ollama:11434` and `.../v1` are the same."""
    base = base.rstrip("/")
    return base if base.endswith(path) else base + path


_ACCEPT = "accept: */*\r\naccept-encoding: identity\r\n"
"""Without the second, any content coding would be acceptable (RFC 9110, 12.5.3)."""


def _head(host: str, path: str, extra: str) -> bytes:
    lines = f"POST {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: llmproxy\r\n{_ACCEPT}{extra}"
    return lines.replace("%", "%%").encode("ascii") + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n"
