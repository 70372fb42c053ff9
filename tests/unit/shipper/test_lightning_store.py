"""Meaning of a store's statuses."""

import pytest

from llmproxy.shipper.delivery.http_client import Answer, Outcome, verdict
from llmproxy.shipper.delivery.lightning_store import FAULTS


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Outcome.ACCEPTED),
        (201, Outcome.ACCEPTED),
        (500, Outcome.REFUSED),
        (400, Outcome.REFUSED),
        (413, Outcome.REFUSED),
        (422, Outcome.REFUSED),
        (404, Outcome.UNAVAILABLE),
        (401, Outcome.UNAVAILABLE),
        (429, Outcome.UNAVAILABLE),
        (502, Outcome.UNAVAILABLE),
        (503, Outcome.UNAVAILABLE),
        (504, Outcome.UNAVAILABLE),
        (302, Outcome.UNAVAILABLE),
    ],
)
def test_only_what_may_be_the_batchs_fault_is_a_refusal(status: int, outcome: Outcome) -> None:
    assert verdict(Answer(status, "", "", b""), "spans.store", FAULTS, strict=True).outcome is outcome
