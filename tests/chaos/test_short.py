"""The short form of `make chaos`: the same program, seconds in place of minutes."""

from pathlib import Path

import pytest

import chaos.chaos


@pytest.mark.timeout(180)
async def test_nothing_acknowledged_is_lost_doubled_or_out_of_order(tmp_path: Path) -> None:
    ledger = await chaos.chaos.run(tmp_path, seconds=12.0, seed=4)
    print(ledger.line())
    print(ledger.more())
    assert (ledger.lost, ledger.doubled, ledger.out_of_order) == (0, 0, 0), ledger
    assert ledger.kept >= ledger.unknown > 0, ledger
    # Something was sent, and something was broken: a run in which nothing happened says nothing.
    assert ledger.answered > 500
    assert ledger.kills >= 3
    assert ledger.repeats > 0
