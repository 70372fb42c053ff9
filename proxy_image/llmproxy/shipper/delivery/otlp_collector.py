"""Speaks OTLP over HTTP to a collector: any receiver of traces that keeps to the protocol's specification.

It takes whatever it understands and knows no rollouts. An answer that says that the request is at fault cuts the batch
smaller; any other failure, a key that is refused among them, is the collector's, and what was sent waits for it.
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
    Answer,
    Outcome,
    Standing,
    failure_of,
)
from llmproxy.shipper.metrics import Counts
from llmproxy.shipper.spans import otlp

_FAULTS = {400, 413, 422, 500}
"""Of the batch, or of something in it; 500 is not to be tried again as it is."""


def outcome_of(status: int) -> Outcome:
    """Return what an HTTP status of a collector says of a batch."""
    if 200 <= status < 300:  # noqa: PLR2004 - the class of successes
        return Outcome.ACCEPTED
    return Outcome.REFUSED if status in _FAULTS else Outcome.UNAVAILABLE


def read_headers(spans: contract.Spans, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of requests to a collector; raise ContractError for one whose value cannot be sent."""
    found = {}
    for header in spans.otlp.headers if spans.otlp is not None else ():
        value = environment.get(header.value_env, "").strip()
        if not value:
            raise ContractError(f"spans.otlp.headers: {header.name}: {header.value_env} is not set")
        if not (value.isascii() and value.isprintable()):
            raise ContractError(
                f"spans.otlp.headers: {header.name}: {header.value_env} is no text of one line in ASCII"
            )
        found[header.name] = value
    return found


class Collector:
    """One OTLP/HTTP receiver. Use as an asynchronous context manager."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], counts: Counts) -> None:
        self._traces = f"{endpoint.rstrip('/')}/v1/traces"
        self._headers = {**headers, **PROTOBUF}
        self._counts = counts
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=3.0)
        self._session = aiohttp.ClientSession(connector=connector)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, batch: bytes) -> Answer:
        """Deliver a serialized ExportTraceServiceRequest. Where a redirect leads no credential is sent."""
        if self._session is None:
            raise RuntimeError("a Collector is used as a context manager")
        timeout = aiohttp.ClientTimeout(total=POST_S, sock_connect=CONNECT_S)
        try:
            async with self._session.post(
                self._traces, data=batch, headers=self._headers, timeout=timeout, allow_redirects=False
            ) as response:
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            return Answer(Outcome.UNAVAILABLE, failure_of(exc))
        outcome = outcome_of(response.status)
        if outcome is Outcome.ACCEPTED and answer:
            self._counts.rejected_spans += otlp.rejected(answer)
        return Answer(outcome, f"http_{response.status}")

    async def standing(self, rollout_id: str, attempt_id: str) -> Standing:  # noqa: ARG002 - as a store is asked
        """Say that a rollout is none of its business."""
        return Standing.KNOWN
