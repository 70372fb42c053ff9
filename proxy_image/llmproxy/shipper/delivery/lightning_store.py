"""Client of a LightningStore, and the meaning of its answers.

A store of agentlightning 0.3.0 answers 500 both for an unknown rollout and when it is broken; a search for the rollout
tells the two apart. Anything else may answer 200 to a batch, so the store is identified before the first one, and again
after each failure: by a sequence id that it gave, or by a search that it answered.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Any
from urllib.parse import quote

import msgspec

from llmproxy.shipper.delivery.http_client import (
    PROTOBUF,
    DeliveryResult,
    HttpClient,
    Outcome,
    ReceiverError,
    decode_json,
)

API_S = 5.0
MAX_API_ANSWER = 8 << 20
"""Bytes of an answer of the API: the latest resources, or the rollouts of a search."""
FAULTS = {400, 413, 415, 422, 500}
"""Statuses that blame the batch or something in it."""
_JSON = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}


class RolloutState(Enum):
    """State of a rollout and attempt in the store."""

    EXISTS = "exists"
    MISSING = "missing"


class LightningStore(HttpClient):
    """Client of one LightningStore. Use as an asynchronous context manager."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "spans.store")
        self._identified = False

    async def post(self, batch: bytes, spans: int) -> DeliveryResult:  # noqa: ARG002 - a collector needs it
        """Deliver a serialized ExportTraceServiceRequest of *spans* spans."""
        if not self._identified:
            try:
                await self.missing_rollouts(["-"])
            except ReceiverError as exc:
                return DeliveryResult(Outcome.UNAVAILABLE, str(exc), exc.advice)
        result = await self.post_batch("/v1/traces", batch, PROTOBUF, FAULTS, strict=True)
        if result.outcome is Outcome.UNAVAILABLE:
            self._identified = False
        if result.rejected_spans:  # which ones is not said, and a repeated span is stored once: a smaller batch tells
            advice = "the store took the batch and dropped spans of it: see its log"
            return DeliveryResult(Outcome.REFUSED, "partial_success", advice)
        return result

    async def next_id(self, rollout_id: str, attempt_id: str) -> int:
        """Return a sequence id; raise ReceiverError if the store gives none."""
        ids = {"rollout_id": rollout_id, "attempt_id": attempt_id}
        answer = await self._request("POST", "/spans/next", ids)
        number = answer.get("sequence_id") if isinstance(answer, dict) else None
        if not isinstance(number, int) or isinstance(number, bool):
            raise ReceiverError("no_sequence_id", self._not_a_store)
        self._identified = True
        return number

    async def rollout_state(self, rollout_id: str, attempt_id: str) -> RolloutState:
        """Return the state of a rollout and its attempt; raise ReceiverError if the store does not say."""
        if rollout_id in await self.missing_rollouts([rollout_id]):
            return RolloutState.MISSING
        try:
            attempts = self._items(
                await self._request("POST", f"/rollouts/{path_segment(rollout_id)}/attempts/search", {})
            )
        except ReceiverError as exc:
            if str(exc) == "http_404":  # of this rollout alone: the search before has found a store
                return RolloutState.MISSING
            raise
        exists = any(item.get("attempt_id") == attempt_id for item in attempts)
        return RolloutState.EXISTS if exists else RolloutState.MISSING

    async def missing_rollouts(self, rollout_ids: Sequence[str]) -> set[str]:
        """Return those of *rollout_ids* that the store does not have; raise ReceiverError."""
        answer = await self._request("POST", "/rollouts/search", {"rollout_id_in": list(rollout_ids)})
        existing = {item.get("rollout_id") for item in self._items(answer)}
        self._identified = True
        return {rollout_id for rollout_id in rollout_ids if rollout_id not in existing}

    async def resources(self) -> dict[str, Any]:
        """Return the latest named resources, empty if there are none; raise ReceiverError."""
        answer = await self._request("GET", "/resources/latest", None)
        if answer is None:
            return {}
        resources = answer.get("resources") if isinstance(answer, dict) else None
        if not isinstance(resources, dict):
            raise ReceiverError("unexpected_answer", self._not_a_store)
        return resources

    async def add_resources(self, resources: dict[str, Any]) -> None:
        """Make *resources* the latest version; raise ReceiverError."""
        await self._request("POST", "/resources", resources)

    async def _request(self, method: str, path: str, body: dict[str, Any] | None) -> object:
        data = b"" if body is None else msgspec.json.encode(body)
        answer = await self.request(method, f"/v1/agl{path}", data, _JSON, timeout_s=API_S, max_answer=MAX_API_ANSWER)
        return decode_json(answer, self.setting)

    @property
    def _not_a_store(self) -> str:
        return f"the answer is not a LightningStore's: check that {self.setting} is its base address"

    def _items(self, answer: object) -> list[dict[str, Any]]:
        items = answer.get("items") if isinstance(answer, dict) else None
        if not isinstance(items, list):
            raise ReceiverError("unexpected_answer", self._not_a_store)
        return [item for item in items if isinstance(item, dict)]


def path_segment(name: str) -> str:
    """Return *name* as one segment of a URL's path: no slash, query or dot segment of it acts."""
    text = quote(name, safe="")
    return text.replace(".", "%2E") if text in {".", ".."} else text
