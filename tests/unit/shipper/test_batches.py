"""Splitting of refused batches."""

from deliveryrig import a_unit
from llmproxy.shipper.delivery.batches import by_group, split


def test_batches_are_cut_by_group_and_then_in_halves() -> None:
    units = [a_unit(i, f"ro-{i % 3}") for i in range(7)]
    assert [[u.record.call.call_id for u in g] for g in by_group(units)] == [[0, 3, 6], [1, 4], [2, 5]]
    assert [len(part) for part in split(units)] == [3, 4]
    assert [len(part) for part in split(units[:1])] == [1]


def test_only_spans_that_are_not_there_are_sent_again() -> None:
    unit = a_unit(1, "ro")
    unit.delivered = {0, 2}
    assert (unit.undelivered, unit.body) == ([1], b"<ro/1/1>")
