"""Converts LiteLLM's `config.yaml`, or Agent-Lightning's `model_list` and `litellm_config`, to an LLMProxy. Pure.

Every setting is carried over, ignored with a warning, or an error; all errors are reported at once. Credentials are
never part of the LLMProxy: they are returned separately, as the contents of its Secret.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmproxy.providers import Way, split
from llmproxy_api.deployments import DEFAULT_TIMEOUT
from llmproxy_api.durations import seconds
from llmproxy_api.litellm import aliases, settings_table
from llmproxy_api.litellm import fallbacks as litellm_fallbacks
from llmproxy_api.litellm import models as litellm_model
from llmproxy_api.litellm.diagnostics import Diagnostics
from llmproxy_api.litellm.models import Credential, ModelEntry, is_loopback
from llmproxy_api.models import API_VERSION, KIND
from llmproxy_api.validation import Problem, SpecError, parse

__all__ = ["Conversion", "Credential", "convert", "is_loopback"]

PLACEHOLDER = "REPLACE-ME"
_TOP_READ = {"model_list", "litellm_settings", "router_settings", "general_settings", "environment_variables"}
_RETRIES = "num_retries"
_TIMEOUTS = ("request_timeout", "timeout")
_PAUSE = "stream_timeout"
_ENFORCED = "enforce_model_rate_limits"
_OTHER_READERS = {
    *((section, name) for section in litellm_fallbacks.SECTIONS for name in litellm_fallbacks.NAMES),
    (aliases.SECTION, aliases.NAME),
}


@dataclass(frozen=True, slots=True)
class Conversion:
    """Result of a conversion."""

    proxy: Mapping[str, Any]
    """The LLMProxy, as a manifest that `parse` takes."""
    keys: Mapping[str, Credential]
    """Contents of the Secret `secret_name`, by key. Empty: no Secret is needed."""
    secret_name: str
    warnings: tuple[Problem, ...]
    """Settings that are ignored, or mean something else here; each with the place and what to do."""

    def secret(self, *, placeholders: bool = False) -> dict[str, Any] | None:
        """Return the Secret as a manifest, None if none is needed; raise SpecError naming keys without a value.

        With *placeholders* no value is written at all: what is meant to be kept in a file must not hold any.
        """
        if not self.keys:
            return None
        missing = [k for k in self.keys.values() if not k.value]
        if missing and not placeholders:
            raise SpecError(
                tuple(Problem("api_key", f"the environment variable {k.variable} is not set") for k in missing)
            )
        values = {name: PLACEHOLDER if placeholders else key.value for name, key in self.keys.items()}
        metadata = {k: v for k, v in self.proxy["metadata"].items() if k == "namespace"}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": self.secret_name, **metadata},
            "type": "Opaque",
            "stringData": values,
        }


def convert(
    config: Mapping[str, Any],
    *,
    name: str,
    namespace: str | None = None,
    store: str | None = None,
    in_cluster: bool = True,
    environment: Mapping[str, str] | None = None,
) -> Conversion:
    """Return the LLMProxy *name* for *config*; raise SpecError with every reason why there is none.

    Args:
        config: A `config.yaml` of LiteLLM, read; for Agent-Lightning `{"model_list": ..., **litellm_config}`.
        name: The name of the LLMProxy; its Secret is `NAME-keys`.
        namespace: Written into the objects if given.
        store: Base URL of the LightningStore that calls are recorded in; None records nothing.
        in_cluster: Refuse addresses of this machine, which in a pod are the pod's own.
        environment: Variables that `os.environ/NAME` stands for; `environment_variables` of the file win over them.
    """
    variables = config.get("environment_variables")
    own = {k: str(v) for k, v in variables.items() if v is not None} if isinstance(variables, Mapping) else {}
    diagnostics = Diagnostics({**(environment or {}), **own})
    if store is not None and in_cluster and is_loopback(store):
        diagnostics.refuse("store", "is this machine's own address, which pods cannot reach: say one that they can")
    entries = list(_entries(diagnostics, config.get("model_list"), in_cluster=in_cluster))
    limits, retries, defaults = _settings(diagnostics, config)
    fallbacks = litellm_fallbacks.read(diagnostics, config, list(dict.fromkeys(entry.name for entry in entries)))
    if diagnostics.problems:
        raise SpecError(tuple(diagnostics.problems))
    secret_name = f"{name}-keys"
    keys, refs = _keys(entries)
    spec: dict[str, Any] = {"models": _models(diagnostics, entries, refs, secret_name, defaults)}
    if limits:
        spec["rateLimits"] = limits
    if retries is not None:
        spec["retries"] = {"max": retries}
    if fallbacks:
        spec["fallbacks"] = fallbacks
    aliases.add(diagnostics, config, spec)
    if diagnostics.problems:
        raise SpecError(tuple(diagnostics.problems))
    if _drops_params(diagnostics, config, entries):
        spec["litellm"] = {"settings": {"drop_params": True}}
    if store is not None:
        spec["spans"] = {"store": store.rstrip("/")}
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    proxy = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}
    parse(proxy)
    return Conversion(proxy, keys, secret_name, tuple(diagnostics.warnings))


def _entries(diagnostics: Diagnostics, raw: object, *, in_cluster: bool) -> Iterator[ModelEntry]:
    if not isinstance(raw, Sequence) or isinstance(raw, str) or not raw:
        diagnostics.refuse("model_list", "must list at least one model, with model_name and litellm_params")
        return
    for i, item in enumerate(raw):
        entry = litellm_model.read(diagnostics, f"model_list[{i}]", item, in_cluster=in_cluster)
        if entry is not None:
            yield entry


def _settings(diagnostics: Diagnostics, config: Mapping[str, Any]) -> tuple[dict[str, int], int | None, dict[str, Any]]:
    """Return limits and retries of the whole proxy, and defaults of each deployment."""
    sections = {
        "litellm_settings": settings_table.LITELLM_SETTINGS,
        "router_settings": settings_table.ROUTER_SETTINGS,
        "general_settings": settings_table.GENERAL_SETTINGS,
    }
    limits: dict[str, int] = {}
    retries: int | None = None
    defaults: dict[str, Any] = {}
    for section, ignored in sections.items():
        raw = diagnostics.section(config, section)
        for field, value in diagnostics.limits(section, raw).items():
            if limits.setdefault(field, value) != value:
                diagnostics.refuse(section, f"says another {field} than litellm_settings: keep one of them")
        # As in LiteLLM, where the router's own setting wins.
        tries = diagnostics.retries(f"{section}.{_RETRIES}", raw.get(_RETRIES))
        retries = retries if tries is None else tries
        for key in _TIMEOUTS:
            if (timeout := diagnostics.timeout(f"{section}.{key}", raw.get(key))) is not None:
                defaults["timeout"] = timeout
        if (idle := diagnostics.pause(f"{section}.{_PAUSE}", raw.get(_PAUSE))) is not None:
            defaults["timeouts"] = {"idle": idle}
        _report_unread(diagnostics, section, raw, ignored)
    _report_unread_top(diagnostics, config)
    return limits, retries, defaults


def _drops_params(diagnostics: Diagnostics, config: Mapping[str, Any], entries: Sequence[ModelEntry]) -> bool:
    """Return whether drop_params is on and LiteLLM translates for one of the models."""
    enabled = diagnostics.section(config, "litellm_settings").get("drop_params") is True
    return enabled and any(split(entry.deployment["model"])[0].way is Way.TRANSLATED for entry in entries)


def _report_unread(diagnostics: Diagnostics, section: str, raw: Mapping[str, Any], ignored: Mapping[str, str]) -> None:
    works = {*settings_table.LIMITS, _RETRIES, _PAUSE, *_TIMEOUTS}
    for key, value in raw.items():
        path = f"{section}.{key}"
        if key in works or value is None or (section, key) in _OTHER_READERS:
            continue
        if key in settings_table.ELSEWHERE:
            diagnostics.refuse(path, f"does not work here, and {settings_table.ELSEWHERE[key]}")
        elif key == "routing_strategy":
            if value != "simple-shuffle":
                diagnostics.ignored(path, "requests of a rollout stay on one deployment, others are balanced by weight")
        elif key == "optional_pre_call_checks":
            if value != [_ENFORCED]:
                diagnostics.ignored(path, f"only {_ENFORCED} has an effect, and limits are always enforced")
        elif key in ignored:
            diagnostics.ignored(path, ignored[key])
        else:
            diagnostics.unknown(path, str(key), works)


def _report_unread_top(diagnostics: Diagnostics, config: Mapping[str, Any]) -> None:
    for key, value in config.items():
        if key in _TOP_READ or not value:
            continue
        if key in settings_table.TOP_REFUSED:
            diagnostics.refuse(str(key), settings_table.TOP_REFUSED[key])
        elif key in settings_table.TOP:
            diagnostics.ignored(str(key), settings_table.TOP[key])
        elif key in settings_table.LIMITS or key == _RETRIES:
            diagnostics.refuse(str(key), f"has no effect here: move it into litellm_settings.{key}")
        else:
            diagnostics.unknown(str(key), str(key), _TOP_READ)


def _keys(entries: Sequence[ModelEntry]) -> tuple[dict[str, Credential], dict[str, str]]:
    """Return the Secret's contents, and the key in it of each entry by the entry's path.

    A key has the name of its environment variable, else of its provider. Equal credentials share a key.
    """
    keys: dict[str, Credential] = {}
    refs: dict[str, str] = {}
    for entry in entries:
        if entry.key is None:
            continue
        stem = entry.key.variable or entry.deployment["model"].partition("/")[0].replace("_", "-")
        name, number = stem, 1
        while name in keys and keys[name] != entry.key:
            number += 1
            name = f"{stem}-{number}"
        keys[name] = entry.key
        refs[entry.path] = name
    return keys, refs


def _models(
    diagnostics: Diagnostics,
    entries: Sequence[ModelEntry],
    refs: Mapping[str, str],
    secret_name: str,
    defaults: dict[str, Any],
) -> list[dict[str, Any]]:
    grouped: dict[str, list[ModelEntry]] = {}
    for entry in entries:
        grouped.setdefault(entry.name, []).append(entry)
    models = []
    for name, group in grouped.items():
        deployments = []
        weights = _weights(group)
        for entry in group:
            deployment = {**copy.deepcopy(defaults), **entry.deployment, **weights.get(entry.path, {})}
            if entry.path in refs:
                deployment["apiKey"] = {"secretKeyRef": {"name": secret_name, "key": refs[entry.path]}}
            _bound_idle_timeout(diagnostics, entry.path, deployment)
            deployments.append(deployment)
        limits = _model_limits(diagnostics, group)
        models.append({"name": name, **({"rateLimits": limits} if limits else {}), "deployments": deployments})
    return models


def _bound_idle_timeout(diagnostics: Diagnostics, path: str, deployment: dict[str, Any]) -> None:
    """Remove an idle timeout that is longer than the timeout of the attempt."""
    idle = deployment.get("timeouts", {}).get("idle")
    if idle is not None and seconds(idle) > seconds(deployment.get("timeout", DEFAULT_TIMEOUT)):
        del deployment["timeouts"]
        diagnostics.ignored(f"{path}.{_PAUSE}", "is longer than the timeout of a whole try, which ends it first")


def _weights(group: Sequence[ModelEntry]) -> dict[str, dict[str, int]]:
    """Return weights by `weight`, else by `rpm` or `tpm` where every deployment of a model has one, as LiteLLM does."""
    weights = {e.path: e.deployment["weight"] for e in group if "weight" in e.deployment}
    if weights:
        scale = 1 if all(float(w).is_integer() for w in weights.values()) else 1000
        return {path: {"weight": round(w * scale)} for path, w in weights.items()}
    if len(group) == 1:
        return {}
    for field in (settings_table.RPM, settings_table.TPM):
        amounts = [entry.limits.get(field, 0) for entry in group]
        if all(amounts):
            divisor = max(1.0, max(amounts) / 1_000_000)
            return {e.path: {"weight": max(1, int(a / divisor))} for e, a in zip(group, amounts, strict=True)}
    return {}


def _model_limits(diagnostics: Diagnostics, group: Sequence[ModelEntry]) -> dict[str, int]:
    """Return the limits of a model: the sum over its deployments, if each has a limit."""
    limits: dict[str, int] = {}
    for field in sorted({field for entry in group for field in entry.limits}):
        amounts = [entry.limits[field] for entry in group if field in entry.limits]
        if len(amounts) == len(group):
            limits[field] = min(sum(amounts), 1_000_000_000)
            if len(group) > 1:
                diagnostics.warn(
                    group[0].path, f"{field} is of the model here: the sum of its servers', {limits[field]}"
                )
        else:
            diagnostics.ignored(
                group[0].path, f"{field} stands at some servers of {group[0].name} only: say it at each"
            )
    return limits
