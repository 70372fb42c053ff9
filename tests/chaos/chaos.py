#!/usr/bin/env python3
"""Traffic with known ids through real processes while they are killed and the store breaks; at the end, a ledger.

    .venv/bin/python tests/chaos/chaos.py --seconds 300 --seed 1

Killed at random: the shipper (SIGKILL), and gateways (their connection cut, what they still held forgotten). The store
answers 503, stores and answers 500, hangs, and is slow. What counts as lost is a call that was acknowledged as durable
and is not in the store when all is over; a rollout that the store does not know is a column of its own.
"""

import argparse
import asyncio
import itertools
import logging
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import spanrig
from llmproxy import calls

ROLLOUTS = 40
UNKNOWN = "ro-unknown"
SETTLE_S = 60.0
FAULTS: tuple[dict[str, float], ...] = (
    {},
    {"unavailable": 0.3},
    {"lost_reply": 0.3},
    {"unavailable": 1.0},
    {"delay_s": 0.05},
    {"hang": 0.02, "unavailable": 0.1, "lost_reply": 0.1},
)
_NO_FAULTS = {"unavailable": 0.0, "lost_reply": 0.0, "hang": 0.0, "delay_s": 0.0}


@dataclass
class Ledger:
    """What came of it."""

    sent: int = 0
    answered: int = 0
    """Acknowledged as durable."""
    stored: int = 0
    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0
    late: int = 0
    """Sequenced after their end, because the store was away: their order is not known."""
    never_durable: int = 0
    """The gateway died first, or was told that they are refused."""
    unknown: int = 0
    """Acknowledged, of a rollout that the store does not know."""
    kept: int = 0
    """Of those, found in the spool at the end."""
    kills: int = 0
    cuts: int = 0
    repeats: int = 0
    """Spans that the store got again and absorbed."""

    def line(self) -> str:
        return (
            f"sent {self.sent}, answered {self.answered}, stored {self.stored}, lost {self.lost}, "
            f"doubled {self.doubled}, out of order {self.out_of_order}"
        )

    def more(self) -> str:
        return (
            f"sequenced late {self.late}, never durable {self.never_durable}, unknown rollout {self.unknown} "
            f"(all {self.kept} kept in the spool), shipper kills {self.kills}, gateway cuts {self.cuts}, "
            f"repeats absorbed {self.repeats}"
        )


@dataclass
class Sent:
    """Calls of one gateway, by name."""

    order: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    """By rollout and gateway: the calls in the order of their arrival. Two gateways have no order between them."""
    durable: set[str] = field(default_factory=set)
    total: int = 0

    @property
    def unknown(self) -> set[str]:
        """The calls of the rollout that the store does not know."""
        return {name for (rollout, _), names in self.order.items() if rollout == UNKNOWN for name in names}


async def run(folder: Path, seconds: float, seed: int) -> Ledger:
    """Break things for *seconds*, let them settle, and return the ledger."""
    rand = random.Random(seed)
    ledger, sent = Ledger(), Sent()
    with (
        spanrig.store_double(open_house=False) as store,
        spanrig.shipper(folder, store, flush_s=20.0) as shipper,
    ):
        store.post("/fake/start", [[f"ro-{i}", "at-1"] for i in range(ROLLOUTS)])
        end_s = time.monotonic() + seconds
        breaking = [break_store(store, rand, end_s), kill_shipper(shipper, rand, end_s, ledger)]
        driving = [drive(folder, random.Random(seed * 10 + i), end_s, sent, ledger) for i in range(2)]
        await asyncio.gather(*breaking, *driving)
        await asyncio.to_thread(store.faults, **_NO_FAULTS)
        await settle(store, shipper, sent)
        await asyncio.to_thread(shipper.end)
        balance(ledger, sent, await asyncio.to_thread(store.ledger))
        ledger.kept = await in_spool(folder)
    return ledger


async def break_store(store: spanrig.StoreDouble, rand: random.Random, end_s: float) -> None:
    while time.monotonic() < end_s:
        await asyncio.to_thread(store.faults, **{**_NO_FAULTS, **rand.choice(FAULTS)})
        await asyncio.sleep(rand.uniform(0.3, 1.5))


async def kill_shipper(shipper: spanrig.ShipperProcess, rand: random.Random, end_s: float, ledger: Ledger) -> None:
    while time.monotonic() < end_s:
        await asyncio.sleep(rand.uniform(0.2, 2.0))
        await asyncio.to_thread(shipper.kill)
        ledger.kills += 1
        await asyncio.to_thread(shipper.start)


