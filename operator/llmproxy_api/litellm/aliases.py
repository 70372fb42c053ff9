"""LiteLLM's `router_settings.model_group_alias`: other names of a model. Pure."""

import copy
from collections.abc import Mapping
from typing import Any

from llmproxy_api.litellm.diagnostics import Diagnostics

NAME, SECTION = "model_group_alias", "router_settings"


def add(diagnostics: Diagnostics, config: Mapping[str, Any], spec: dict[str, Any]) -> None:
    """Add each model of *spec* again under its aliases; report aliases that cannot be."""
    path = f"{SECTION}.{NAME}"
    raw = diagnostics.section(config, SECTION).get(NAME)
    if raw is None:
        return
    if not isinstance(raw, Mapping):
        diagnostics.refuse(path, "must be a mapping of other names to models")
        return
    models = {model["name"]: model for model in spec["models"]}
    for alias, target in raw.items():
        name = target.get("model") if isinstance(target, Mapping) else target
        model = models.get(str(name))
        if model is None:
            diagnostics.refuse(path, f"says that {alias} is {name}, which is no model of model_list")
        elif alias in models:
            diagnostics.refuse(path, f"says {alias}, which is a model of model_list: keep one of them")
        elif "rateLimits" in model:
            diagnostics.refuse(
                path, f"gives {name} another name, and each name would have its limits: have callers use one"
            )
        else:
            spec["models"].append({**copy.deepcopy(model), "name": str(alias)})
            same = [{**item, "model": str(alias)} for item in spec.get("fallbacks", ()) if item["model"] == name]
            if same:
                spec["fallbacks"] += same
