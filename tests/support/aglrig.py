"""From a gateway's hand through a shipper process and the real `agl store` to what a trainer reads."""

import asyncio
import os
import warnings
from dataclasses import dataclass
from typing import Any

import spanrig

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # importing agentlightning fetches a price list otherwise

with warnings.catch_warnings():  # what it imports is full of deprecated things
    warnings.simplefilter("ignore")
    import agentlightning as agentlightning  # noqa: PLC0414 - for tests to import from here

Json = dict[str, Any]


@dataclass
class AglStore:
    """Agent-Lightning's own store, over HTTP."""

    url: str

    def ask(self, method: str, path: str, body: object = None) -> Any:
        return spanrig.ask_json(self.url, method, f"/v1/agl{path}", body)

    def start_rollout(self) -> tuple[str, str]:
        made = self.ask("POST", "/rollouts", {"input": {"task": 1}, "mode": "train"})
        return made["rollout_id"], made["attempt"]["attempt_id"]

    def next_id(self, rollout: str, attempt: str) -> int:
        body = {"rollout_id": rollout, "attempt_id": attempt}
        number: int = self.ask("POST", "/spans/next", body)["sequence_id"]
        return number

    def add_span(self, span: Json) -> None:
        self.ask("POST", "/spans", span)

    def spans(self, rollout: str) -> list[Any]:
        """Return the spans as the trainer gets them."""
        found = self.ask("GET", f"/spans?rollout_id={rollout}&sort_by=sequence_id")["items"]
        return [agentlightning.Span.model_validate(item) for item in found]


@dataclass
class Road:
    """From a gateway's hand to the trainer's."""

    store: AglStore
    shipper: spanrig.ShipperProcess
    gateway: spanrig.Gateway

    async def rollout(self) -> tuple[str, str]:
        return await asyncio.to_thread(self.store.start_rollout)

    async def call(self, ids: tuple[str, str], **fields: Any) -> None:
        """Make a call and wait until its spans are stored."""
        stored = await self.gateway.call(ids[0], attempt=ids[1], wait_s=20.0, **fields)
        assert stored, self.shipper.process.output if self.shipper.process else ""

    async def spans(self, ids: tuple[str, str]) -> list[Any]:
        return await asyncio.to_thread(self.store.spans, ids[0])
