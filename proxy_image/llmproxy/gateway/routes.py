"""From a path and headers to what is asked for, and for which rollout. Pure.

    [/any/base]/rollout/{rid}/attempt/{aid}[/v1]/chat/completions      the URL wins over the headers
    [/any/base][/v1]/chat/completions  + x-rollout-id, x-attempt-id, x-sequence-id

The address is Agent-Lightning's (RolloutAttemptMiddleware of 0.3.0), which its own proxy takes at the root only.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

ENDPOINTS = {
    "/chat/completions": "chat.completions",
    "/completions": "completions",
    "/embeddings": "embeddings",
    "/models": "models",
}
_ENDPOINT = re.compile(r"(?:^|/)(chat/completions|completions|embeddings|models)/?$")
_MODEL_PATH = re.compile(r"(?:^|/)models/(.+)$")
_DEPLOYMENT = re.compile(r"/(?:openai/deployments|engines)/([^/]+)/")
_ROLLOUT = re.compile(r"/rollout/([^/]+)/attempt/([^/]+)(?=/|$)")
MAX_ID = 256
"""Characters of a rollout or attempt id; agentlightning's own have 15."""


@dataclass(frozen=True, slots=True)
class Route:
    """What a request asks for."""

    endpoint: str
    """A value of ENDPOINTS, or empty for a path that is not ours."""
    rollout_id: str = ""
    attempt_id: str = ""
    sequence_id: int = 0
    """From the client; 0 lets the store give one."""
    model: str = ""
    """From the path (`/openai/deployments/{model}/...`, `/engines/{model}/...`), for a body that names none."""


_plain: dict[str, Route] = {}
"""Paths without a rollout that have been seen; bounded, since a client chooses them."""


def read_route(path: str, headers: Iterable[tuple[bytes, bytes]]) -> Route:
    """Return what *path* and *headers* ask for. Ids that are too long to be true are left out."""
    rollout = _ROLLOUT.search(path) if "/rollout/" in path else None
    if rollout is not None:
        rest = path[rollout.end() :]
        endpoint, model = _endpoint(rest), _model(rest)
        rid, aid = rollout.groups()
        if len(rid) <= MAX_ID and len(aid) <= MAX_ID:
            return Route(endpoint, rid, aid, model=model)
        return Route(endpoint, model=model)
    route = _plain.get(path)
    if route is None:
        route = Route(_endpoint(path), model=_model(path))
        if route.endpoint and len(_plain) < 256:  # noqa: PLR2004 - a handful are real
            _plain[path] = route
    rid = aid = sequence = ""
    for name, value in headers:
        if name == b"x-rollout-id":
            rid = value.decode("latin-1")
        elif name == b"x-attempt-id":
            aid = value.decode("latin-1")
        elif name == b"x-sequence-id":
            sequence = value.decode("latin-1")
    if rid and aid and len(rid) <= MAX_ID and len(aid) <= MAX_ID:
        number = int(sequence) if sequence.isascii() and sequence.isdigit() and len(sequence) < 16 else 0  # noqa: PLR2004
        return Route(route.endpoint, rid, aid, number, route.model)
    return route


def read_model_path(path: str) -> str:
    """Return the name in `[/v1]/models/{name}`, which may have slashes; empty for another path."""
    found = _MODEL_PATH.search(path)
    return found.group(1) if found else ""


def _model(path: str) -> str:
    found = _DEPLOYMENT.search(path)
    return found.group(1) if found else ""


def _endpoint(path: str) -> str:
    found = _ENDPOINT.search(path)
    return ENDPOINTS["/" + found.group(1)] if found else ""
