"""From what a trainer says to the LLMProxy and the Secret that are wanted. Pure."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmproxy_agl.errors import ProxyError
from llmproxy_api import SpecError, parse
from llmproxy_api.litellm.convert import convert

TOKEN_IDS, LOGPROBS, SPANS = "return_token_ids", "logprobs", "opentelemetry"
ACK_WAIT = "2s"
"""How long a call's last byte waits for its spans, at most. Longer than a proxy's default: a trainer reads them once,
the moment a rollout succeeds, and what comes later is lost to it. With a store that is well it takes milliseconds."""
_CLASSES = {"AddReturnTokenIds": TOKEN_IDS, "AddLogprobs": LOGPROBS, "LightningOpenTelemetry": SPANS}


@dataclass(frozen=True)
class Wanted:
    """What is to run."""

    proxy: dict[str, Any]
    secret: dict[str, Any] | None
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Wanted({self.proxy!r})"  # the Secret holds keys


@dataclass(frozen=True)
class Place:
    """As what and where it is to run."""

    name: str
    namespace: str | None
    in_cluster: bool


def wanted(  # noqa: PLR0913 - each is a part of what the trainer says
    place: Place,
    model_list: Sequence[Any],
    litellm_config: Mapping[str, Any],
    *,
    callbacks: Sequence[Any] | None,
    store_url: str,
    spec: Mapping[str, Any],
    environment: Mapping[str, str],
) -> Wanted:
    """Return what is to run; raise ProxyError with every reason against it."""
    names = known_callbacks(callbacks)
    config = {**litellm_config, "model_list": list(model_list)}
    try:
        made = convert(
            config,
            name=place.name,
            namespace=place.namespace,
            store=store_url if SPANS in names else None,
            in_cluster=place.in_cluster,
            environment=environment,
        )
        proxy = copy.deepcopy(dict(made.proxy))
        _apply_callbacks(proxy["spec"], names)
        if "spans" in proxy["spec"]:
            proxy["spec"]["spans"]["ackWait"] = ACK_WAIT
        proxy["spec"] = merged(proxy["spec"], spec)
        parse(proxy)
        secret = made.secret()
    except SpecError as exc:
        raise ProxyError(
            "the proxy cannot be made of model_list and litellm_config:\n" + "\n".join(f"  {p}" for p in exc.problems)
        ) from None
    return Wanted(proxy, secret, tuple(str(warning) for warning in made.warnings))


def known_callbacks(callbacks: Sequence[Any] | None) -> frozenset[str]:
    """Return the aliases of the callbacks that have a meaning here."""
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
    """Return *over* laid upon *under*: mappings part by part, anything else as a whole."""
    made = dict(under)
    for key, value in over.items():
        below = under.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            made[key] = merged(below, value)
        else:
            made[key] = copy.deepcopy(value)
    return made
