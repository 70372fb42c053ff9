"""Which clients and which pairs of client and upstream there are."""

from collections.abc import Iterable
from typing import Final

from llmproxy.gateway.adapters import anthropic
from llmproxy.gateway.adapters.base import OPENAI, Dialect, Exchange, Forward
from llmproxy.gateway.adapters.responses import RESPONSES_CLIENT, ResponsesForward, ResponsesToChat, ResponsesToMessages
from llmproxy.gateway.errors import Header, UnknownRouteError
from llmproxy.gateway.http.routing import COUNT_TOKENS, MESSAGES, RESPONSES
from llmproxy.gateway.upstreams.deployments import Target

_ANTHROPICS: Final = frozenset({MESSAGES, COUNT_TOKENS})
_OPENAIS: Final = ("chat.completions", "completions", "embeddings")
EXCHANGES: Final[dict[tuple[str, str], Exchange]] = {
    **{(endpoint, "openai"): Forward(endpoint) for endpoint in _OPENAIS},
    (RESPONSES, "openai"): ResponsesForward(),
    (RESPONSES, "anthropic"): ResponsesToMessages(),
    (MESSAGES, "openai"): anthropic.MessagesToChat(),
    (MESSAGES, "anthropic"): anthropic.MessagesForward(),
    (COUNT_TOKENS, "anthropic"): anthropic.CountTokens(),
    ("chat.completions", "anthropic"): anthropic.ChatToMessages(),
}
"""By the client's endpoint and the upstream's protocol."""
_WITHOUT: Final[dict[tuple[str, str], Exchange]] = {(RESPONSES, "openai"): ResponsesToChat()}
"""The same for an upstream that lacks the endpoint itself."""


def dialect_of(endpoint: str, headers: Iterable[Header]) -> Dialect:
    """Return how a client speaks: as its endpoint says, and where both protocols have one, as its head does."""
    if endpoint in _OPENAIS:
        return OPENAI
    if endpoint == RESPONSES:
        return RESPONSES_CLIENT
    passed = anthropic.passed_on(headers)
    return anthropic.AnthropicClient(passed) if endpoint in _ANTHROPICS or passed else OPENAI


def serving(endpoint: str, targets: Iterable[Target]) -> tuple[Target, ...]:
    """Return those of *targets* that a call of *endpoint* can reach."""
    return tuple(target for target in targets if find_exchange(endpoint, target) is not None)


def not_served(endpoint: str, model: str, targets: Iterable[Target], others: Iterable[str]) -> UnknownRouteError:
    """Return what to tell of a *model* none of whose *targets* has *endpoint*, while the models *others* have it."""
    providers = " and ".join(sorted({target.provider for target in targets}))
    known = ", ".join(sorted(others))
    way_out = f"ask for one of {known}" if known else "no model here has it"
    return UnknownRouteError(f"model {model!r} is served by {providers}, which has no {endpoint} here; {way_out}")


def find_exchange(endpoint: str, target: Target) -> Exchange | None:
    """Return how a call of *endpoint* reaches *target*, None when it cannot."""
    pair = (endpoint, target.protocol)
    exchange = EXCHANGES.get(pair)
    if exchange is not None and exchange.endpoint in target.heads:
        return exchange
    exchange = _WITHOUT.get(pair)
    return exchange if exchange is not None and exchange.endpoint in target.heads else None
