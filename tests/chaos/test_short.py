"""The short form of `make chaos`: the same program, seconds in place of minutes."""

import asyncio
import random
from pathlib import Path

import pytest

import chaos.chaos
from chaos.chaos import Callers, Ledger, balance
from chaos.tap import Heard


@pytest.mark.timeout(400)
async def test_nothing_acknowledged_is_lost_doubled_or_out_of_order(tmp_path: Path) -> None:
    ledger = await chaos.chaos.run(tmp_path, seconds=12.0, seed=4)
    print(ledger.line())
    print(ledger.more())
    assert (ledger.lost, ledger.doubled, ledger.out_of_order) == (0, 0, 0), ledger
    assert ledger.kept >= ledger.unknown > 0, ledger
    # Something was sent, and something was broken: a run in which nothing happened says nothing.
    assert ledger.stored > 100, ledger
    assert min(ledger.shipper_kills, ledger.gateway_kills, ledger.both_kills) >= 1, ledger


def test_the_ledger_sees_what_is_lost_doubled_or_out_of_order() -> None:
    living, dead = (Path("g0"), 1), (Path("g1"), 1)
    heard = Heard()
    names = [f"gw/{i}" for i in range(1, 6)]
    heard.order["ro-1", "gw"] = names
    heard.rollout = dict.fromkeys(names, "ro-1")
    heard.named = {b"<call-%d>" % i: f"gw/{i}" for i in range(1, 6)}
    heard.durable = {"gw/1", "gw/2", "gw/3"}
    callers = Callers(random.Random(1), asyncio.Event(), sent=6)
    # The first three were acknowledged. Of the others one gateway was killed, and the other has no excuse.
    callers.answered = {b"<call-%d>" % i: living for i in (1, 2, 3, 4)} | {b"<call-5>": dead, b"<call-6>": living}
    rows = [["gw/1", "ro-1", 2, "OK", False], ["gw/2", "ro-1", 1, "OK", False], ["gw/2", "ro-1", 1, "OK", False]]
    ledger = Ledger()
    balance(ledger, callers, heard, {dead}, {"calls": rows, "repeats": 0})
    assert ledger.line() == "sent 6, answered 6, stored 2, lost 3, doubled 1, out of order 1"
    assert ledger.never_durable == 1
