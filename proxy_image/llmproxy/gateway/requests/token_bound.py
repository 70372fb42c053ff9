"""Upper bound of the tokens of a request: charged against tpm at admission, settled with the real usage. Pure."""

from typing import Final

from llmproxy.contract import Model
from llmproxy.gateway.adapters.request_body import ModelRequest
from llmproxy.gateway.http.routing import COUNT_TOKENS

DEFAULT_OUTPUT_TOKENS = 4096
"""Tokens per choice when neither the request nor the deployment's params bound the answer."""
_WITHOUT_OUTPUT: Final = frozenset({"embeddings", COUNT_TOKENS})


def bound_tokens(request: ModelRequest, endpoint: str, body_bytes: int, output_tokens: int) -> int:
    """Return the most tokens that a request can use; *output_tokens* bounds an answer that it does not bound itself."""
    tokens = 0 if endpoint == COUNT_TOKENS else body_bytes
    if endpoint not in _WITHOUT_OUTPUT:
        tokens += request.choices * (output_tokens if request.max_tokens is None else request.max_tokens)
    return tokens


def output_bound(model: Model) -> int:
    """Return the most tokens of a choice of *model* when the request does not bound them."""
    bounds = [_output_tokens(deployment.params) for deployment in model.deployments]
    return max(DEFAULT_OUTPUT_TOKENS if bound is None else bound for bound in bounds)


def _output_tokens(params: dict[str, object]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        value = params.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
