"""Delivery to a store that refuses, is away or is broken."""

import pytest

from deliveryrig import FakeStore, a_unit
from llmproxy.shipper.delivery import sender
from llmproxy.shipper.delivery.batches import DeliveryUnit
from llmproxy.shipper.delivery.circuit_breaker import CircuitBreaker
from llmproxy.shipper.delivery.sender import Sender
from llmproxy.shipper.metrics import ShipperCounters


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "LONE_RETRY_S", 0.001)


async def send(store: FakeStore, units: list[DeliveryUnit]) -> tuple[set[int], dict[int, str]]:
    """Return which calls were stored, and which were refused and why."""
    stored: list[int] = []
    refusals = await Sender(store, CircuitBreaker(), ShipperCounters()).send(
        units, lambda some: stored.extend(u.record.call.call_id for u in some)
    )
    assert len(stored) == len(set(stored))
    return set(stored), {r.unit.record.call.call_id: r.reason for r in refusals}


async def test_a_good_batch_is_one_request() -> None:
    store = FakeStore()
    assert await send(store, [a_unit(i, f"ro-{i}") for i in range(50)]) == (set(range(50)), {})
    assert store.requests == 1


async def test_an_unknown_rollout_costs_the_others_nothing() -> None:
    store = FakeStore()
    store.unknown = {"ro-3"}
    stored, refused = await send(store, [a_unit(i, f"ro-{i % 10}") for i in range(100)])
    assert refused == dict.fromkeys(range(3, 100, 10), "rollout_unknown")
    assert stored == set(range(100)) - set(refused)
    assert (store.requests, store.searches) == (2, 1)


async def test_one_bad_call_among_many_is_found_in_few_requests_and_its_good_spans_are_kept() -> None:
    store = FakeStore()
    store.poison = {b"<ro/77/1>"}
    units = [a_unit(i, "ro") for i in range(128)]
    stored, refused = await send(store, units)
    assert refused == {77: "http_500"}
    assert stored == set(range(128)) - {77}
    assert units[77].delivered == {0, 2}
    assert store.requests < 30


async def test_a_store_that_is_away_is_waited_for_and_nothing_is_blamed() -> None:
    store = FakeStore()
    store.sick = 3
    assert await send(store, [a_unit(1, "ro")]) == ({1}, {})
    assert store.requests == 4


async def test_a_call_refused_alone_while_nothing_else_is_taken_is_not_blamed() -> None:
    store = FakeStore()
    store.poison = {b"<ro/1/0>", b"<ro/1/1>", b"<ro/1/2>"}
    (refusal,) = await Sender(store, CircuitBreaker(), ShipperCounters()).send([a_unit(1, "ro")], lambda _: None)
    assert not refusal.is_call_fault
