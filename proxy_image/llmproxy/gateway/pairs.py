"""Which clients and which pairs of client and upstream there are."""

from collections.abc import Iterable

from llmproxy.gateway import anthropic
from llmproxy.gateway.errors import Header, UnknownRouteError
from llmproxy.gateway.exchange import OPENAI, Dialect, Exchange, Forward
from llmproxy.gateway.routes import COUNT_TOKENS, MESSAGES
from llmproxy.gateway.targets import Target

_ANTHROPICS = frozenset({MESSAGES, COUNT_TOKENS})
_OPENAIS = ("chat.completions", "completions", "embeddings")
EXCHANGES: dict[tuple[str, str], Exchange] = {
    **{(endpoint, "openai"): Forward(endpoint) for endpoint in _OPENAIS},
    (MESSAGES, "openai"): anthropic.MessagesToChat(),
    (MESSAGES, "anthropic"): anthropic.MessagesForward(),
    (COUNT_TOKENS, "anthropic"): anthropic.CountTokens(),
    ("chat.completions", "anthropic"): anthropic.ChatToMessages(),
}
"""By the client's endpoint and the upstream's protocol."""


def dialect_of(endpoint: str, headers: Iterable[Header]) -> Dialect:
    """Return how a client speaks: as its endpoint says, and where both protocols have one, as its head does."""
    if endpoint in _OPENAIS:
        return OPENAI
    passed = anthropic.passed_on(headers)
    return anthropic.AnthropicClient(passed) if endpoint in _ANTHROPICS or passed else OPENAI


def is_served(endpoint: str, targets: Iterable[Target]) -> bool:
    """Whether a call of *endpoint* can reach every one of *targets*, whichever is picked."""
    return all(_exchange(endpoint, target) is not None for target in targets)


def find_exchange(endpoint: str, target: Target, model: str) -> Exchange:
    """Return how a call of *endpoint* reaches *target*; raise UnknownRouteError when it cannot."""
    exchange = _exchange(endpoint, target)
    if exchange is None:
        raise UnknownRouteError(f"model {model!r} is served by {target.provider}, which has no {endpoint} here")
    return exchange


def _exchange(endpoint: str, target: Target) -> Exchange | None:
    exchange = EXCHANGES.get((endpoint, target.protocol))
    return exchange if exchange is not None and exchange.endpoint in target.heads else None
