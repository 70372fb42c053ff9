"""Tables of the settings of LiteLLM's `config.yaml` and Agent-Lightning's `litellm_config`. Data only.

A setting is carried over, ignored with a warning, or an error where a proxy without it would be less safe or call
another server. `convert` reads these tables; docs/agent-lightning.md shows them.
"""

from collections.abc import Mapping

RPM, RPS, TPM, MAX_PARALLEL = "rpm", "rps", "tpm", "maxParallel"
LIMITS: Mapping[str, str] = {
    "max_requests_per_minute": RPM,
    "rpm": RPM,
    "rpm_limit": RPM,
    "max_requests_per_second": RPS,
    "rps": RPS,
    "max_tokens_per_minute": TPM,
    "tpm": TPM,
    "tpm_limit": TPM,
    "max_parallel_requests": MAX_PARALLEL,
    "global_max_parallel_requests": MAX_PARALLEL,
}
"""Every name that people use for a limit, and the field of `rateLimits` that it becomes."""

_RECORDED = "calls are recorded by spec.spans, and counted by the gateway's metrics; nothing else is called"
_RETRIES = "retries are the proxy's, one setting for all its models: say litellm_settings.num_retries"
_REFUSAL = (
    "another model answers when one cannot, by fallbacks, and not for what one refuses: 400 and its kin are passed on"
)
_CACHE = "answers are not cached: each call reaches a model server"
_COOLDOWN = "a failing server is left out by the gateway's own rules, and never blocks other callers"
_REDIS = "no store of LiteLLM's is used: limits are counted by the gateways themselves"
_COST = "costs are not counted"
_LOGS = "logs are the gateway's own, JSON lines without bodies or keys"
_OPEN = (
    "callers need a key only if spec.access.apiKeys names a Secret with keys: put it into one, or say by "
    "spec.access.namespaces who may call without"
)
_DATABASE = "there is no database: models, limits and keys stand in the LLMProxy and its Secret"
_DROP = "fields reach the model server as the client sent them; it refuses what it does not know"

LITELLM_SETTINGS: Mapping[str, str] = {
    "additional_drop_params": _DROP,
    "allowed_fails": _COOLDOWN,
    "cache": _CACHE,
    "cache_params": _CACHE,
    "callbacks": _RECORDED,
    "context_window_fallbacks": _REFUSAL,
    "content_policy_fallbacks": _REFUSAL,
    "cooldown_time": _COOLDOWN,
    "disable_add_transform_inline_image_block": _DROP,
    "drop_params": "kept for models that LiteLLM translates; the servers of the others refuse what they do not know",
    "failure_callback": _RECORDED,
    "json_logs": _LOGS,
    "max_budget": _COST,
    "budget_duration": _COST,
    "modify_params": _DROP,
    "redact_user_api_key_info": _LOGS,
    "service_callback": _RECORDED,
    "set_verbose": _LOGS,
    "success_callback": _RECORDED,
    "suppress_debug_info": _LOGS,
    "telemetry": "nothing is sent home",
    "turn_off_message_logging": _LOGS,
}
"""Ignored settings of `litellm_settings`, and why nothing is lost or what to do instead."""

ROUTER_SETTINGS: Mapping[str, str] = {
    "allowed_fails": _COOLDOWN,
    "allowed_fails_policy": _COOLDOWN,
    "cache_kwargs": _CACHE,
    "cache_responses": _CACHE,
    "caching_groups": _CACHE,
    "content_policy_fallbacks": _REFUSAL,
    "context_window_fallbacks": _REFUSAL,
    "cooldown_time": _COOLDOWN,
    "debug_level": _LOGS,
    "disable_cooldowns": _COOLDOWN,
    "enable_pre_call_checks": "every call is checked against its limits; windows of contexts are the server's to know",
    "max_fallbacks": "each of a model's fallbacks is asked once, in their order, at most 8",
    "model_group_retry_policy": _RETRIES,
    "redis_host": _REDIS,
    "redis_password": _REDIS,
    "redis_port": _REDIS,
    "redis_url": _REDIS,
    "retry_after": "waits grow from 500ms to 8s, each random, and a server's Retry-After is honoured",
    "retry_policy": _RETRIES,
    "routing_strategy_args": "calls of a rollout stay with one server, others are spread by weight",
    "set_verbose": _LOGS,
}

