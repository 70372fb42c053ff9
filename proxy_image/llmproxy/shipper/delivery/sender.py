"""Sender: delivers units to a store or a collector, waits while it is away, bisects a refused batch.

Units that are refused while the receiver works are returned; their fate is the caller's decision.
"""

import asyncio
import random
from collections.abc import Callable
from typing import NamedTuple, Protocol

from llmproxy.shipper.delivery.batches import DeliveryUnit, by_group, split
from llmproxy.shipper.delivery.circuit_breaker import CircuitBreaker, backoff_s
from llmproxy.shipper.delivery.lightning_store import DeliveryResult, Outcome, RolloutState
from llmproxy.shipper.metrics import ShipperCounters

ROLLOUT_UNKNOWN = "rollout_unknown"
MAX_LONE_TRIES = 5
"""Tries of a single call that is refused although its rollout exists, while nothing else is accepted either: the fault
may be the store's."""
LONE_RETRY_S = 0.2


class SpanReceiver(Protocol):
    """Receiver of batches: a store or a collector."""

    async def post(self, batch: bytes) -> DeliveryResult:
        """Deliver a batch."""
        ...

    async def rollout_state(self, rollout_id: str, attempt_id: str) -> RolloutState:
        """Return the state of a rollout's attempt at the receiver."""
        ...


class RefusedUnit(NamedTuple):
    """A call that the receiver refused, and why."""

    unit: DeliveryUnit
    reason: str
    is_call_fault: bool
    """True if the receiver accepted others meanwhile, or has no such rollout."""


class Sender:
    """Sends batches, any number at a time."""

    def __init__(
        self, receiver: SpanReceiver, breaker: CircuitBreaker, counters: ShipperCounters, *, name: str = "store"
    ) -> None:
        self.name = name
        """Name of the destination, for logs."""
        self._receiver = receiver
        self._breaker = breaker
        self._counters = counters
        self._rand = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self.accepted = 0
        """Batches that the receiver accepted."""

    async def send(
        self, units: list[DeliveryUnit], on_stored: Callable[[list[DeliveryUnit]], None]
    ) -> list[RefusedUnit]:
        """Deliver *units*; call *on_stored* as they are stored, and return those that are refused."""
        result = await self._post(b"".join(unit.body for unit in units))
        if result.outcome is Outcome.ACCEPTED:
            on_stored(units)
            return []
        groups = by_group(units)
        if len(groups) > 1:
            return [refusal for group in groups for refusal in await self.send(group, on_stored)]
        if await self._rollout_state(units[0].record.group) is RolloutState.MISSING:
            return [RefusedUnit(unit, ROLLOUT_UNKNOWN, is_call_fault=True) for unit in units]
        if len(units) > 1:
            return [refusal for half in split(units) for refusal in await self.send(half, on_stored)]
        return await self._send_alone(units[0], on_stored)

    async def _send_alone(
        self, unit: DeliveryUnit, on_stored: Callable[[list[DeliveryUnit]], None]
    ) -> list[RefusedUnit]:
        """Deliver the spans of a call that was refused as a whole, one by one."""
        before = self.accepted
        reason = ""
        for attempt in range(1, MAX_LONE_TRIES + 1):
            for i in unit.undelivered:
                result = await self._post(unit.spans[i])
                if result.outcome is Outcome.ACCEPTED:
                    unit.delivered.add(i)
                else:
                    reason = result.reason
            if not unit.undelivered:
                on_stored([unit])
                return []
            if self.accepted > before:
                break
            await asyncio.sleep(backoff_s(attempt, self._rand, first_s=LONE_RETRY_S))
        return [RefusedUnit(unit, reason, is_call_fault=self.accepted > before)]

    async def _post(self, body: bytes) -> DeliveryResult:
        """Return the receiver's verdict on *body*; retry until it is available."""
        while True:
            async with self._breaker.permit():
                result = await self._receiver.post(body)
                if result.outcome is not Outcome.UNAVAILABLE:
                    if result.outcome is Outcome.ACCEPTED:
                        self.accepted += 1
                        self._breaker.record_success()
                    return result
                self._record_failure(result.reason)

    async def _rollout_state(self, group: tuple[str, str]) -> RolloutState:
        while True:
            async with self._breaker.permit():
                state = await self._receiver.rollout_state(*group)
                if state is not RolloutState.UNDETERMINED:
                    self._breaker.record_success()
                    return state
                self._record_failure("rollout_search_failed")

    def _record_failure(self, reason: str) -> None:
        self._counters.failures[reason] += 1
        self._breaker.record_failure(reason)
