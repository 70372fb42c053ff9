"""One entry of a `model_list`: deployment, credential and limits. Pure."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from llmproxy.providers import PROVIDERS, Way, unusable
from llmproxy_api import model_params as params_of
from llmproxy_api.litellm import parameters
from llmproxy_api.litellm import settings_table as table
from llmproxy_api.litellm.diagnostics import FROM_ENVIRONMENT, Diagnostics

_PROVIDER_ALIASES: Mapping[str, str] = {
    "custom_openai": "openai_like",
    "litellm_proxy": "openai_like",
    "llamafile": "openai_like",
    "lm_studio": "openai_like",
    "text-completion-openai": "openai",
    "vllm": "hosted_vllm",
}
"""Providers of LiteLLM with another name here. LiteLLM's `vllm` is a library unless it has an api_base."""
_OPENAI_NAMES = re.compile(r"(gpt-|chatgpt-|o[134](-|$)|text-embedding-|davinci|babbage).*")
_IN_PROCESS_ERROR = (
    "runs in the trainer's process, which a proxy cannot call: serve it over HTTP in OpenAI's protocol and name it as "
    "hosted_vllm/NAME (vLLM) or openai_like/NAME with api_base"
)
_ADDRESSES = ("api_base", "base_url")
MODEL_NAME = r"[!-)+-~]{0,255}[!-~]"
"""A name, or a prefix of names with * at its end."""
_READ_KEYS = {
    *("model", "api_key", "weight", "timeout", "request_timeout", "custom_llm_provider", "return_token_ids"),
    *("extra_body", "stream_timeout", "litellm_credential_name", *_ADDRESSES, *table.LIMITS),
}


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential and the source of its value."""

    value: str | None
    """The value itself; never printed."""
    variable: str | None = None
    """Environment variable that holds it."""

    def __repr__(self) -> str:
        return f"Key(variable={self.variable!r})"


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One entry of the list, read."""

    path: str
    name: str
    deployment: Mapping[str, Any]
    """As in the LLMProxy, without apiKey."""
    limits: Mapping[str, int]
    key: Credential | None
    environment: Mapping[str, "str | Credential"]
    """Variables of the translator, for `spec.pod.env`."""


def read(
    diagnostics: Diagnostics, path: str, raw: object, credentials: Mapping[str, Mapping[str, Any]], *, in_cluster: bool
) -> ModelEntry | None:
    """Return one entry; None after an error, and for a model of a kind that is not served here."""
    if not isinstance(raw, Mapping) or not isinstance(raw.get("litellm_params"), Mapping):
        diagnostics.refuse(path, "must have model_name and litellm_params")
        return None
    name = raw.get("model_name")
    if not isinstance(name, str) or not re.fullmatch(MODEL_NAME, name):
        diagnostics.refuse(
            f"{path}.model_name",
            "must have 1 to 256 printable characters without a space, and * as its last one only: name the models, or "
            "a prefix of their names as in openai/*",
        )
        return None
    for key in raw:
        if key not in {"model_name", "litellm_params"}:
            diagnostics.ignored(
                f"{path}.{key}", table.MODEL_IGNORED.get(key, "only model_name and litellm_params are read")
            )
    info = raw.get("model_info")
    mode = info.get("mode") if isinstance(info, Mapping) else None
    if mode not in {None, "chat", "completion", "embedding", "responses"}:
        diagnostics.warn(
            path, f"is left out: models of the mode {mode} are not served; chat, completion, embedding, responses are"
        )
        return None
    params = _with_credential(diagnostics, f"{path}.litellm_params", raw["litellm_params"], credentials)
    return _entry(diagnostics, f"{path}.litellm_params", name, params, in_cluster=in_cluster)


def _with_credential(
    diagnostics: Diagnostics, path: str, raw: Mapping[str, Any], credentials: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, Any]:
    """Return *raw* with the values of its entry in credential_list; its own values win, as in LiteLLM."""
    name = raw.get("litellm_credential_name")
    if name is None:
        return raw
    if name not in credentials:
        diagnostics.refuse(f"{path}.litellm_credential_name", f"names {name}, which is not in credential_list")
        return {**raw, "api_key": "missing"}
    return {**credentials[name], **raw}