GENERAL_SETTINGS: Mapping[str, str] = {
    "alert_types": _RECORDED,
    "alerting": _RECORDED,
    "alerting_threshold": _RECORDED,
    "allow_requests_on_db_unavailable": _DATABASE,
    "background_health_checks": "health is asked of the gateway; no call to a model is made for it",
    "database_connection_pool_limit": _DATABASE,
    "database_connection_timeout": _DATABASE,
    "database_url": _DATABASE,
    "disable_error_logs": _LOGS,
    "disable_spend_logs": _COST,
    "health_check_interval": "health is asked of the gateway; no call to a model is made for it",
    "key_management_settings": _DATABASE,
    "key_management_system": _DATABASE,
    "master_key": _OPEN,
    "proxy_batch_write_at": _DATABASE,
    "proxy_budget_rescheduler_max_time": _COST,
    "store_model_in_db": _DATABASE,
    "ui_access_mode": "there is no web interface",
    "use_redis_transaction_buffer": _REDIS,
}

TOP: Mapping[str, str] = {
    "callback_settings": _RECORDED,
    "finetune_settings": "files and fine-tuning are not served",
    "files_settings": "files and fine-tuning are not served",
    "router_groups": "calls of a rollout stay with one server, others are spread by weight",
}
"""Ignored sections of the file."""

TOP_REFUSED: Mapping[str, str] = {
    "credential_list": "keys stand in litellm_params.api_key of each model: name them there",
    "guardrails": "guardrails do not run here, and calls would pass without them: put them before the proxy",
    "include": "other files are not read: put everything into one",
    "mcp_servers": "MCP servers are not served here: remove them, or keep LiteLLM for them",
    "vector_store_registry": "vector stores are not served here: remove them, or keep LiteLLM for them",
}

ELSEWHERE: Mapping[str, str] = {
    "blocked_user_list": "calls of blocked users would pass: put the check before the proxy",
    "custom_auth": "calls would pass without the check of your code: put it before the proxy",
    "custom_provider_map": (
        "a handler in the trainer's process cannot be called from the proxy's: serve its model over HTTP in OpenAI's "
        "protocol and name it as openai_like/NAME with api_base"
    ),
    "enable_jwt_auth": "calls would pass without a token's check: put it before the proxy",
    "enforce_user_param": "calls without a user would pass: put the check before the proxy",
    "allowed_routes": "the other routes would stay open: put the check before the proxy",
    "allowed_ips": "other addresses could call: use a NetworkPolicy",
}
"""Refused in any section: ignoring them would let through what their author keeps out, or call what is not there."""

MODEL_IGNORED: Mapping[str, str] = {
    "additional_drop_params": _DROP,
    "allowed_fails": _COOLDOWN,
    "allowed_openai_params": _DROP,
    "budget_duration": _COST,
    "cooldown_time": _COOLDOWN,
    "drop_params": _DROP,
    "input_cost_per_second": _COST,
    "input_cost_per_token": _COST,
    "max_budget": _COST,
    "max_retries": _RETRIES,
    "merge_reasoning_content_in_choices": _DROP,
    "model_info": _COST,
    "num_retries": _RETRIES,
    "order": "all servers of a model are used by weight: say weight: 0 for one that stands by",
    "output_cost_per_second": _COST,
    "output_cost_per_token": _COST,
    "retry_policy": _RETRIES,
    "tags": "calls are not routed by tags",
    "use_in_pass_through": "what is not a model's call is not passed through",
    "use_litellm_proxy": "the model is called at its api_base",
}
"""Ignored keys of `litellm_params`; whatever else is neither known nor refused becomes a default of the body."""
