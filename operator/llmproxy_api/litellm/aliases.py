"""LiteLLM's `router_settings.model_group_alias`: other names of a model. Pure."""

import re
from collections.abc import Mapping
from typing import Any

from llmproxy_api.litellm.diagnostics import Diagnostics

NAME, SECTION = "model_group_alias", "router_settings"


def add(diagnostics: Diagnostics, config: Mapping[str, Any], spec: dict[str, Any]) -> None:
    """Add aliases to the models of *spec*; report aliases that cannot be."""
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
            diagnostics.refuse(path, f"maps {alias} to {name}, which is no model of model_list")
        elif alias in models:
            diagnostics.refuse(path, f"maps {alias}, which is a model of model_list: keep one of them")
        elif str(name).endswith("*") or not re.fullmatch("[!-)+-~]{1,256}", str(alias)):
            diagnostics.refuse(path, f"gives {name} the name {alias}: both must be names without * and spaces")
        else:
            model.setdefault("aliases", []).append(str(alias))