def _entry(
    diagnostics: Diagnostics, path: str, name: str, raw: Mapping[str, Any], *, in_cluster: bool
) -> ModelEntry | None:
    address = _address(diagnostics, path, raw, in_cluster=in_cluster)
    model = _model(diagnostics, path, raw, name, has_address=address is not None)
    if model is None:
        return None
    provider = model.partition("/")[0]
    deployment: dict[str, Any] = {"model": model}
    if address is not None:
        deployment["apiBase"] = address
    _fields(diagnostics, path, raw, deployment)
    environment = _environment(diagnostics, path, raw, provider)
    params = _params(diagnostics, path, {key: value for key, value in raw.items() if not _is_env(key, provider)})
    if isinstance(params.get("return_token_ids"), bool):
        deployment.setdefault("tokenIds", params.pop("return_token_ids"))
    if params:
        deployment["params"] = params
    key = _key(diagnostics, path, raw.get("api_key"))
    if key is None:
        key = _usual_key(
            diagnostics,
            path,
            provider,
            address,
            has_credentials=any(isinstance(v, Credential) for v in environment.values()),
        )
    return ModelEntry(path, name, deployment, diagnostics.limits(path, raw), key, environment)


def _is_env(key: str, provider: str) -> bool:
    return parameters.is_environment(key, provider)


def _environment(
    diagnostics: Diagnostics, path: str, raw: Mapping[str, Any], provider: str
) -> dict[str, str | Credential]:
    """Return the variables that LiteLLM reads for *provider* instead of these parameters."""
    variables: dict[str, str | Credential] = {}
    for name in (key for key in raw if _is_env(key, provider) and raw[key] is not None):
        value, variable = raw[name], parameters.ENVIRONMENT[name]
        if not isinstance(value, str):
            diagnostics.refuse(f"{path}.{name}", "must be text")
        elif variable.endswith("_CREDENTIALS") and not value.startswith((FROM_ENVIRONMENT, "{")):
            diagnostics.refuse(f"{path}.{name}", "is a file, which pods do not have: set the JSON in it instead")
        elif value.startswith(FROM_ENVIRONMENT) or re.search("KEY|TOKEN|CREDENTIALS", variable):
            credential = read_credential(diagnostics, f"{path}.{name}", value)
            if credential is not None:
                variables[variable] = credential
        else:
            variables[variable] = value
    return variables


def _usual_key(
    diagnostics: Diagnostics, path: str, provider: str, address: str | None, *, has_credentials: bool
) -> Credential | None:
    """Return the key for an entry without one: that of the provider's usual variable, where LiteLLM sends it too."""
    row, variable = PROVIDERS[provider], parameters.key_variable(provider)
    value = diagnostics.environment.get(variable)
    if row.environment and row.key_optional:
        if not has_credentials:
            diagnostics.warn(path, f"has no credentials: {provider} needs {row.environment}; set them in spec.pod.env")
        return None
    own_host = urlsplit(row.api_base or "").hostname
    if address is None or row.api_base is None or urlsplit(address).hostname == own_host:
        return None if row.key_optional and value is None else Credential(value, variable)
    diagnostics.warn(
        f"{path}.api_base",
        f"is called without a key: set api_key if it needs one; {variable} is only sent to {own_host}",
    )
    return None


def _fields(diagnostics: Diagnostics, path: str, raw: Mapping[str, Any], deployment: dict[str, Any]) -> None:
    if raw.get("weight") is not None and (weight := diagnostics.number(f"{path}.weight", raw["weight"])) is not None:
        deployment["weight"] = weight
    for key in ("timeout", "request_timeout"):
        timeout = diagnostics.timeout(f"{path}.{key}", raw.get(key))
        if timeout is not None:
            deployment.setdefault("timeout", timeout)
    idle = diagnostics.pause(f"{path}.stream_timeout", raw.get("stream_timeout"))
    if idle is not None:
        deployment["timeouts"] = {"idle": idle}
    if isinstance(raw.get("return_token_ids"), bool):
        deployment["tokenIds"] = raw["return_token_ids"]


def _address(diagnostics: Diagnostics, path: str, raw: Mapping[str, Any], *, in_cluster: bool) -> str | None:
    key = next((k for k in _ADDRESSES if raw.get(k) is not None), None)
    if key is None:
        return None
    address = diagnostics.resolved(f"{path}.{key}", raw[key])
    if not isinstance(address, str) or not address.strip():
        diagnostics.refuse(f"{path}.{key}", "must be a URL such as http://vllm:8000/v1")
        return None
    if in_cluster and is_loopback(address):
        diagnostics.refuse(
            f"{path}.{key}",
            "is this machine's own address, which in a cluster is the pod itself: give the server a Service and use "
            "http://SERVICE.NAMESPACE.svc:PORT/v1, or use the address of its pod or node",
        )
    return address.strip().rstrip("/")


