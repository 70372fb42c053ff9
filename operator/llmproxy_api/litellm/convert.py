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
from llmproxy_api.litellm import aliases, models, settings_table
from llmproxy_api.litellm import fallbacks as litellm_fallbacks
from llmproxy_api.litellm.diagnostics import Diagnostics
from llmproxy_api.litellm.models import Credential, ModelEntry, is_loopback
from llmproxy_api.models import API_VERSION, KIND
from llmproxy_api.validation import Problem, SpecError, parse

__all__ = ["Conversion", "Credential", "convert", "is_loopback"]

PLACEHOLDER = "REPLACE-ME"
CALLER_KEY = "master-key"
_MASTER = "master_key"
_TOP_READ = {
    *("model_list", "litellm_settings", "router_settings", "general_settings", "environment_variables"),
    "credential_list",
}
_RETRIES = "num_retries"
_TIMEOUTS = ("request_timeout", "timeout")
_PAUSE = "stream_timeout"
_ENFORCED = "enforce_model_rate_limits"
_OTHER_READERS = {
    *((section, name) for section in litellm_fallbacks.SECTIONS for name in litellm_fallbacks.NAMES),
    (aliases.SECTION, aliases.NAME),
    ("general_settings", _MASTER),
}


@dataclass(frozen=True, slots=True)
class Conversion:
    """Result of a conversion."""

    proxy: Mapping[str, Any]
    """The LLMProxy, as a manifest that `parse` takes."""
    keys: Mapping[str, Credential]
    """Contents of the Secret `secret_name`, by key. Empty: no Secret is needed."""
    secret_name: str
    caller_key: Credential | None
    """API key of callers, LiteLLM's master_key: the contents of the Secret `callers_name`."""
    callers_name: str
    warnings: tuple[Problem, ...]
    """Settings that are ignored, or mean something else here; each with the place and what to do."""

    def secret(self, *, placeholders: bool = False) -> dict[str, Any] | None:
        """Return the Secret as a manifest, None if none is needed; raise SpecError naming keys without a value.

        With *placeholders* no value is written at all: what is meant to be kept in a file must not hold any.
        """
        return self._secret(self.secret_name, self.keys, PLACEHOLDER if placeholders else None)

    def secrets(self, *, placeholders: bool = False) -> list[dict[str, Any]]:
        """Return all Secrets: that of the servers' keys, and that of the callers' key.

        The placeholder of a caller's key is empty, which is no key: a proxy with it does not start.
        """
        callers = {} if self.caller_key is None else {CALLER_KEY: self.caller_key}
        secrets = (
            self.secret(placeholders=placeholders),
            self._secret(self.callers_name, callers, "" if placeholders else None),
        )
        return [secret for secret in secrets if secret is not None]

    def _secret(self, name: str, keys: Mapping[str, Credential], placeholder: str | None) -> dict[str, Any] | None:
        if not keys:
            return None
        missing = sorted({str(key.variable) for key in keys.values() if not key.value})
        if missing and placeholder is None:
            raise SpecError(
                tuple(Problem("api_key", f"the environment variable {variable} is not set") for variable in missing)
            )
        metadata = {k: v for k, v in self.proxy["metadata"].items() if k == "namespace"}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, **metadata},
            "type": "Opaque",
            "stringData": {key: value.value if placeholder is None else placeholder for key, value in keys.items()},
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
    diagnostics = Diagnostics({**(environment or {}), **_own_variables(config)})
    if store is not None and in_cluster and is_loopback(store):
        diagnostics.refuse("store", "is this machine's own address, which pods cannot reach: use one that they can")
    credentials = _credentials(diagnostics, config.get("credential_list"))
    entries = list(_entries(diagnostics, config.get("model_list"), credentials, in_cluster=in_cluster))
    caller_key = _caller_key(diagnostics, config)
    limits, retries, defaults = _settings(diagnostics, config)
    fallbacks = litellm_fallbacks.read(diagnostics, config, list(dict.fromkeys(entry.name for entry in entries)))
    environment_of_pods = _environment(diagnostics, entries)
    _require_models(diagnostics, entries)
    if diagnostics.problems:
        raise SpecError(tuple(diagnostics.problems))
    secret_name = f"{name}-keys"
    keys, refs = _keys(entries, environment_of_pods)
    pod_env = [_variable(variable, value, refs, secret_name) for variable, value in environment_of_pods.items()]
    optional = {
        "rateLimits": limits,
        "retries": {} if retries is None else {"max": retries},
        "fallbacks": fallbacks,
        "litellm": {"settings": {"drop_params": True}} if _drops_params(diagnostics, config, entries) else {},
        "pod": {"env": pod_env} if pod_env else {},
        "access": {} if caller_key is None else {"apiKeys": {"secretRef": {"name": f"{name}-callers"}}},
        "spans": {} if store is None else {"store": store.rstrip("/")},
    }
    models = _models(diagnostics, entries, refs, secret_name, defaults)
    spec = {"models": models, **{field: value for field, value in optional.items() if value}}
    aliases.add(diagnostics, config, spec)
    if diagnostics.problems:
        raise SpecError(tuple(diagnostics.problems))
    proxy = _manifest(name, namespace, spec)
    return Conversion(proxy, keys, secret_name, caller_key, f"{name}-callers", tuple(diagnostics.warnings))


