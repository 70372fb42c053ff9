"""The store of shared limits as the document names it: from environment variables to a `Shared` that is not started.

It is not asked whether the store is there: a pod whose store is away serves with its shares.
"""

import os

from llmproxy.contract import ContractError, SharedLimits
from llmproxy.gateway.limits import Limiter
from llmproxy.gateway.limits.store.lease_limiter import Shared
from llmproxy.gateway.limits.store.protocol import SCRIPT
from llmproxy.gateway.limits.store.redis_client import Address, Redis, UrlError


def share_limits(limiter: Limiter, told: SharedLimits, pod: str) -> Shared:
    """Return what makes *limiter* count with others; raise ContractError when the store's address cannot be used."""
    ca = None if told.ca_env is None else _variable("shared_limits.ca_env", told.ca_env)
    try:
        address = Address(_variable("shared_limits.url_env", told.url_env), ca)
    except UrlError as exc:
        raise ContractError(f"shared_limits.url_env: {told.url_env}: {exc}") from exc
    return Shared(limiter, Redis(address, SCRIPT), uid=told.scope, pod=pod, max_pods=told.max_pods)


def _variable(field: str, name: str) -> str:
    value = os.environ.get(name, "").strip()
    if not value:
        raise ContractError(f"{field}: {name} is not set in the environment")
    return value
