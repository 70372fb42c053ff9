"""Sequencer: takes the store's sequence id of a call at its arrival, so that ids have the order of arrival.

No call waits for that: while the store is slow or away, the id is taken at delivery instead, and counted as late. The
ids of one rollout are taken one after the other, those of several rollouts at the same time.
"""

import asyncio
import logging
from collections import deque

import msgspec

from llmproxy import shipping_protocol
from llmproxy.shipper.delivery.http_client import ReceiverError
from llmproxy.shipper.delivery.journal import CallKey, InFlightCall, Journal
from llmproxy.shipper.delivery.lightning_store import LightningStore
from llmproxy.shipper.metrics import ShipperCounters
from llmproxy.shipper.spool.records import SpoolRecord

log = logging.getLogger("llmproxy.shipper")

TRIES = 4
FIRST_RETRY_S = 0.02
"""Delay between the first two tries; doubled for each further one."""
PAUSE_S = 0.5
"""Time without a request for arrivals once TRIES have failed: most of them would fail as well."""
MAX_IN_FLIGHT = 100_000
"""Calls in flight that are remembered; far above what one gateway has."""


class Sequencer:
    """Sequence ids of the calls in flight."""

    def __init__(self, store: LightningStore | None, journal: Journal, counters: ShipperCounters) -> None:
        """Without a *store* no ids are taken; calls in flight are journaled all the same."""
        self._store = store
        self._journal = journal
        self._counters = counters
        self._queues: dict[str, deque[InFlightCall]] = {}
        """By rollout: the call whose id is requested now, and those behind it."""
        self._pending: dict[CallKey, asyncio.Future[int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._not_before_s = 0.0

    def on_arrival(self, gateway: str, arrival: shipping_protocol.Arrival) -> None:
        """Take the id of a call that has started; a gateway repeats arrivals of calls in flight on each connection."""
        call = InFlightCall(
            gateway, arrival.call_id, arrival.rollout_id, arrival.attempt_id, arrival.arrived_ns, sequence_id=0
        )
        earlier = self._journal.calls.get(call.key)
        if earlier is None:
            self._counters.arrivals += 1
            if len(self._journal.calls) >= MAX_IN_FLIGHT:
                return
            self._journal.put(call)
        elif earlier.sequence_id or earlier.ended or call.key in self._pending:
            return
        loop = asyncio.get_running_loop()
        if self._store is None or loop.time() < self._not_before_s:
            return
        self._pending[call.key] = loop.create_future()
        queue = self._queues.get(call.rollout_id)
        if queue is not None:
            queue.append(call)
            return
        self._queues[call.rollout_id] = deque([call])
        task = loop.create_task(self._run_queue(call.rollout_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def id_at_end(self, gateway: str, record: shipping_protocol.CallRecord) -> int:
        """Return the id of a call that has ended, 0 while there is none."""
        call = self._journal.calls.get((gateway, record.call_id))
        number = record.sequence_id or (call.sequence_id if call is not None else 0)
        if number:
            self.forget(gateway, record.call_id)
        return number

    def with_known_id(self, record: SpoolRecord) -> SpoolRecord | None:
        """Return *record* with its id, None while there is none."""
        if record.sequence_id:
            return record
        call = self._journal.calls.get((record.gateway, record.call.call_id))
        if call is None or not call.sequence_id:
            return None
        self.forget(*call.key)
        return msgspec.structs.replace(record, sequence_id=call.sequence_id)

    async def with_pending_id(self, record: SpoolRecord) -> SpoolRecord | None:
        """Return *record* with the id that its arrival requested, None if the store gave none."""
        key = record.gateway, record.call.call_id
        pending = self._pending.get(key)
        if pending is not None:
            await asyncio.shield(pending)
            self.forget(*key)
        return self.with_known_id(record)

    async def with_late_id(self, record: SpoolRecord) -> SpoolRecord:
        """Return *record* with an id that is taken now; raise ReceiverError if the store gives none."""
        if self._store is None:
            raise ReceiverError("no_store")
        number = await self._store.next_id(*record.group)
        self._counters.sequenced_late += 1
        return msgspec.structs.replace(record, sequence_id=number, late=True)

    def on_durable(self, records: list[SpoolRecord]) -> None:
        """Drop calls whose records are on disk, but for those whose id is still on its way."""
        ended: list[CallKey] = []
        for record in records:
            key = record.gateway, record.call.call_id
            if record.sequence_id or key not in self._pending:
                ended.append(key)
            else:
                self._journal.mark_ended(key)
        self._journal.remove(ended)

    def on_delivered(self, records: list[SpoolRecord]) -> None:
        """Drop calls whose records are in the store, or in the retry queue with their ids."""
        self._journal.remove([(record.gateway, record.call.call_id) for record in records])

    def forget(self, gateway: str, call_id: int) -> None:
        """Drop the pending id of a call: nobody will wait for it again."""
        self._pending.pop((gateway, call_id), None)

    def close(self) -> None:
        """Cancel all requests for ids."""
        for task in self._tasks:
            task.cancel()
        for pending in self._pending.values():
            if not pending.done():
                pending.set_result(0)

    async def _run_queue(self, rollout_id: str) -> None:
        queue = self._queues[rollout_id]
        try:
            while queue:
                await self._sequence(queue[0])
                queue.popleft()
        finally:
            del self._queues[rollout_id]

    async def _request_id(self, call: InFlightCall) -> int:
        """Return an id, 0 if the store gives none within TRIES: the call goes on meanwhile."""
        loop = asyncio.get_running_loop()
        for attempt in range(TRIES):
            if self._store is None or loop.time() < self._not_before_s:
                return 0
            try:
                return await self._store.next_id(call.rollout_id, call.attempt_id)
            except ReceiverError as exc:
                self._counters.failures[str(exc)] += 1
                await asyncio.sleep(FIRST_RETRY_S * 2**attempt)
        self._not_before_s = loop.time() + PAUSE_S
        return 0

    async def _sequence(self, call: InFlightCall) -> None:
        number = await self._request_id(call)
        if number and call.key in self._journal.calls:
            self._journal.put(msgspec.structs.replace(self._journal.calls[call.key], sequence_id=number))
        elif call.key in self._journal.calls and self._journal.calls[call.key].ended:
            self._journal.remove([call.key])
        pending = self._pending.get(call.key)
        if pending is not None and not pending.done():
            pending.set_result(number)
        if not number:
            self.forget(*call.key)
