"""Keys that `params` refuses: fields with a type of their own, credentials, and keys that no request body has.

`params` are defaults of the request body. Other keys would have no effect, or would put a credential into a ConfigMap.
"""

from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 64
MAX_KEYS = 64

_FIELD = "is set by the field {0}: move it there"
_SECRET = "would put a credential into a ConfigMap: keep it in a Secret and name that in apiKey"  # noqa: S105 - a message
_CLIENT = "belongs to each request: the client says it"
_LIMIT = "is a limit: set {0}"
_BODY = "is not a field of the request body: write the fields of the body straight into params"
_LITELLM = "is a setting of LiteLLM's own transport or router, which does not run here: remove it"

_OWNED = {
    "model": _FIELD.format("model"),
    "api_base": _FIELD.format("apiBase"),
    "base_url": _FIELD.format("apiBase"),
    "weight": _FIELD.format("weight"),
    "timeout": _FIELD.format("timeout"),
    "request_timeout": _FIELD.format("timeout"),
    "stream_timeout": _FIELD.format("timeout"),
    "return_token_ids": _FIELD.format("tokenIds"),
    "drop_params": _FIELD.format("spec.litellm.settings.drop_params"),
    "num_retries": _FIELD.format("spec.retries.max"),
    "max_retries": _FIELD.format("spec.retries.max"),
    "rpm": _LIMIT.format("rateLimits.rpm"),
    "rps": _LIMIT.format("rateLimits.rps"),
    "tpm": _LIMIT.format("rateLimits.tpm"),
    "max_parallel_requests": _LIMIT.format("rateLimits.maxParallel"),
}
_SECRETS = (
    "api_key",
    "apiKey",
    "apikey",
    "key",
    "token",
    "access_token",
    "authorization",
    "Authorization",
    "password",
    "secret",
    "client_secret",
    "headers",
    "extra_headers",
    "default_headers",
    "azure_ad_token",
    "azure_username",
    "azure_password",
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "aws_web_identity_token",
    "vertex_credentials",
    "vertex_ai_credentials",
    "watsonx_api_key",
    "zen_api_key",
)
_PER_REQUEST = ("messages", "prompt", "input", "stream", "stream_options")
_NOT_BODY = ("extra_body", "extra_query", "default_query")
_TRANSPORT = (
    "api_version",
    "aws_region_name",
    "cooldown_time",
    "custom_llm_provider",
    "additional_drop_params",
    "input_cost_per_token",
    "output_cost_per_token",
    "litellm_credential_name",
    "mock_response",
    "model_info",
    "organization",
    "proxy",
    "region_name",
    "ssl_verify",
    "use_in_pass_through",
    "vertex_location",
    "vertex_project",
)

DENIED: Mapping[str, str] = {
    **_OWNED,
    **dict.fromkeys(_SECRETS, _SECRET),
    **dict.fromkeys(_PER_REQUEST, _CLIENT),
    **dict.fromkeys(_NOT_BODY, _BODY),
    **dict.fromkeys(_TRANSPORT, _LITELLM),
}
"""Refused keys, each with the reason and what to do."""


def schema() -> dict[str, Any]:
    """Return the structural schema of `params`: any key, and the refused ones declared so that rules can see them."""
    refused = {name: {"type": "string", "description": f"Refused: {why}."} for name, why in sorted(DENIED.items())}
    return {
        "type": "object",
        "maxProperties": MAX_KEYS,
        "x-kubernetes-preserve-unknown-fields": True,
        "properties": refused,
    }


def without_nulls(params: object) -> object:
    """Drop refused keys that are null: they are declared, and the API server drops a null of a declared field."""
    if not isinstance(params, dict):
        return params
    return {key: value for key, value in params.items() if value is not None or key not in DENIED}


def is_json(value: object, *, depth: int = 0) -> bool:
    """Return whether *value* is plain JSON, nested at most MAX_DEPTH deep."""
    if depth > MAX_DEPTH:
        return False
    if isinstance(value, dict):
        return all(isinstance(k, str) and is_json(v, depth=depth + 1) for k, v in value.items())
    if isinstance(value, list):
        return all(is_json(item, depth=depth + 1) for item in value)
    if isinstance(value, float):
        return value == value and abs(value) != float("inf")  # noqa: PLR0124 - not a number is unequal to itself
    return value is None or isinstance(value, str | int | bool)
