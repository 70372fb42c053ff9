"""One entry of a `model_list`: deployment, credential and limits. Pure."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from llmproxy.providers import PROVIDERS, Way, unusable
from llmproxy_api import model_params as params_of
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
_READ_KEYS = {
    *("model", "api_key", "weight", "timeout", "request_timeout", "custom_llm_provider", "return_token_ids"),
    *("extra_body", "stream_timeout", *_ADDRESSES, *table.LIMITS),
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


def read(diagnostics: Diagnostics, path: str, raw: object, *, in_cluster: bool) -> ModelEntry | None:
    """Return one entry; None after an error."""
    if not isinstance(raw, Mapping) or not isinstance(raw.get("litellm_params"), Mapping):
        diagnostics.refuse(path, "must have model_name and litellm_params")
        return None
    name = raw.get("model_name")
    if not isinstance(name, str) or not name or "*" in name:
        diagnostics.refuse(f"{path}.model_name", "must be one model's name: wildcards are not served, list the models")
        return None
    for key in raw:
        if key not in {"model_name", "litellm_params"}:
            diagnostics.ignored(
                f"{path}.{key}", table.MODEL_IGNORED.get(key, "only model_name and litellm_params are read")
            )
    return _entry(diagnostics, f"{path}.litellm_params", name, raw["litellm_params"], in_cluster=in_cluster)


def _entry(
    diagnostics: Diagnostics, path: str, name: str, raw: Mapping[str, Any], *, in_cluster: bool
) -> ModelEntry | None:
    address = _address(diagnostics, path, raw, in_cluster=in_cluster)
    model = _model(diagnostics, path, raw, has_address=address is not None)
    if model is None:
        return None
    deployment: dict[str, Any] = {"model": model}
    if address is not None:
        deployment["apiBase"] = address
    _fields(diagnostics, path, raw, deployment)
    params = _params(diagnostics, path, raw)
    if isinstance(params.get("return_token_ids"), bool):
        deployment.setdefault("tokenIds", params.pop("return_token_ids"))
    if params:
        deployment["params"] = params
    return ModelEntry(
        path, name, deployment, diagnostics.limits(path, raw), _key(diagnostics, path, raw.get("api_key"))
    )


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
            "is this machine's own address, and in a cluster each pod is a machine of its own: give the server a "
            "Service and say http://SERVICE.NAMESPACE.svc:PORT/v1, or the address of the pod or node it runs on",
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


def _model(diagnostics: Diagnostics, path: str, raw: Mapping[str, Any], *, has_address: bool) -> str | None:
    here = f"{path}.model"
    model = diagnostics.resolved(here, raw.get("model"))
    if not isinstance(model, str) or not model or "*" in model:
        diagnostics.refuse(here, "must be provider/name of one model")
        return None
    provider, name = _split(model, raw.get("custom_llm_provider"))
    if provider is None:
        diagnostics.refuse(
            here, "names no provider: say it as in openai/gpt-4o-mini, hosted_vllm/NAME or openai_like/NAME"
        )
        return None
    if provider == "vllm" and not has_address:
        diagnostics.refuse(here, _IN_PROCESS_ERROR)
        return None
    provider = _PROVIDER_ALIASES.get(provider, provider)
    if provider not in PROVIDERS:
        diagnostics.refuse(here, f"{unusable(f'{provider}/{name}')}. A handler of your own {_IN_PROCESS_ERROR}")
        return None
    if PROVIDERS[provider].api_base is None and not has_address:
        diagnostics.refuse(f"{path}.api_base", f"is needed by {provider}, which has no address of its own")
        return None
    if provider == "openai" and has_address:
        diagnostics.warn(
            here, "token ids are asked of hosted_vllm/ only: if the server is a vLLM, name it so to train on it"
        )
    if PROVIDERS[provider].way is Way.TRANSLATED:
        diagnostics.warn(here, "is called through LiteLLM, which translates; no token ids come from it")
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
    params = {k: v for k, v in raw.items() if k not in _READ_KEYS and v is not None}
    for key in [k for k in params if k in table.MODEL_IGNORED]:
        del params[key]
        diagnostics.ignored(f"{path}.{key}", table.MODEL_IGNORED[key])
    for key in [k for k in params if k in params_of.DENIED]:
        del params[key]
        diagnostics.refuse(f"{path}.{key}", params_of.DENIED[key])
    return params | dict(extra or {})


def _key(diagnostics: Diagnostics, path: str, value: object) -> Credential | None:
    here = f"{path}.api_key"
    if value is None or value == "":
        return None
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
