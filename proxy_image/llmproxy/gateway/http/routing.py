"""Routing: endpoint, model and rollout of a request, from its path and headers. Pure.

    [/any/base]/rollout/{rid}/attempt/{aid}[/v1]/chat/completions      the URL wins over the headers
    [/any/base][/v1]/chat/completions  + x-rollout-id, x-attempt-id, x-sequence-id
    [/any/base]/openai/deployments/{model}/chat/completions            Azure's form: the model of the path wins
    [/any/base]/engines/{model}/chat/completions                       the form of old OpenAI libraries

The address of a rollout is Agent-Lightning's (RolloutAttemptMiddleware of 0.3.0), which its own proxy takes at the
root only.
"""

import re
from collections.abc import Iterable
from typing import Final

import msgspec

MESSAGES: Final = "messages"
COUNT_TOKENS: Final = "count_tokens"
RESPONSES: Final = "responses"
ENDPOINTS: Final = {
    "chat/completions": "chat.completions",
    "completions": "completions",
    "embeddings": "embeddings",
    "responses": RESPONSES,
    "messages": MESSAGES,
    "messages/count_tokens": COUNT_TOKENS,
}
"""Endpoints by the end of their path."""
MODELS: Final = "models"
HEALTH: Final = frozenset({"/health", "/healthz", "/health/liveness", "/health/liveliness", "/health/readiness"})
"""Paths of health checks on other proxies; here they never cost a completion."""
_CALL: Final = re.compile(rf"(?:^|/)({'|'.join(ENDPOINTS)})/?$")
_MODEL: Final = re.compile(r"(?:^|/)(?:openai/deployments|engines)/(.+)$", re.DOTALL)
"""The model, before the end of a path. Two patterns, for one with both takes seconds for a long path."""
_MODELS: Final = re.compile(r"(?:^|/)models(?:/(.+?))?/?$", re.DOTALL)
_ROLLOUT: Final = re.compile(r"/rollout/([^/]+)/attempt/([^/]+)(?=/|$)")
MAX_ID: Final = 256
"""Characters of a rollout or attempt id; agentlightning's own have 15."""
_MAX_DIGITS: Final = 15
_MAX_PLAIN: Final = 256


class Route(msgspec.Struct, frozen=True, gc=False):
    """Endpoint, model and rollout of a request."""

    endpoint: str
    """A value of ENDPOINTS, MODELS, or empty for an unknown path."""
    model: str = ""
    """Model in the path, if there is one."""
    rollout_id: str = ""
    attempt_id: str = ""
    sequence_id: int = 0
    """From the client; 0 lets the store assign one."""
    invalid: bool = False
    """A rollout is named with half of its ids, or with one that is too long or has a slash."""


_plain: Final[dict[str, Route]] = {}
"""Routes of paths without a rollout; bounded, since a client chooses them."""
_rollouts: Final[dict[str, Route]] = {}
"""Routes of paths with a rollout."""
_MAX_ROLLOUTS: Final = 4096
_MAX_CACHED: Final = 512
"""Characters of a path."""


def read_route(path: str, headers: Iterable[tuple[bytes, bytes]]) -> Route:
    """Return the route of *path* and *headers*. Invalid ids are left out."""
    cached = _rollouts.get(path)
    if cached is not None:
        return cached
    in_path = "/rollout/" in path
    if in_path:
        rollout = _ROLLOUT.search(path)
        if rollout is not None:
            return _cache(path, rollout)
    route = _without_ids(path)
    rollout_id = attempt_id = sequence = b""
    for name, value in headers:
        if name == b"x-rollout-id":
            rollout_id = value
        elif name == b"x-attempt-id":
            attempt_id = value
        elif name == b"x-sequence-id":
            sequence = value
    if not (rollout_id and attempt_id):
        return Route(route.endpoint, route.model, invalid=True) if in_path or rollout_id else route
    number = int(sequence) if sequence.isdigit() and len(sequence) <= _MAX_DIGITS else 0
    return _with_ids(route, _text(rollout_id), _text(attempt_id), number)


def _without_ids(path: str) -> Route:
    route = _plain.get(path)
    if route is None:
        route = Route(*_endpoint(path))
        if route.endpoint and len(_plain) < _MAX_PLAIN:
            _plain[path] = route
    return route


def _cache(path: str, rollout: re.Match[str]) -> Route:
    """Return the route of a path with a *rollout*, which many requests have, one soon after the other."""
    route = _with_ids(_without_ids(path[rollout.end() :]), rollout.group(1), rollout.group(2), 0)
    if len(path) <= _MAX_CACHED:
        if len(_rollouts) >= _MAX_ROLLOUTS:
            _rollouts.clear()
        _rollouts[path] = route
    return route


def _with_ids(route: Route, rollout_id: str, attempt_id: str, number: int) -> Route:
    if len(rollout_id) <= MAX_ID and len(attempt_id) <= MAX_ID:
        return Route(route.endpoint, route.model, rollout_id, attempt_id, number)
    return Route(route.endpoint, route.model, invalid=True)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _endpoint(path: str) -> tuple[str, str]:
    """Return endpoint and model of *path*."""
    call = _CALL.search(path)
    if call is not None:
        model = _MODEL.search(path[: call.start()])
        return ENDPOINTS[call.group(1)], model.group(1) if model is not None else ""
    models = _MODELS.search(path)
    if models is not None:
        return MODELS, models.group(1) or ""
    return "", ""
