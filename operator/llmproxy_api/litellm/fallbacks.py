"""LiteLLM's `fallbacks` (`[{gpt-4o: [qwen]}]`) and `default_fallbacks` (`[qwen]`). Pure."""

from collections.abc import Collection, Mapping
from typing import Any

from llmproxy_api.litellm.diagnostics import Diagnostics
from llmproxy_api.models import MAX_FALLBACKS

NAMES = NAME, DEFAULT = "fallbacks", "default_fallbacks"
SECTIONS = ("litellm_settings", "router_settings")
"""Sections with fallbacks. For a model in both, router_settings wins, as in LiteLLM."""


def read(diagnostics: Diagnostics, config: Mapping[str, Any], models: Collection[str]) -> list[dict[str, Any]]:
    """Return the fallbacks; report those that name none of *models*."""
    targets: dict[str, list[str]] = {}
    default: list[str] = []
    for section in SECTIONS:
        raw = diagnostics.section(config, section).get(DEFAULT)
        default = _default(diagnostics, f"{section}.{DEFAULT}", raw, models) or default
        raw = diagnostics.section(config, section).get(NAME)
        path = f"{section}.{NAME}"
        if raw is None:
            continue
        if not isinstance(raw, list) or not all(isinstance(item, Mapping) for item in raw):
            diagnostics.refuse(path, "must list mappings of a model to the models that answer for it")
            continue
        for model, to in (pair for item in raw for pair in item.items()):
            if model == "*":
                default = _default(diagnostics, path, to, models) or default
            else:
                targets[str(model)] = _targets(diagnostics, path, str(model), to, models)
    if default:
        targets = {model: [to for to in default if to != model] for model in models} | targets
    return [{"model": model, "to": to} for model, to in targets.items() if to]


def _default(diagnostics: Diagnostics, path: str, raw: object, models: Collection[str]) -> list[str]:
    """Return the fallbacks of a model without its own."""
    if raw is None:
        return []
    names = raw if isinstance(raw, list) else [raw]
    fixed = [name for name in models if not name.endswith("*")]
    if any(name not in fixed for name in names) or len(names) > MAX_FALLBACKS:
        diagnostics.refuse(path, f"must list at most {MAX_FALLBACKS} models of model_list")
        return []
    return list(dict.fromkeys(names))


def _targets(diagnostics: Diagnostics, path: str, model: str, to: object, models: Collection[str]) -> list[str]:
    names = [to] if isinstance(to, str) else to if isinstance(to, list) else [None]
    if model not in models:
        diagnostics.refuse(path, f"names {model}, which is no model of model_list")
        return []
    fixed = [name for name in models if not name.endswith("*")]
    unknown = [name for name in names if name not in fixed or name == model]
    if unknown or len(names) > MAX_FALLBACKS:
        diagnostics.refuse(path, f"must list at most {MAX_FALLBACKS} other models of model_list for {model}")
        return []
    return list(dict.fromkeys(names))
