"""`router_settings.model_group_alias` of LiteLLM: a model that is called by another name too. Pure."""

import copy
from collections.abc import Mapping
from typing import Any

from llmproxy_api.litellm.notes import Notes

NAME, SECTION = "model_group_alias", "router_settings"


def add(notes: Notes, config: Mapping[str, Any], spec: dict[str, Any]) -> None:
    """Add each model of *spec* again under its other names; what cannot be is refused in *notes*."""
    path = f"{SECTION}.{NAME}"
    raw = notes.section(config, SECTION).get(NAME)
    if raw is None:
        return
    if not isinstance(raw, Mapping):
        notes.refuse(path, "must be a mapping of other names to models")
        return
    models = {model["name"]: model for model in spec["models"]}
    for alias, said in raw.items():
        name = said.get("model") if isinstance(said, Mapping) else said
        model = models.get(str(name))
        if model is None:
            notes.refuse(path, f"says that {alias} is {name}, which is no model of model_list")
        elif alias in models:
            notes.refuse(path, f"says {alias}, which is a model of model_list: keep one of them")
        elif "rateLimits" in model:
            notes.refuse(path, f"gives {name} another name, and each name would have its limits: have callers use one")
        else:
            spec["models"].append({**copy.deepcopy(model), "name": str(alias)})
            same = [{**item, "model": str(alias)} for item in spec.get("fallbacks", ()) if item["model"] == name]
            if same:
                spec["fallbacks"] += same
