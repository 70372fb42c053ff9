"""Tells a LightningStore where the proxy is: a `ProxyLLM` among its named resources, which runners of `agl` pick up.

Resources come in versions, each a whole; runners take the latest. So what is there is kept and ours is put beside it,
in a new version, and only if it is not there as it should be: pods that do it at the same time write the same. A later
look puts it back when it is gone, since a store that is started anew knows nothing, but changes nobody else's word: a
trainer may give the name another address, and a pod that ends may not undo what its successor has said.
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
from llmproxy.shipper.delivery.lightning_store import Store, StoreError

log = logging.getLogger("llmproxy.shipper")

LOOK_S = 15.0
"""Between two looks: so long runners of a store that was started anew may find nothing."""
FIRST_RETRY_S = 0.5

Json = dict[str, Any]


def wanted(resource: contract.Resource, models: tuple[contract.Model, ...]) -> Json:
    """Return the resource: a runner that is asked for one model takes the first."""
    return {
        "resource_type": "proxy_llm",
        "endpoint": resource.endpoint,
        "model": models[0].name,
        "sampling_parameters": {},
        "api_key": None,
    }


def changed(latest: Json, name: str, ours: Json, *, ours_before: bool) -> Json | None:
    """Return the resources that are to be the latest, None if they are as they should be.

    With *ours_before* this pod has said its word already, and only an absent resource is put back.
    """
    found = latest.get(name)
    if isinstance(found, dict) and (ours_before or {**ours, **_known(found, ours)} == ours):
        return None
    return {**latest, name: ours}


def _known(found: Json, ours: Json) -> Json:
    return {key: value for key, value in found.items() if key in ours}


class Registration:
    """The task that registers, and looks after it."""

    def __init__(
        self, store: Store, resource: contract.Resource, models: tuple[contract.Model, ...], note: Path
    ) -> None:
        """*note* is a file that outlives the process and says what this pod has registered."""
        self._store = store
        self._name = resource.name
        self._ours = wanted(resource, models)
        self._note = note
        self._digest = hashlib.sha256(json.dumps([self._name, self._ours], sort_keys=True).encode()).hexdigest()
        self._rand = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._failures = 0

    async def run(self) -> NoReturn:
        """Register, and look now and then, for ever."""
        while True:
            wait_s = await self.look()
            await asyncio.sleep(wait_s)

    async def look(self) -> float:
        """Register if that is needed; return how long to wait for the next look."""
        try:
            made = changed(await self._store.resources(), self._name, self._ours, ours_before=self._is_noted())
            if made is not None:
                await self._store.add_resources(made)
                log.info("resource_registered", extra={"resource": self._name, **self._ours})
            self._take_note()
        except StoreError as exc:
            self._failures += 1
            if self._failures == 1:
                log.warning("resource_not_registered", extra={"resource": self._name, "reason": str(exc)})
            return backoff_s(self._failures, self._rand, first_s=FIRST_RETRY_S, max_s=LOOK_S)
        self._failures = 0
        return LOOK_S * self._rand.uniform(0.8, 1.0)

    def _is_noted(self) -> bool:
        try:
            return self._note.read_text() == self._digest
        except OSError:
            return False

    def _take_note(self) -> None:
        try:
            if not self._is_noted():
                self._note.write_text(self._digest)
        except OSError as exc:  # said once more at the next look: the same word, so it costs nothing
            log.error("registration_not_noted", extra={"reason": exc.strerror or str(exc)})  # noqa: TRY400
