"""One entry of a `model_list`: who serves the model, with which key, under which limits. Pure."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from llmproxy.providers import PROVIDERS, Way, unusable
from llmproxy_api import model_params as params_of
from llmproxy_api.litellm import settings_table as table
from llmproxy_api.litellm.notes import FROM_ENVIRONMENT, Notes

_SAME: Mapping[str, str] = {
    "custom_openai": "openai_like",
    "litellm_proxy": "openai_like",
    "llamafile": "openai_like",
    "lm_studio": "openai_like",
    "text-completion-openai": "openai",
    "vllm": "hosted_vllm",
}
"""Providers of LiteLLM's that are another here: with an address, LiteLLM's `vllm` is a server, not a library."""
_OPENAI_NAMES = re.compile(r"(gpt-|chatgpt-|o[134](-|$)|text-embedding-|davinci|babbage).*")
_IN_PROCESS = (
    "runs in the trainer's process, which a proxy cannot call: serve it over HTTP in OpenAI's protocol and name it as "
    "hosted_vllm/NAME (vLLM) or openai_like/NAME with api_base"
)
_ADDRESSES = ("api_base", "base_url")
_READ = {
    *("model", "api_key", "weight", "timeout", "request_timeout", "custom_llm_provider", "return_token_ids"),
    *("extra_body", "stream_timeout", *_ADDRESSES, *table.LIMITS),
}


@dataclass(frozen=True, slots=True)
class Key:
    """A credential: where its value comes from."""

    value: str | None
    """It stands in the configuration; never shown."""
    variable: str | None = None
    """An environment variable holds it."""

    def __repr__(self) -> str:
        return f"Key(variable={self.variable!r})"


@dataclass(frozen=True, slots=True)
class Entry:
    """What an entry says."""

    path: str
    name: str
    deployment: Mapping[str, Any]
    """As in the LLMProxy, without apiKey."""
    limits: Mapping[str, int]
    key: Key | None


def read(notes: Notes, path: str, raw: object, *, in_cluster: bool) -> Entry | None:
    """Return what one entry says; None if it can not be used, and *notes* know why."""
    if not isinstance(raw, Mapping) or not isinstance(raw.get("litellm_params"), Mapping):
        notes.refuse(path, "must have model_name and litellm_params")
        return None
    name = raw.get("model_name")
    if not isinstance(name, str) or not name or "*" in name:
        notes.refuse(f"{path}.model_name", "must be one model's name: wildcards are not served, list the models")
        return None
    for key in raw:
        if key not in {"model_name", "litellm_params"}:
            notes.ignored(f"{path}.{key}", table.MODEL_IGNORED.get(key, "only model_name and litellm_params are read"))
    return _entry(notes, f"{path}.litellm_params", name, raw["litellm_params"], in_cluster=in_cluster)


def _entry(notes: Notes, path: str, name: str, raw: Mapping[str, Any], *, in_cluster: bool) -> Entry | None:
    address = _address(notes, path, raw, in_cluster=in_cluster)
    model = _model(notes, path, raw, has_address=address is not None)
    if model is None:
        return None
    made: dict[str, Any] = {"model": model}
    if address is not None:
        made["apiBase"] = address
    _fields(notes, path, raw, made)
    params = _params(notes, path, raw)
    if isinstance(params.get("return_token_ids"), bool):
        made.setdefault("tokenIds", params.pop("return_token_ids"))
    if params:
        made["params"] = params
    return Entry(path, name, made, notes.limits(path, raw), _key(notes, path, raw.get("api_key")))


def _fields(notes: Notes, path: str, raw: Mapping[str, Any], made: dict[str, Any]) -> None:
    if raw.get("weight") is not None and (weight := notes.number(f"{path}.weight", raw["weight"])) is not None:
        made["weight"] = weight
    for key in ("timeout", "request_timeout"):
        timeout = notes.timeout(f"{path}.{key}", raw.get(key))
        if timeout is not None:
            made.setdefault("timeout", timeout)
    idle = notes.pause(f"{path}.stream_timeout", raw.get("stream_timeout"))
    if idle is not None:
        made["timeouts"] = {"idle": idle}
    if isinstance(raw.get("return_token_ids"), bool):
        made["tokenIds"] = raw["return_token_ids"]


def _address(notes: Notes, path: str, raw: Mapping[str, Any], *, in_cluster: bool) -> str | None:
    key = next((k for k in _ADDRESSES if raw.get(k) is not None), None)
    if key is None:
        return None
    address = notes.resolved(f"{path}.{key}", raw[key])
    if not isinstance(address, str) or not address.strip():
        notes.refuse(f"{path}.{key}", "must be a URL such as http://vllm:8000/v1")
        return None
    if in_cluster and is_this_machine(address):
        notes.refuse(
            f"{path}.{key}",
            "is this machine's own address, and in a cluster each pod is a machine of its own: give the server a "
            "Service and say http://SERVICE.NAMESPACE.svc:PORT/v1, or the address of the pod or node it runs on",
        )
    return address.strip().rstrip("/")


def is_this_machine(url: str) -> bool:
    """Whether *url* has a loopback or unspecified address, or no host at all."""
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


def _model(notes: Notes, path: str, raw: Mapping[str, Any], *, has_address: bool) -> str | None:
    here = f"{path}.model"
    model = notes.resolved(here, raw.get("model"))
    if not isinstance(model, str) or not model or "*" in model:
        notes.refuse(here, "must be provider/name of one model")
        return None
    provider, name = _split(model, raw.get("custom_llm_provider"))
    if provider is None:
        notes.refuse(here, "names no provider: say it as in openai/gpt-4o-mini, hosted_vllm/NAME or openai_like/NAME")
        return None
    if provider == "vllm" and not has_address:
        notes.refuse(here, _IN_PROCESS)
        return None
    made = _SAME.get(provider, provider)
    if made not in PROVIDERS:
        notes.refuse(here, f"{unusable(f'{made}/{name}')}. A handler of your own {_IN_PROCESS}")
        return None
    if PROVIDERS[made].api_base is None and not has_address:
        notes.refuse(f"{path}.api_base", f"is needed by {made}, which has no address of its own")
        return None
    if made == "openai" and has_address:
        notes.remark(
            here, "token ids are asked of hosted_vllm/ only: if the server is a vLLM, name it so to train on it"
        )
    if PROVIDERS[made].way is Way.TRANSLATED:
        notes.remark(here, "is called through LiteLLM, which translates; no token ids come from it")
    return f"{made}/{name}"


def _split(model: str, custom: object) -> tuple[str | None, str]:
    if isinstance(custom, str) and custom:
        return custom, model.removeprefix(f"{custom}/")
    provider, slash, name = model.partition("/")
    if slash:
        return provider, name
    if _OPENAI_NAMES.fullmatch(model):
        return "openai", model
    return ("anthropic" if model.startswith("claude-") else None), model


def _params(notes: Notes, path: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of the body: whatever is no setting of its own."""
    extra = raw.get("extra_body")
    if extra is not None and not isinstance(extra, Mapping):
        notes.refuse(f"{path}.extra_body", "must be a mapping")
        extra = None
    params = {k: v for k, v in raw.items() if k not in _READ and v is not None}
    for key in [k for k in params if k in table.MODEL_IGNORED]:
        del params[key]
        notes.ignored(f"{path}.{key}", table.MODEL_IGNORED[key])
    for key in [k for k in params if k in params_of.DENIED]:
        del params[key]
        notes.refuse(f"{path}.{key}", params_of.DENIED[key])
    return params | dict(extra or {})


def _key(notes: Notes, path: str, value: object) -> Key | None:
    here = f"{path}.api_key"
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        notes.refuse(here, "must be text")
        return None
    if not value.startswith(FROM_ENVIRONMENT):
        return Key(value)
    variable = value.removeprefix(FROM_ENVIRONMENT)
    if not re.fullmatch(r"[-._a-zA-Z0-9]+", variable):
        notes.refuse(here, "must be os.environ/NAME, with the name of an environment variable")
        return None
    return Key(notes.environment.get(variable), variable)
