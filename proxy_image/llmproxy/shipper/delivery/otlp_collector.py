"""OTLP/HTTP client of a collector: any receiver of traces that keeps to the protocol's specification.

A collector has no rollouts. A status that blames the request splits the batch; any other failure, a rejected key among
them, is the collector's, and the calls wait for it. Spans that it drops of an accepted batch (`partial_success`) are
counted and, as the specification says, not sent again; the calls of a batch that it drops as a whole are dead letters.
"""

import logging
from collections.abc import Mapping, Sequence

from llmproxy import contract
from llmproxy.contract import ContractError
from llmproxy.shipper.delivery.http_client import PROTOBUF, DeliveryResult, HttpClient, Outcome
from llmproxy.shipper.delivery.lightning_store import RolloutState
from llmproxy.shipper.metrics import ShipperCounters

log = logging.getLogger("llmproxy.shipper")

FAULTS = {400, 413, 422, 500}
"""Statuses that blame the batch or something in it; OTLP does not retry a 500 as it is."""


def read_headers(spans: contract.Spans, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of requests to a collector; raise ContractError for one whose value cannot be sent."""
    headers = {}
    for header in spans.otlp.headers if spans.otlp is not None else ():
        value = environment.get(header.value_env, "").strip()
        if not value:
            raise ContractError(f"spans.otlp.headers: {header.name}: {header.value_env} is not set")
        if not (value.isascii() and value.isprintable()):
            raise ContractError(f"spans.otlp.headers: {header.name}: {header.value_env} is not one line of ASCII text")
        headers[header.name] = value
    return headers


class OtlpCollector(HttpClient):
    """Client of one OTLP/HTTP receiver. Use as an asynchronous context manager."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], counters: ShipperCounters) -> None:
        super().__init__(endpoint, "spans.otlp.endpoint")
        self._headers = {**headers, **PROTOBUF}
        self._counters = counters

    async def post(self, batch: bytes, spans: int) -> DeliveryResult:
        """Deliver a serialized ExportTraceServiceRequest of *spans* spans."""
        result = await self.post_batch("/v1/traces", batch, self._headers, FAULTS, strict=False)
        if result.rejected_spans:
            if not self._counters.rejected_spans:
                reason = "the collector took a batch and dropped spans of it: see its log"
                log.error("spans_rejected", extra={"spans": result.rejected_spans, "reason": reason})
            self._counters.rejected_spans += result.rejected_spans
        if result.rejected_spans >= spans:
            return DeliveryResult(Outcome.DROPPED, "partial_success")
        return result

    async def rollout_state(self, rollout_id: str, attempt_id: str) -> RolloutState:  # noqa: ARG002 - as a store's
        """Return EXISTS: a collector has no rollouts."""
        return RolloutState.EXISTS

    async def missing_rollouts(self, rollout_ids: Sequence[str]) -> set[str]:  # noqa: ARG002 - as a store's
        """Return nothing: a collector has no rollouts."""
        return set()
