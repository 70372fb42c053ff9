"""Arguments of a call from a request's body: only fields that are known to be the model's. Pure.

litellm takes addresses, keys, callbacks and its own switches from the same arguments as the model's parameters, and
passes what it does not know on. So a field goes through if OpenAI's API has it, or the deployment's params do.
"""

import json
from collections.abc import Mapping
from typing import Any

CHAT = frozenset(
    (
        *("messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "stop", "seed", "user"),
        *("temperature", "top_p", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs"),
        *("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "response_format", "store"),
        *("reasoning_effort", "modalities", "audio", "prediction", "service_tier", "verbosity", "web_search_options"),
        *("safety_identifier", "prompt_cache_key"),
        # Not OpenAI's; several providers have them, and litellm maps them.
        *("top_k", "thinking"),
    )
)
EMBEDDINGS = frozenset(("input", "dimensions", "encoding_format", "user", "input_type"))
_IGNORED = frozenset(("model", "return_token_ids"))
"""The gateway has chosen the model; trainers ask every model for token ids, and only servers of their kind have any."""


class FieldError(Exception):
    """The body cannot be used; `param` is the field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


def read(body: bytes, allowed: frozenset[str], params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments in *body*, with *params* where it says nothing; raise FieldError naming the field."""
    try:
        fields = json.loads(body)
    except ValueError as exc:
        raise FieldError(f"the body is not JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise FieldError("the body must be a JSON object")
    arguments = {name: value for name, value in fields.items() if name not in _IGNORED and value is not None}
    for name in arguments:
        if name not in allowed and name not in params:
            message = f"{name!r} is not a field that can be translated for this model: leave it out"
            raise FieldError(message, name)
    required = "messages" if "messages" in allowed else "input"
    if not arguments.get(required):
        raise FieldError(f"{required} is missing", required)
    if required == "messages":
        _check_messages(arguments["messages"])
    return {**params, **arguments}


def model_of(body: bytes) -> str | None:
    """Return the model in *body*, which `read` has accepted."""
    model = json.loads(body).get("model")
    return model if isinstance(model, str) and model else None


def _check_messages(messages: object) -> None:
    if not isinstance(messages, list):
        raise FieldError("messages must be a list", "messages")
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise FieldError(f"messages.{i} must be an object with a role", "messages")
