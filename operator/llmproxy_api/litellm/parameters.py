"""LiteLLM's own names in `litellm_params`: none of them is a field of a request body. Data, and one lookup.

A name that is neither here nor read becomes a default of the body, as LiteLLM forwards unknown parameters. A test holds
every name of the pinned LiteLLM against this table.
"""

import re

from llmproxy.providers import PROVIDERS
from llmproxy_api.litellm import settings_table as table

KEY_VARIABLES = {
    "ai21_chat": "AI21_API_KEY",
    "azure_text": "AZURE_API_KEY",
    "cohere_chat": "COHERE_API_KEY",
    "ollama_chat": "OLLAMA_API_KEY",
    "perplexity": "PERPLEXITYAI_API_KEY",
    "text-completion-openai": "OPENAI_API_KEY",
    "together_ai": "TOGETHERAI_API_KEY",
}
"""Environment variables of API keys that LiteLLM does not derive from the provider's name."""

ENVIRONMENT = {
    "aws_region_name": "AWS_REGION",
    "aws_access_key_id": "AWS_ACCESS_KEY_ID",
    "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "aws_session_token": "AWS_SESSION_TOKEN",
    "aws_bedrock_runtime_endpoint": "AWS_BEDROCK_RUNTIME_ENDPOINT",
    "vertex_project": "VERTEXAI_PROJECT",
    "vertex_ai_project": "VERTEXAI_PROJECT",
    "vertex_location": "VERTEXAI_LOCATION",
    "vertex_ai_location": "VERTEXAI_LOCATION",
    "vertex_credentials": "VERTEXAI_CREDENTIALS",
    "vertex_ai_credentials": "VERTEXAI_CREDENTIALS",
    "watsonx_region_name": "WATSONX_REGION",
}
"""Parameters that the translator's LiteLLM reads from an environment variable, set in `spec.pod.env`."""

_COST = "costs are not tracked"
_CALLBACK = "requests are recorded by spec.spans and counted in the gateway's metrics; no callback runs"
_TRANSPORT = "the gateway has its own transport"
_INTERNAL = "it is internal to LiteLLM"
_ROUTING = "requests of a rollout stay on one deployment, others are balanced by weight"
_PROMPT = "prompts are forwarded unchanged"
_SEARCH = "vector stores and search are not served here"
_CACHE = "responses are not cached: each request reaches a model server"

_IGNORED: tuple[tuple[str, str], ...] = (
    (r".*_cost(_.*)?|.*pricing.*|.*_uplift_multiplier.*|cost_per_.*|base_model", _COST),
    (r"(arize|dd|gcs|humanloop|langfuse|langsmith|newrelic|posthog|s3|signoz|wandb|weave)_.*|bucket_name", _CALLBACK),
    (r"logger_fn|no-log|verbose|turn_off_message_logging|log_client_error_tracebacks|metadata|id", _CALLBACK),
    (r"(auto|adaptive|complexity|quality)_router_.*|tag_regex|enable_tag_filtering|routing_strategy", _ROUTING),
    (r"provider_affinity_header|allowed_model_region|region_name|data_residency|silent_model", _ROUTING),
    (r"cache_control_injection_points|enable_prompt_caching|preset_cache_key|supports_.*", _PROMPT),
    (r"ensure_alternating_roles|(user|assistant)_continue_message|custom_prompt_dict|[be]os_token|roles", _PROMPT),
    (r"final_prompt_value|initial_prompt_value|hf_model_name|disable_add_transform_.*", _PROMPT),
    (r"(milvus|valkey)_.*|vector_store_id|search_tool_name|output_vector_size|max_file_size_mb", _SEARCH),
    (r"cache|caching|cache_key|caching_groups|ttl", _CACHE),
    (r"keepalive_seconds|allow_client_keepalive_override|stream_chunk_size|stream_response|shared_session", _TRANSPORT),
    (r"client|use_client|client_side_timeout|force_timeout|rust|fastest_response|.*_by_service_tier", _TRANSPORT),
    (r"use_chat_completions_api|text_completion|async_call|provider_specific_header|retry_strategy", _TRANSPORT),
    (r"organization", "the header OpenAI-Organization is not sent: the default organization of the key applies"),
    (r"api_version", "the provider's v1 API has no versions"),
    (r"configurable_clientside_auth_params", "callers cannot choose the address or key of a server"),
    (r"_.*|litellm_.*|a(completion|embedding|img_generation|text_completion|llm_passthrough_route)", _INTERNAL),
    (
        r"allm_passthrough_route|attempted_targets|azure|complete_response|completion_call_id|self|secret_fields",
        _INTERNAL,
    ),
    (r"default_api_key_[rt]pm_limit|enable_json_schema_validation|fallback_depth|max_agentic_loops", _INTERNAL),
    (r"fireworks_forward_user_id|model_(alias_map|config|file_id_mapping|list)|proxy_server_request", _INTERNAL),
    (r"bedrock_tags|aws_session_tags|max_fallbacks", _INTERNAL),
)
_REFUSED: tuple[tuple[str, str], ...] = (
    (r"litellm_system_prompt|prompt_.*", "prompts are not inserted here: put them into the requests"),
    (r"guardrails", "guardrails do not run here, and requests would bypass them: put them before the proxy"),
    (r"[io]tpm", "limits of input or output tokens alone are not supported: use tpm, of their sum"),
    (r"(context_window_)?fallback(s|_dict)", "fallbacks are settings of the proxy: move them to litellm_settings"),
    (r"mock_.*", "responses are not mocked: use the address of an echo server"),
    (r"anthropic_.*|openai_(identity|service)_.*|azure_(ad_token.*|scope|username|password)|tenant_id|client_id"
     r"|client_secret|use_xai_oauth", "only API keys are supported for this provider: set api_key"),
    (r"aws_.*", "is not set for LiteLLM here: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in spec.pod.env"),
)  # fmt: skip
_READ_FIRST = {"litellm_system_prompt", "litellm_credential_name"}


def key_variable(provider: str) -> str:
    """Return the environment variable in which LiteLLM looks for the API key of *provider*."""
    return KEY_VARIABLES.get(provider, f"{provider.upper().replace('-', '_')}_API_KEY")


def is_environment(name: str, provider: str) -> bool:
    """Return whether the translator reads the parameter *name* of *provider* from its environment."""
    return name in ENVIRONMENT and ENVIRONMENT[name].partition("_")[0] in PROVIDERS[provider].environment


def refused(name: str) -> str | None:
    """Return why the parameter *name* is an error, None if it is not."""
    return _reason(_REFUSED, name)


def ignored(name: str) -> str | None:
    """Return why the parameter *name* is ignored, None if it is not."""
    if name in table.MODEL_IGNORED:
        return table.MODEL_IGNORED[name]
    return None if name in _READ_FIRST else _reason(_IGNORED, name)


def _reason(rows: tuple[tuple[str, str], ...], name: str) -> str | None:
    return next((reason for pattern, reason in rows if re.fullmatch(pattern, name)), None)
