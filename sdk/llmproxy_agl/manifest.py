"""Manifests of LLMProxy and Secret from the arguments of a trainer. Pure."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmproxy_agl.errors import ProxyError
from llmproxy_api import SpecError, parse
from llmproxy_api.limits import KINDS as LIMITS
from llmproxy_api.litellm.convert import convert

TOKEN_IDS, LOGPROBS, SPANS = "return_token_ids", "logprobs", "opentelemetry"
ACK_WAIT = "2s"
"""spec.spans.ackWait. Longer than the default: a trainer reads spans once, the moment a rollout succeeds, and loses
later ones. With a healthy store the wait is milliseconds."""
_CLASSES = {"AddReturnTokenIds": TOKEN_IDS, "AddLogprobs": LOGPROBS, "LightningOpenTelemetry": SPANS}


@dataclass(frozen=True)
class Manifests:
    """LLMProxy and Secrets to apply, and warnings of the conversion."""

    proxy: dict[str, Any]
    secrets: tuple[dict[str, Any], ...]
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Manifests({self.proxy!r})"  # the Secrets hold keys


@dataclass(frozen=True)
class ProxyTarget:
    """Name and place of the proxy."""

    name: str
    namespace: str | None
    in_cluster: bool


def build_manifests(  # noqa: PLR0913 - arguments of the trainer
    target: ProxyTarget,
    model_list: Sequence[Any],
    litellm_config: Mapping[str, Any],
    *,
    callbacks: Sequence[Any] | None,
    store_url: str,
    spec: Mapping[str, Any],
    environment: Mapping[str, str],
) -> Manifests:
    """Return the manifests; raise ProxyError with every reason why there are none."""
    names = supported_callbacks(callbacks)
    config = {**litellm_config, "model_list": list(model_list)}
    try:
        conversion = convert(
            config,
            name=target.name,
            namespace=target.namespace,
            store=store_url if SPANS in names else None,
            in_cluster=target.in_cluster,
            environment=environment,
        )
        proxy = copy.deepcopy(dict(conversion.proxy))
        _apply_callbacks(proxy["spec"], names)
        if "spans" in proxy["spec"]:
            proxy["spec"]["spans"]["ackWait"] = ACK_WAIT
        proxy["spec"] = merged(proxy["spec"], spec)
        parse(proxy)
        secrets = tuple(conversion.secrets())
    except SpecError as exc:
        raise ProxyError(
            "model_list and litellm_config cannot be converted to a proxy:\n"
            + "\n".join(f"  {p}" for p in exc.problems)
        ) from None
    return Manifests(proxy, secrets, tuple(str(warning) for warning in conversion.warnings))


def describe(proxy: Mapping[str, Any]) -> str:
    """Return models and limits of *proxy* in one line."""

    def limits_of(part: Mapping[str, Any]) -> str:
        limits = part.get("rateLimits") or {}
        return " ".join(f"{kind} {limits[kind]}" for kind in LIMITS if kind in limits)

    spec = proxy["spec"]
    models = [f"{m['name']} ({limits})" if (limits := limits_of(m)) else m["name"] for m in spec["models"]]
    return f"models {', '.join(models)}; limits {limits_of(spec) or 'none'}"


def supported_callbacks(callbacks: Sequence[Any] | None) -> frozenset[str]:
    """Return the names of the supported callbacks."""
    if callbacks is None:
        return frozenset({TOKEN_IDS, SPANS})
    named = (c if isinstance(c, str) else _CLASSES.get(getattr(c, "__name__", ""), "") for c in callbacks)
    return frozenset(name for name in named if name in _CLASSES.values())


def _apply_callbacks(spec: dict[str, Any], names: frozenset[str]) -> None:
    for model in spec["models"]:
        for deployment in model["deployments"]:
            if TOKEN_IDS not in names:
                deployment.setdefault("tokenIds", False)
            if LOGPROBS in names:
                deployment["params"] = {"logprobs": True, **deployment.get("params", {})}


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return *under* merged with *over*: mappings key by key, other values replaced."""
    result = dict(under)
    for key, value in over.items():
        below = under.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            result[key] = merged(below, value)
        else:
            result[key] = copy.deepcopy(value)
    return result
