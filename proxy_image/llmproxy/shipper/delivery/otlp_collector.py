"""OTLP/HTTP client of a collector: any receiver of traces that keeps to the protocol's specification.

A collector has no rollouts. A status that blames the request splits the batch; any other failure, a rejected key among
them, is the collector's, and the calls wait for it.
"""

from collections.abc import Mapping
from typing import Self

import aiohttp

from llmproxy import contract
from llmproxy.contract import ContractError
from llmproxy.shipper.delivery.lightning_store import (
    CONNECT_S,
    CONNECTIONS,
    POST_S,
    PROTOBUF,
    DeliveryResult,
    Outcome,
    RolloutState,
    failure_of,
)
from llmproxy.shipper.metrics import ShipperCounters
from llmproxy.shipper.spans import otlp

_FAULTS = {400, 413, 422, 500}
"""Statuses that blame the batch or something in it; OTLP does not retry a 500 as it is."""


def outcome_of(status: int) -> Outcome:
    """Return the outcome of a batch that a collector answered with HTTP *status*."""
    if 200 <= status < 300:  # noqa: PLR2004 - the class of successes
        return Outcome.ACCEPTED
    return Outcome.REFUSED if status in _FAULTS else Outcome.UNAVAILABLE


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


class OtlpCollector:
    """Client of one OTLP/HTTP receiver. Use as an asynchronous context manager."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], counters: ShipperCounters) -> None:
        self._traces = f"{endpoint.rstrip('/')}/v1/traces"
        self._headers = {**headers, **PROTOBUF}
        self._counters = counters
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=3.0)
        self._session = aiohttp.ClientSession(connector=connector)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, batch: bytes) -> DeliveryResult:
        """Deliver a serialized ExportTraceServiceRequest. No redirect is followed: it could carry a credential away."""
        if self._session is None:
            raise RuntimeError("an OtlpCollector is used as a context manager")
        timeout = aiohttp.ClientTimeout(total=POST_S, sock_connect=CONNECT_S)
        try:
            async with self._session.post(
                self._traces, data=batch, headers=self._headers, timeout=timeout, allow_redirects=False
            ) as response:
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            return DeliveryResult(Outcome.UNAVAILABLE, failure_of(exc))
        outcome = outcome_of(response.status)
        if outcome is Outcome.ACCEPTED and answer:
            self._counters.rejected_spans += otlp.rejected(answer)
        return DeliveryResult(outcome, f"http_{response.status}")

    async def rollout_state(self, rollout_id: str, attempt_id: str) -> RolloutState:  # noqa: ARG002 - as a store is asked
        """Return EXISTS: a collector has no rollouts."""
        return RolloutState.EXISTS