async def drive(folder: Path, rand: random.Random, end_s: float, sent: Sent, ledger: Ledger) -> None:
    """Be one gateway after the other, each for some seconds."""
    while time.monotonic() < end_s:
        gateway = spanrig.Gateway(folder)
        until_s = min(end_s, time.monotonic() + rand.uniform(1.0, 5.0))
        tasks: set[asyncio.Task[None]] = set()
        while time.monotonic() < until_s:
            rollout = UNKNOWN if rand.random() < 0.02 else f"ro-{rand.randrange(ROLLOUTS)}"
            task = asyncio.ensure_future(one_call(gateway, rollout, rand, sent))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await asyncio.sleep(rand.expovariate(150))
        await asyncio.gather(*tasks)
        if rand.random() < 0.5:
            with_time = 0.0
            ledger.cuts += 1
        else:
            with_time = 10.0
        await gateway.handover.close(with_time)
        name = gateway.handover._gateway
        sent.durable |= {f"{name}/{i}" for i in gateway.sent if i not in gateway.handover._unacked}
        assert gateway.handover.refused == gateway.handover.dropped == 0


async def one_call(gateway: spanrig.Gateway, rollout: str, rand: random.Random, sent: Sent) -> None:
    handover = gateway.handover
    call_id = handover.new_id()
    sent.order[rollout, handover._gateway].append(f"{handover._gateway}/{call_id}")
    sent.total += 1
    handover.arrived(calls.Arrival(call_id, rollout, "at-1", time.time_ns()))
    await asyncio.sleep(rand.choice([0.0, 0.001, 0.02, 0.3]))
    size = rand.choice([0, 0, 0, 2_000, 50_000])
    response = spanrig.chat_response(f"chatcmpl-{handover._gateway}-{call_id}", size=size)
    call = spanrig.a_call(call_id, rollout, response=response)
    gateway.sent[call_id] = call
    handover.ended(call)


async def settle(store: spanrig.StoreDouble, shipper: spanrig.ShipperProcess, sent: Sent) -> None:
    """Wait until everything that will be stored is, or nothing has come for a while."""
    wanted = sent.durable - sent.unknown
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline:
        ledger = await asyncio.to_thread(store.ledger)
        if wanted <= {call[0] for call in ledger["calls"]}:
            return
        await asyncio.sleep(0.2)


def balance(ledger: Ledger, sent: Sent, found: spanrig.Json) -> None:
    """Compare what was sent with what is stored."""
    unknown = sent.unknown
    stored = Counter(call[0] for call in found["calls"])
    number = {call[0]: call[2] for call in found["calls"]}
    late = {call[0] for call in found["calls"] if call[4]}
    ledger.sent = sent.total
    ledger.answered = len(sent.durable)
    ledger.unknown = len(sent.durable & unknown)
    ledger.stored = len(stored)
    ledger.lost = len(sent.durable - unknown - set(stored))
    ledger.doubled = sum(count - 1 for count in stored.values())
    ledger.never_durable = sent.total - len(sent.durable)
    ledger.late = len(late)
    ledger.repeats = found["repeats"]
    for order in sent.order.values():
        numbers = [number[name] for name in order if name in number and name not in late]
        ledger.out_of_order += sum(a >= b for a, b in itertools.pairwise(numbers))


async def in_spool(folder: Path) -> int:
    """Return how many calls of the unknown rollout are still there, each counted once."""
    line = (sys.executable, "-m", "llmproxy.shipper", "inspect", "--calls", str(folder / "spool"))
    process = await asyncio.create_subprocess_exec(*line, stdout=asyncio.subprocess.PIPE)
    text, _ = await process.communicate()
    return len({part[4] for row in text.decode().splitlines() if len(part := row.split()) > 5 and part[2] == UNKNOWN})


def main() -> int:
    parser = argparse.ArgumentParser(description="Breaks things between gateway and store, and says what was lost.")
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    flags = parser.parse_args()
    logging.getLogger("llmproxy.handover").setLevel(logging.CRITICAL)  # it says each of our kills
    print(f"seed {flags.seed}, {flags.seconds:g} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        ledger = asyncio.run(run(Path(folder), flags.seconds, flags.seed))
    print(ledger.line())
    print(ledger.more())
    return 1 if ledger.lost or ledger.doubled or ledger.out_of_order else 0


if __name__ == "__main__":
    sys.exit(main())
