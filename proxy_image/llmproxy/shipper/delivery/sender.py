"""Gets units into a store or a collector: waits while it is away, cuts a refused batch until what is bad stands alone.

It returns what was refused while it works; what to do with that is for others to decide.
"""

import asyncio
import random
from collections.abc import Callable
from typing import NamedTuple, Protocol

from llmproxy.shipper.delivery.batches import Unit, by_group, smaller
from llmproxy.shipper.delivery.circuit_breaker import Gate, backoff_s
from llmproxy.shipper.delivery.lightning_store import Answer, Outcome, Standing
from llmproxy.shipper.metrics import Counts

UNKNOWN = "rollout_unknown"
PATIENCE = 5
"""Tries of a call that is refused although the store knows its rollout, while nothing else is taken either: the store
may be what is broken."""
PATIENCE_S = 0.2


class Target(Protocol):
    """What takes batches: a store or a collector."""

    async def post(self, batch: bytes) -> Answer:
        """Deliver a batch."""
        ...

    async def standing(self, rollout_id: str, attempt_id: str) -> Standing:
        """Say whether it takes spans of a rollout's attempt at all."""
        ...


class Refusal(NamedTuple):
    """A call that the store does not take, and why."""

    unit: Unit
    why: str
    counts: bool
    """Whether this is the call's fault: the store took others, or does not know the rollout."""


class Sender:
    """Sends batches, any number at a time."""

    def __init__(self, target: Target, gate: Gate, counts: Counts, *, name: str = "store") -> None:
        self.name = name
        """Of the destination, for logs."""
        self._target = target
        self._gate = gate
        self._counts = counts
        self._rand = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self.accepted = 0
        """Batches that the store took."""

    async def send(self, units: list[Unit], on_stored: Callable[[list[Unit]], None]) -> list[Refusal]:
        """Deliver *units*; call *on_stored* as they are stored, and return those that are refused."""
        answer = await self._post(b"".join(unit.body for unit in units))
        if answer.outcome is Outcome.ACCEPTED:
            on_stored(units)
            return []
        groups = by_group(units)
        if len(groups) > 1:
            return [refusal for group in groups for refusal in await self.send(group, on_stored)]
        if await self._standing(units[0].record.group) is Standing.UNKNOWN:
            return [Refusal(unit, UNKNOWN, counts=True) for unit in units]
        if len(units) > 1:
            return [refusal for part in smaller(units) for refusal in await self.send(part, on_stored)]
        return await self._send_alone(units[0], on_stored)

    async def _send_alone(self, unit: Unit, on_stored: Callable[[list[Unit]], None]) -> list[Refusal]:
        """Deliver the spans of a call that was refused as a whole, one by one."""
        before = self.accepted
        why = ""
        for tried in range(1, PATIENCE + 1):
            for i in unit.left:
                answer = await self._post(unit.spans[i])
                if answer.outcome is Outcome.ACCEPTED:
                    unit.delivered.add(i)
                else:
                    why = answer.why
            if not unit.left:
                on_stored([unit])
                return []
            if self.accepted > before:
                break
            await asyncio.sleep(backoff_s(tried, self._rand, first_s=PATIENCE_S))
        return [Refusal(unit, why, counts=self.accepted > before)]

    async def _post(self, body: bytes) -> Answer:
        """Return what the store says of *body*, once it says something."""
        while True:
            async with self._gate.passing():
                answer = await self._target.post(body)
                if answer.outcome is not Outcome.UNAVAILABLE:
                    if answer.outcome is Outcome.ACCEPTED:
                        self.accepted += 1
                        self._gate.works()
                    return answer
                self._failed(answer.why)

    async def _standing(self, group: tuple[str, str]) -> Standing:
        while True:
            async with self._gate.passing():
                standing = await self._target.standing(*group)
                if standing is not Standing.SICK:
                    self._gate.works()
                    return standing
                self._failed("does not answer questions")

    def _failed(self, why: str) -> None:
        self._counts.failures[why] += 1
        self._gate.failed(why)
