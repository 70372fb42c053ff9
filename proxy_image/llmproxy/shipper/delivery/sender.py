"""Sender: delivers units to a store or a collector, waits while it is away, bisects a refused batch.

Units that are refused while the receiver works are returned; their fate is the caller's decision.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from llmproxy.shipper.delivery.batches import DeliveryUnit, by_group, split
from llmproxy.shipper.delivery.circuit_breaker import CircuitBreaker, backoff_s
from llmproxy.shipper.delivery.http_client import DeliveryResult, Outcome, ReceiverError
from llmproxy.shipper.delivery.lightning_store import RolloutState
from llmproxy.shipper.metrics import ShipperCounters

T = TypeVar("T")
ROLLOUT_UNKNOWN = "rollout_unknown"
MAX_LONE_TRIES = 5
"""Tries of a single call that is refused although its rollout exists, while nothing else is accepted either: the fault
may be the store's."""
LONE_RETRY_S = 0.2


class SpanReceiver(Protocol):
    """Receiver of batches: a store or a collector."""

    async def post(self, batch: bytes, spans: int) -> DeliveryResult:
        """Deliver a batch of *spans* spans."""
        ...

    async def rollout_state(self, rollout_id: str, attempt_id: str) -> RolloutState:
        """Return the state of a rollout's attempt at the receiver; raise ReceiverError."""
        ...

    async def missing_rollouts(self, rollout_ids: Sequence[str]) -> set[str]:
        """Return the rollouts that the receiver does not have; raise ReceiverError."""
        ...


class RefusedUnit(NamedTuple):
    """A call that the receiver refused, and why."""

    unit: DeliveryUnit
    reason: str
    is_call_fault: bool
    """True if the receiver accepted others meanwhile, or has no such rollout."""
    is_final: bool = False
    """True if the call must not be sent again."""


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
        result = await self._post(b"".join(unit.body for unit in units), sum(len(unit.undelivered) for unit in units))
        if result.outcome is Outcome.ACCEPTED:
            on_stored(units)
            return []
        if result.outcome is Outcome.DROPPED:
            return [RefusedUnit(unit, result.reason, is_call_fault=True, is_final=True) for unit in units]
        groups = by_group(units)
        if len(groups) > 1:
            return await self._send_groups(groups, on_stored)
        state = await self._ask(lambda: self._receiver.rollout_state(*units[0].record.group))
        if state is RolloutState.MISSING:
            return [RefusedUnit(unit, ROLLOUT_UNKNOWN, is_call_fault=True) for unit in units]
        if len(units) > 1:
            return [refusal for half in split(units) for refusal in await self.send(half, on_stored)]
        return await self._send_alone(units[0], on_stored)

    async def _send_groups(
        self, groups: list[list[DeliveryUnit]], on_stored: Callable[[list[DeliveryUnit]], None]
    ) -> list[RefusedUnit]:
        """Deliver a refused batch of several groups: without those of unknown rollouts, or else group by group."""
        missing = await self.missing_rollouts(list(dict.fromkeys(group[0].record.call.rollout_id for group in groups)))
        if not missing:
            return [refusal for group in groups for refusal in await self.send(group, on_stored)]
        units = [unit for group in groups for unit in group]
        rest = [unit for unit in units if unit.record.call.rollout_id not in missing]
        refusals = await self.send(rest, on_stored) if rest else []
        unknown = [unit for unit in units if unit.record.call.rollout_id in missing]
        return refusals + [RefusedUnit(unit, ROLLOUT_UNKNOWN, is_call_fault=True) for unit in unknown]

    async def _send_alone(
        self, unit: DeliveryUnit, on_stored: Callable[[list[DeliveryUnit]], None]
    ) -> list[RefusedUnit]:
        """Deliver the spans of a call that was refused as a whole, one by one."""
        before = self.accepted
        reason = ""
        for attempt in range(1, MAX_LONE_TRIES + 1):
            for i in unit.undelivered:
                result = await self._post(unit.spans[i], 1)
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

    async def _post(self, body: bytes, spans: int) -> DeliveryResult:
        """Return the receiver's verdict on *body*; retry until it is available."""
        while True:
            async with self._breaker.permit():
                result = await self._receiver.post(body, spans)
                if result.outcome is not Outcome.UNAVAILABLE:
                    if result.outcome is Outcome.ACCEPTED:
                        self.accepted += 1
                        self._breaker.record_success()
                    return result
                self._record_failure(result.reason, result.advice)

    async def missing_rollouts(self, rollout_ids: Sequence[str]) -> set[str]:
        """Return the rollouts that the receiver does not have; retry until it is available."""
        return await self._ask(lambda: self._receiver.missing_rollouts(rollout_ids))

    async def _ask(self, question: Callable[[], Awaitable[T]]) -> T:
        while True:
            async with self._breaker.permit():
                try:
                    answer = await question()
                except ReceiverError as exc:
                    self._record_failure(str(exc), exc.advice)
                else:
                    self._breaker.record_success()
                    return answer

    def _record_failure(self, reason: str, advice: str) -> None:
        self._counters.failures[reason] += 1
        self._breaker.record_failure(reason, advice)
