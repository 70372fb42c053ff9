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

_RECORDED = "requests are recorded by spec.spans and counted in the gateway's metrics; no callback runs"
_RETRIES = "retries are one setting of the whole proxy: set litellm_settings.num_retries"
_REFUSAL = "fallbacks apply when a model fails, not when it refuses a request: 400 and similar are passed on"
_CACHE = "responses are not cached: each request reaches a model server"
_COOLDOWN = "the gateway ejects failing servers by its own rules, and never blocks other callers"
_REDIS = "LiteLLM's store is not used: the gateways count limits themselves"
_COST = "costs are not tracked"
_LOGS = "logs are the gateway's own, JSON lines without bodies or keys"

_DATABASE = "there is no database: models, limits and keys are in the LLMProxy and its Secret"
_DROP = "fields reach the model server unchanged; it refuses unknown ones"

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
    "drop_params": "kept for models that LiteLLM translates; other servers get every field",
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
    "telemetry": "no telemetry is sent",
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
    "enable_pre_call_checks": "every request is checked against its limits; the server checks the context window",
    "max_fallbacks": "each fallback of a model is tried once, in order, at most 8",
    "model_group_retry_policy": _RETRIES,
    "redis_host": _REDIS,
    "redis_password": _REDIS,
    "redis_port": _REDIS,
    "redis_url": _REDIS,
    "retry_after": "backoffs grow from 500ms to 8s with jitter, and a server's Retry-After is honoured",
    "retry_policy": _RETRIES,
    "routing_strategy_args": "requests of a rollout stay on one deployment, others are balanced by weight",
    "set_verbose": _LOGS,
}

GENERAL_SETTINGS: Mapping[str, str] = {
    "alert_types": _RECORDED,
    "alerting": _RECORDED,
    "alerting_threshold": _RECORDED,
    "allow_requests_on_db_unavailable": _DATABASE,
    "background_health_checks": "health checks of the gateway call no model",
    "database_connection_pool_limit": _DATABASE,
    "database_connection_timeout": _DATABASE,
    "database_url": _DATABASE,
    "disable_error_logs": _LOGS,
    "disable_spend_logs": _COST,
    "health_check_interval": "health checks of the gateway call no model",
    "key_management_settings": _DATABASE,
    "key_management_system": _DATABASE,
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
    "router_groups": "requests of a rollout stay on one deployment, others are balanced by weight",
}
"""Ignored sections of the file."""

TOP_REFUSED: Mapping[str, str] = {
    "guardrails": "guardrails do not run here, and requests would bypass them: put them before the proxy",
    "include": "other files are not read: put everything into one",
    "mcp_servers": "MCP servers are not served here: remove them, or keep LiteLLM for them",
    "vector_store_registry": "vector stores are not served here: remove them, or keep LiteLLM for them",
}

ELSEWHERE: Mapping[str, str] = {
    "blocked_user_list": "requests of blocked users would pass: put the check before the proxy",
    "custom_auth": "requests would bypass your code: put it before the proxy",
    "custom_provider_map": (
        "the proxy cannot call a handler in the trainer's process: serve its model over HTTP in OpenAI's "
        "protocol and name it openai_like/NAME with api_base"
    ),
    "enable_jwt_auth": "requests would bypass the check of tokens: put it before the proxy",
    "enforce_user_param": "requests without a user would pass: put the check before the proxy",
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
    "order": "all deployments of a model are used by weight: set weight: 0 for a standby",
    "output_cost_per_second": _COST,
    "output_cost_per_token": _COST,
    "retry_policy": _RETRIES,
    "tags": "requests are not routed by tags",
    "use_in_pass_through": "requests other than to a model are not passed through",
    "use_litellm_proxy": "the model is called at its api_base",
}
"""Ignored keys of `litellm_params`; whatever else is neither known nor refused becomes a default of the body."""
