"""Takes the store's sequence id of a call when it arrives, so that the order in the store is that of arrival.

Never in a call's way: a store that is slow or away means that the id is taken later, at delivery, and counted. The ids
of one rollout are taken one after the other; of different rollouts at the same time.
"""

import asyncio
import logging
from collections import deque

import msgspec

from llmproxy import shipping_protocol
from llmproxy.shipper.delivery.journal import Begun, Journal, Key
from llmproxy.shipper.delivery.lightning_store import Store, StoreError
from llmproxy.shipper.metrics import Counts
from llmproxy.shipper.spool.records import Record

log = logging.getLogger("llmproxy.shipper")

TRIES = 4
FIRST_RETRY_S = 0.02
"""Between the first two tries; doubled for each after."""
PAUSE_S = 0.5
"""After so many failures arrivals ask the store for nothing so long: most of them would fail as well."""
MAX_BEGUN = 100_000
"""Calls that have begun and are remembered; far above what one gateway has in flight."""


class Sequencer:
    """The sequence ids of the calls that have begun."""

    def __init__(self, store: Store | None, journal: Journal, counts: Counts) -> None:
        """Without a store there are no ids, and only what has begun is remembered."""
        self._store = store
        self._journal = journal
        self._counts = counts
        self._waiting: dict[str, deque[Begun]] = {}
        """By rollout: what asks for an id now, and what comes after it."""
        self._answers: dict[Key, asyncio.Future[int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._not_before_s = 0.0

    def arrived(self, gateway: str, arrival: shipping_protocol.Arrival) -> None:
        """Take the id of a call that has begun; a gateway says it again on each connection while the call lasts."""
        begun = Begun(
            gateway, arrival.call_id, arrival.rollout_id, arrival.attempt_id, arrival.arrived_ns, sequence_id=0
        )
        known = self._journal.begun.get(begun.key)
        if known is None:
            self._counts.arrivals += 1
            if len(self._journal.begun) >= MAX_BEGUN:
                return
            self._journal.begin(begun)
        elif known.sequence_id or known.ended or begun.key in self._answers:
            return
        loop = asyncio.get_running_loop()
        if self._store is None or loop.time() < self._not_before_s:
            return
        self._answers[begun.key] = loop.create_future()
        queue = self._waiting.get(begun.rollout_id)
        if queue is not None:
            queue.append(begun)
            return
        self._waiting[begun.rollout_id] = deque([begun])
        task = loop.create_task(self._take_all(begun.rollout_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def known(self, gateway: str, call: shipping_protocol.CallRecord) -> int:
        """Return the id of a call that has ended, 0 while there is none."""
        begun = self._journal.begun.get((gateway, call.call_id))
        number = call.sequence_id or (begun.sequence_id if begun is not None else 0)
        if number:
            self.forget(gateway, call.call_id)
        return number

    def numbered(self, record: Record) -> Record | None:
        """Return a record with its id, None while there is none."""
        if record.sequence_id:
            return record
        begun = self._journal.begun.get((record.gateway, record.call.call_id))
        if begun is None or not begun.sequence_id:
            return None
        self.forget(*begun.key)
        return msgspec.structs.replace(record, sequence_id=begun.sequence_id)

    async def awaited(self, record: Record) -> Record | None:
        """Return a record with the id that its arrival asked for, None if that came to nothing."""
        key = record.gateway, record.call.call_id
        answer = self._answers.get(key)
        if answer is not None:
            await asyncio.shield(answer)
            self.forget(*key)
        return self.numbered(record)

    async def late(self, record: Record) -> Record:
        """Return a record with an id that is taken now; raise StoreError when the store gives none."""
        if self._store is None:
            raise StoreError("no_store")
        number = await self._store.next_id(*record.group)
        self._counts.sequenced_late += 1
        return msgspec.structs.replace(record, sequence_id=number, late=True)

    def durable(self, kept: list[Record]) -> None:
        """Note records that are on disk: what is known of them besides is needed only while an id is on its way."""
        ended: list[Key] = []
        for record in kept:
            key = record.gateway, record.call.call_id
            if record.sequence_id or key not in self._answers:
                ended.append(key)
            else:
                self._journal.ended(key)
        self._journal.end(ended)

    def delivered(self, stored: list[Record]) -> None:
        """Note records that are in the store, or kept elsewhere with their ids."""
        self._journal.end([(record.gateway, record.call.call_id) for record in stored])

    def forget(self, gateway: str, call_id: int) -> None:
        """Note that nobody will ask for the id of a call again."""
        self._answers.pop((gateway, call_id), None)

    def close(self) -> None:
        """Stop asking."""
        for task in self._tasks:
            task.cancel()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result(0)

    async def _take_all(self, rollout_id: str) -> None:
        queue = self._waiting[rollout_id]
        try:
            while queue:
                await self._take(queue[0])
                queue.popleft()
        finally:
            del self._waiting[rollout_id]

    async def _ask(self, begun: Begun) -> int:
        """Return an id, 0 if the store gives none in a few tries: the call goes on meanwhile, nobody waits."""
        loop = asyncio.get_running_loop()
        for tried in range(TRIES):
            if self._store is None or loop.time() < self._not_before_s:
                return 0
            try:
                return await self._store.next_id(begun.rollout_id, begun.attempt_id)
            except StoreError as exc:
                self._counts.failures[str(exc)] += 1
                await asyncio.sleep(FIRST_RETRY_S * 2**tried)
        self._not_before_s = loop.time() + PAUSE_S
        return 0

    async def _take(self, begun: Begun) -> None:
        number = await self._ask(begun)
        if number and begun.key in self._journal.begun:
            self._journal.begin(msgspec.structs.replace(self._journal.begun[begun.key], sequence_id=number))
        elif begun.key in self._journal.begun and self._journal.begun[begun.key].ended:
            self._journal.end([begun.key])
        answer = self._answers.get(begun.key)
        if answer is not None and not answer.done():
            answer.set_result(number)
        if not number:
            self.forget(*begun.key)
