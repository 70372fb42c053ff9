"""Registry of the dialects, and of the adapters for each pair of client and upstream."""

from collections.abc import Iterable
from typing import Final

from llmproxy.gateway.adapters import anthropic, responses
from llmproxy.gateway.adapters.base import OPENAI, Adapter, Dialect, ForwardAdapter
from llmproxy.gateway.errors import Header, UnknownRouteError
from llmproxy.gateway.http.routing import COUNT_TOKENS, MESSAGES, RESPONSES
from llmproxy.gateway.upstreams.deployments import Upstream

_ANTHROPIC: Final = frozenset({MESSAGES, COUNT_TOKENS})
_OPENAI: Final = ("chat.completions", "completions", "embeddings")
ADAPTERS: Final[dict[tuple[str, str], Adapter]] = {
    **{(endpoint, "openai"): ForwardAdapter(endpoint) for endpoint in _OPENAI},
    (RESPONSES, "openai"): responses.ResponsesForward(RESPONSES),
    (RESPONSES, "anthropic"): responses.ResponsesToMessages(MESSAGES),
    (MESSAGES, "openai"): anthropic.MessagesToChat(anthropic.CHAT),
    (MESSAGES, "anthropic"): anthropic.MessagesForward(MESSAGES),
    (COUNT_TOKENS, "anthropic"): anthropic.CountTokens(COUNT_TOKENS),
    ("chat.completions", "anthropic"): anthropic.ChatToMessages(MESSAGES),
}
"""By the client's endpoint and the upstream's protocol."""
_SUBSTITUTES: Final[dict[tuple[str, str], Adapter]] = {(RESPONSES, "openai"): responses.ResponsesToChat(anthropic.CHAT)}
"""The same for an upstream that lacks the endpoint itself."""


def dialect_of(endpoint: str, headers: Iterable[Header]) -> Dialect:
    """Return the dialect of a client: of its endpoint, and where both protocols have that, of its headers."""
    if endpoint in _OPENAI:
        return OPENAI
    if endpoint == RESPONSES:
        return responses.RESPONSES_DIALECT
    lines = anthropic.header_lines(headers)
    return anthropic.AnthropicDialect(lines) if endpoint in _ANTHROPIC or lines else OPENAI


def serving(endpoint: str, upstreams: Iterable[Upstream]) -> tuple[Upstream, ...]:
    """Return those of *upstreams* that a call of *endpoint* can reach."""
    return tuple(upstream for upstream in upstreams if find_adapter(endpoint, upstream) is not None)


def not_served(endpoint: str, model: str, upstreams: Iterable[Upstream], others: Iterable[str]) -> UnknownRouteError:
    """Return the error for a *model* none of whose *upstreams* has *endpoint*, while the models *others* have it."""
    providers = " and ".join(sorted({upstream.provider for upstream in upstreams}))
    names = ", ".join(sorted(others))
    way_out = f"ask for one of {names}" if names else "no model here has it"
    return UnknownRouteError(f"model {model!r} is served by {providers}, which has no {endpoint} here; {way_out}")


def find_adapter(endpoint: str, upstream: Upstream) -> Adapter | None:
    """Return the adapter from *endpoint* to *upstream*, None without one."""
    pair = (endpoint, upstream.protocol)
    adapter = ADAPTERS.get(pair)
    if adapter is not None and adapter.endpoint in upstream.heads:
        return adapter
    adapter = _SUBSTITUTES.get(pair)
    return adapter if adapter is not None and adapter.endpoint in upstream.heads else None


def adapter_for(endpoint: str, upstream: Upstream) -> Adapter:
    """Return the adapter from *endpoint* to *upstream*, which is one of those that are `serving` it."""
    adapter = find_adapter(endpoint, upstream)
    if adapter is None:
        raise LookupError(f"{upstream.id} has no {endpoint}")
    return adapter