def is_loopback(url: str) -> bool:
    """Return whether *url* has a loopback or unspecified address, or no host."""
    try:
        host = (urlsplit(url).hostname or "").rstrip(".").lower()
    except ValueError:
        return False
    if host in {"", "localhost"} or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _model(diagnostics: Diagnostics, path: str, raw: Mapping[str, Any], entry: str, *, has_address: bool) -> str | None:
    here = f"{path}.model"
    model = diagnostics.resolved(here, raw.get("model"))
    if not isinstance(model, str) or not model or "*" in model[:-1] or (model[-1] == "*" and entry[-1] != "*"):
        diagnostics.refuse(
            here, "must be provider/name of one model; with * as the last character of model_name it may end with * too"
        )
        return None
    provider, name = _split(model, raw.get("custom_llm_provider"))
    if provider is None:
        diagnostics.refuse(here, "has no provider: use openai/gpt-4o-mini, hosted_vllm/NAME or openai_like/NAME")
        return None
    if provider == "vllm" and not has_address:
        diagnostics.refuse(here, _IN_PROCESS_ERROR)
        return None
    provider = _PROVIDER_ALIASES.get(provider, provider)
    if provider not in PROVIDERS:
        diagnostics.refuse(here, f"{unusable(f'{provider}/{name}')}. A handler of your own {_IN_PROCESS_ERROR}")
        return None
    if PROVIDERS[provider].api_base is None and not has_address:
        diagnostics.refuse(f"{path}.api_base", f"is required for {provider}, which has no default address")
        return None
    if provider == "openai" and has_address:
        diagnostics.warn(
            here,
            "token ids are requested from hosted_vllm/ only: use that provider to train on a vLLM server",
        )
    if PROVIDERS[provider].way is Way.TRANSLATED:
        diagnostics.warn(here, "is translated by LiteLLM, without token ids")
    return f"{provider}/{name}"


def _split(model: str, custom: object) -> tuple[str | None, str]:
    if isinstance(custom, str) and custom:
        return custom, model.removeprefix(f"{custom}/")
    provider, slash, name = model.partition("/")
    if slash:
        return provider, name
    if _OPENAI_NAMES.fullmatch(model):
        return "openai", model
    return ("anthropic" if model.startswith("claude-") else None), model


def _params(diagnostics: Diagnostics, path: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return defaults of the request body: the keys that are no settings."""
    extra = raw.get("extra_body")
    if extra is not None and not isinstance(extra, Mapping):
        diagnostics.refuse(f"{path}.extra_body", "must be a mapping")
        extra = None
    params = {}
    for key, value in raw.items():
        if key in _READ_KEYS or value is None:
            continue
        if (reason := parameters.refused(key)) is not None:
            diagnostics.refuse(f"{path}.{key}", reason)
        elif (reason := parameters.ignored(key)) is not None:
            diagnostics.ignored(f"{path}.{key}", reason)
        elif key in parameters.ENVIRONMENT:
            diagnostics.ignored(f"{path}.{key}", "the provider has no such setting")
        elif key in params_of.DENIED:
            diagnostics.refuse(f"{path}.{key}", params_of.DENIED[key])
        else:
            params[key] = value
    for key in [key for key in extra or () if key in params_of.DENIED and key != "return_token_ids"]:
        diagnostics.refuse(f"{path}.extra_body.{key}", params_of.DENIED[key])
    return params | dict(extra or {})


def _key(diagnostics: Diagnostics, path: str, value: object) -> Credential | None:
    return None if value is None or value == "" else read_credential(diagnostics, f"{path}.api_key", value)


def read_credential(diagnostics: Diagnostics, here: str, value: object) -> Credential | None:
    """Return a literal credential or that of `os.environ/NAME`; None after an error."""
    if not isinstance(value, str):
        diagnostics.refuse(here, "must be text")
        return None
    if not value.startswith(FROM_ENVIRONMENT):
        return Credential(value)
    variable = value.removeprefix(FROM_ENVIRONMENT)
    if not re.fullmatch(r"[-._a-zA-Z0-9]+", variable):
        diagnostics.refuse(here, "must be os.environ/NAME, with the name of an environment variable")
        return None
    return Credential(diagnostics.environment.get(variable), variable)
