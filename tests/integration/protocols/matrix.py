"""Every pair of client and upstream times every feature: each cell is run, or stands here with why it cannot be.

A test says by `covers` which feature it shows and is run for each pair of it. `test_matrix` sees that no feature is
without a test and no gap without a reason.
"""

from collections.abc import Callable
from typing import TypeVar

import pytest

CLIENTS = ("openai", "anthropic")
UPSTREAMS = ("openai", "vllm", "anthropic")
"""OpenAI-compatible, vLLM-like (token ids, reasoning, its own `stop_reason`), Anthropic."""
Pair = tuple[str, str]
PAIRS: tuple[Pair, ...] = tuple((client, upstream) for client in CLIENTS for upstream in UPSTREAMS)

FEATURES = {
    "plain": "an answer in one piece, its id made of the upstream's, its usage the upstream's",
    "stream": "the same as a stream, piece by piece as it comes",
    "text": "U+0085, U+2028, U+2029, emoji and combining marks, plain and streamed, code point for code point",
    "system": "a system prompt",
    "tools": "a call of a tool and its result",
    "parallel tools": "two calls at once, and a client that wants one at a time",
    "forced tool": "a tool that must be called",
    "tool errors": "a result that is an error",
    "json mode": "an answer that is any JSON object",
    "json schema": "an answer by a schema",
    "images": "images in base64 and by their address",
    "reasoning": "reasoning before the answer, and how much of it",
    "cache control": "marks of what may be cached",
    "cached tokens": "usage that says what was read from a cache",
    "stop sequences": "sequences that end an answer, and which one did",
    "max tokens": "an answer that is cut",
    "sampling": "temperature and what else goes to the upstream as it is",
    "user": "who the end user is",
    "client error": "a request that the upstream refuses: its status and its words",
    "server error": "a deployment that cannot be reached: the call goes to the next, the client sees nothing",
    "fallback": "a model whose server is away: another answers, of the other protocol, and the record has every try",
    "overloaded": "an upstream that stays overloaded: its status, in the client's protocol",
    "upstream back-off": "an upstream's 429 with Retry-After above maxDelay: passed on, and the SDK waits",
    "limit back-off": "a 429 of a limit here: the SDK waits by itself and gets its answer",
    "limit headers": "what an answer says of the limits, in the client's protocol",
    "broken stream": "an upstream that dies in its stream: an error event, never a silent end",
    "error in a stream": "an upstream that says an error in its stream",
    "client leaves": "a client that leaves: the upstream is cancelled within a second",
    "token ids": "token ids for the record, asked of servers that have them",
    "count tokens": "how many tokens a request has",
    "models": "the list of models",
    "embeddings": "embeddings of texts",
    "completions": "the older completions, plain and streamed",
    "responses": "OpenAI's Responses API, an answer in one piece",
    "responses stream": "the same as a stream of events",
    "responses tools": "calls of tools and their results in it, plain and streamed",
    "base paths": "every address a client may be given: bare, with /v1, of a rollout, behind a base path",
}

GAPS: dict[tuple[str, str, str], str] = {
    **{
        ("openai", upstream, "count tokens"): "OpenAI's protocol has no such call: there is nothing to send"
        for upstream in UPSTREAMS
    },
    ("openai", "anthropic", "token ids"): "Anthropic has none and gives none",
    ("anthropic", "anthropic", "token ids"): "Anthropic has none and gives none",
    ("anthropic", "openai", "json mode"): "Anthropic's protocol has JSON by a schema only, shown by `json schema`",
    ("anthropic", "vllm", "json mode"): "Anthropic's protocol has JSON by a schema only, shown by `json schema`",
    ("anthropic", "anthropic", "json mode"): "Anthropic's protocol has JSON by a schema only, shown by `json schema`",
    **{
        (client, upstream, "cached tokens"): "the model server of the test keeps no cache; the mapping of its counts "
        "is in tests/unit/protocols/test_anthropic_answers.py"
        for client in CLIENTS
        for upstream in ("openai", "vllm")
    },
    **{
        (client, upstream, "error in a stream"): "the model server of the test closes the connection instead, shown by "
        "`broken stream`; the mapping of such an event is in tests/unit/protocols/test_anthropic_streams.py"
        for client in CLIENTS
        for upstream in ("openai", "vllm")
    },
    **{
        ("anthropic", upstream, feature): "Anthropic's protocol has no such call: there is nothing to send"
        for upstream in UPSTREAMS
        for feature in ("embeddings", "completions", "responses", "responses stream", "responses tools")
    },
    ("openai", "anthropic", "completions"): "refused with the models that have it, shown by `embeddings`",
    ("openai", "openai", "reasoning"): "bytes are forwarded: whatever the upstream has is the client's, as with vllm",
}
"""Cells that are not run, each with its reason."""

covered: set[str] = set()
F = TypeVar("F", bound=Callable[..., object])
"""A test."""


def cells(feature: str) -> list[Pair]:
    """Return the pairs that *feature* is run for."""
    return [pair for pair in PAIRS if (*pair, feature) not in GAPS]


def covers(feature: str) -> Callable[[F], F]:
    """Run a test for each pair of *feature*."""
    assert feature in FEATURES, f"{feature!r} is no feature of the matrix"
    covered.add(feature)

    def mark(test: F) -> F:
        pairs = pytest.mark.parametrize(("client", "upstream"), cells(feature))
        marked: F = pairs(test)
        return marked

    return mark
