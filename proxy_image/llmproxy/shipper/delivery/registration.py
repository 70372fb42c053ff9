"""Registration of the proxy as a `ProxyLLM` among the named resources of a LightningStore, for runners of `agl`.

Resources have versions, each complete; runners take the latest. A new version keeps the other resources and adds ours,
only if ours is absent or differs: pods that register at the same time write the same. Later checks restore a missing
resource, as a restarted store is empty, but never overwrite a differing one: a trainer may give the name another
address, and a pod that ends must not undo its successor's registration.
"""

import asyncio
import hashlib
import json
import logging
import random
from pathlib import Path
from typing import Any, NoReturn

from llmproxy import contract
from llmproxy.shipper.delivery.circuit_breaker import backoff_s
from llmproxy.shipper.delivery.http_client import ReceiverError
from llmproxy.shipper.delivery.lightning_store import LightningStore

log = logging.getLogger("llmproxy.shipper")

CHECK_S = 15.0
"""Interval of checks: for so long runners of a restarted store may find nothing."""
FIRST_RETRY_S = 0.5

Json = dict[str, Any]


def proxy_llm(resource: contract.Resource, models: tuple[contract.Model, ...]) -> Json:
    """Return the `ProxyLLM` resource; it names the first model."""
    return {
        "resource_type": "proxy_llm",
        "endpoint": resource.endpoint,
        "model": next((model.name for model in models if not model.name.endswith("*")), models[0].name),
        "sampling_parameters": {},
        "api_key": None,
    }


def with_proxy_llm(latest: Json, name: str, ours: Json, *, registered_before: bool) -> Json | None:
    """Return the next version of the resources, None if *latest* is right.

    With *registered_before* only an absent resource is restored.
    """
    current = latest.get(name)
    if isinstance(current, dict) and (registered_before or {**ours, **_shared_fields(current, ours)} == ours):
        return None
    return {**latest, name: ours}


def _shared_fields(current: Json, ours: Json) -> Json:
    return {key: value for key, value in current.items() if key in ours}


class Registration:
    """Task that registers the proxy and checks the registration."""

    def __init__(
        self, store: LightningStore, resource: contract.Resource, models: tuple[contract.Model, ...], marker: Path
    ) -> None:
        """*marker* is a file that survives the process and identifies what this pod has registered."""
        self._store = store
        self._name = resource.name
        self._ours = proxy_llm(resource, models)
        self._marker = marker
        self._digest = hashlib.sha256(json.dumps([self._name, self._ours], sort_keys=True).encode()).hexdigest()
        self._rand = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._failures = 0

    async def run(self) -> NoReturn:
        """Register, then check every CHECK_S, for ever."""
        while True:
            wait_s = await self.check()
            await asyncio.sleep(wait_s)

    async def check(self) -> float:
        """Register if needed; return the delay until the next check."""
        try:
            latest = await self._store.resources()
            version = with_proxy_llm(latest, self._name, self._ours, registered_before=self._is_marked())
            if version is not None:
                await self._store.add_resources(version)
                log.info("resource_registered", extra={"resource": self._name, **self._ours})
            self._mark()
        except ReceiverError as exc:
            self._failures += 1
            if self._failures == 1:
                log.warning(
                    "resource_registration_failed",
                    extra={"resource": self._name, "reason": str(exc), "advice": exc.advice},
                )
            return backoff_s(self._failures, self._rand, first_s=FIRST_RETRY_S, max_s=CHECK_S)
        self._failures = 0
        return CHECK_S * self._rand.uniform(0.8, 1.0)

    def _is_marked(self) -> bool:
        try:
            return self._marker.read_text() == self._digest
        except OSError:
            return False

    def _mark(self) -> None:
        try:
            if not self._is_marked():
                self._marker.write_text(self._digest)
        except OSError as exc:  # registered once more at the next check: idempotent
            log.error("registration_marker_write_failed", extra={"reason": exc.strerror or str(exc)})  # noqa: TRY400