def _manifest(name: str, namespace: str | None, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the LLMProxy; raise SpecError if it is invalid."""
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    proxy = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}
    parse(proxy)
    return proxy


def _own_variables(config: Mapping[str, Any]) -> dict[str, str]:
    variables = config.get("environment_variables")
    return {k: str(v) for k, v in variables.items() if v is not None} if isinstance(variables, Mapping) else {}


def _require_models(diagnostics: Diagnostics, entries: Sequence[ModelEntry]) -> None:
    if not entries and not diagnostics.problems:
        diagnostics.problems += diagnostics.warnings
        diagnostics.refuse("model_list", "has no model that is served here")


def _entries(
    diagnostics: Diagnostics, raw: object, credentials: Mapping[str, Mapping[str, Any]], *, in_cluster: bool
) -> Iterator[ModelEntry]:
    if not isinstance(raw, Sequence) or isinstance(raw, str) or not raw:
        diagnostics.refuse("model_list", "must list at least one model, with model_name and litellm_params")
        return
    for i, item in enumerate(raw):
        entry = models.read(diagnostics, f"model_list[{i}]", item, credentials, in_cluster=in_cluster)
        if entry is not None:
            yield entry


def _credentials(diagnostics: Diagnostics, raw: object) -> dict[str, Mapping[str, Any]]:
    """Return the values of credential_list by name."""
    credentials: dict[str, Mapping[str, Any]] = {}
    if raw is not None and not isinstance(raw, list):
        diagnostics.refuse("credential_list", "must list credential_name and credential_values")
        return credentials
    for i, item in enumerate(raw or ()):
        values = item.get("credential_values") if isinstance(item, Mapping) else None
        if isinstance(item, Mapping) and isinstance(item.get("credential_name"), str) and isinstance(values, Mapping):
            credentials[item["credential_name"]] = values
        else:
            diagnostics.refuse(f"credential_list[{i}]", "must have credential_name and credential_values")
    return credentials


def _caller_key(diagnostics: Diagnostics, config: Mapping[str, Any]) -> Credential | None:
    """Return LiteLLM's master_key: with it every caller needs a key, and without it none."""
    path = f"general_settings.{_MASTER}"
    value = diagnostics.section(config, "general_settings").get(_MASTER)
    if value is None or value == "":
        return None
    key = models.read_credential(diagnostics, path, value)
    if key is not None:
        diagnostics.warn(path, "becomes spec.access.apiKeys: callers need a key of that Secret")
    return key


def _environment(diagnostics: Diagnostics, entries: Sequence[ModelEntry]) -> dict[str, str | Credential]:
    """Return the variables of all entries; those with two values are an error, as pods have one environment."""
    variables: dict[str, str | Credential] = {}
    for entry in entries:
        for name, value in entry.environment.items():
            if variables.setdefault(name, value) != value:
                diagnostics.refuse(
                    entry.path, f"has another {name} than an entry before it: pods have one, so convert them apart"
                )
    return variables


def _variable(name: str, value: str | Credential, refs: Mapping[str, str], secret_name: str) -> dict[str, Any]:
    """Return an item of `spec.pod.env`."""
    if isinstance(value, str):
        return {"name": name, "value": value}
    return {"name": name, "secretKeyRef": {"name": secret_name, "key": refs[name]}}


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


def _keys(
    entries: Sequence[ModelEntry], environment: Mapping[str, str | Credential]
) -> tuple[dict[str, Credential], dict[str, str]]:
    """Return the Secret's contents, and the key in it by the path of an entry or the name of a variable of pods.

    A key has the name of its environment variable, else of its provider. Equal credentials share a key.
    """
    keys: dict[str, Credential] = {}
    refs: dict[str, str] = {}

    def add(place: str, stem: str, credential: Credential) -> None:
        name, number = stem, 1
        while name in keys and keys[name] != credential:
            number += 1
            name = f"{stem}-{number}"
        keys[name] = credential
        refs[place] = name

    for entry in entries:
        if entry.key is not None:
            provider = entry.deployment["model"].partition("/")[0].replace("_", "-")
            add(entry.path, entry.key.variable or provider, entry.key)
    for variable, value in environment.items():
        if isinstance(value, Credential):
            add(variable, value.variable or variable, value)
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
