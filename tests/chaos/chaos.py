#!/usr/bin/env python3
"""Traffic with known ids through real processes while they are killed and the store breaks; at the end, a ledger.

    .venv/bin/python tests/chaos/chaos.py --seconds 300 --seed 1

Callers speak HTTP to two gateways before an echo server, plain and streamed. Killed at random, with SIGKILL: the
shipper, a gateway, or both at once. The store answers 503, stores and answers 500, hangs, and is slow. A tap on the
wire between gateways and shipper knows what was acknowledged as durable: what of that is not in the store when all is
over is lost, and so is an answered call that its gateway, which lived on, never handed over. A rollout that the store
does not know is a column of its own. It says how far it is, and ends within SETTLE_S after the last kill.
"""

import argparse
import asyncio
import contextlib
import itertools
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import procs
import spanrig
from chaos.tap import Heard, Tap

ROLLOUTS = 40
UNKNOWN = "ro-unknown"
GATEWAYS = 2
CALLERS = 8
"""Of each gateway."""
PAUSE_S = 0.05
"""Between two calls of a caller, on average."""
SETTLE_S = 90.0
SAY_S = 20.0
"""Between two lines of progress."""
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
    """Their caller had the whole answer."""
    stored: int = 0
    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0
    durable: int = 0
    """Acknowledged on the wire."""
    late: int = 0
    """Sequenced after their end, because the store was away: their order is not known."""
    never_durable: int = 0
    """Answered, and the gateway was killed before the shipper had it on disk."""
    unknown: int = 0
    """Acknowledged, of a rollout that the store does not know."""
    kept: int = 0
    """Of those, found in the spool at the end."""
    shipper_kills: int = 0
    gateway_kills: int = 0
    both_kills: int = 0
    repeats: int = 0
    """Spans that the store got again and absorbed."""

    def line(self) -> str:
        return (
            f"sent {self.sent}, answered {self.answered}, stored {self.stored}, lost {self.lost}, "
            f"doubled {self.doubled}, out of order {self.out_of_order}"
        )

    def more(self) -> str:
        return (
            f"durable {self.durable}, sequenced late {self.late}, answered and never durable {self.never_durable}, "
            f"unknown rollout {self.unknown} (all {self.kept} kept in the spool), killed: shipper "
            f"{self.shipper_kills}, gateway {self.gateway_kills}, both at once {self.both_kills}; "
            f"repeats absorbed {self.repeats}"
        )


class GatewayProcess:
    """A gateway that can be killed and started again at the same address."""

    def __init__(self, folder: Path, heard: Heard, shipper: Path, document: str) -> None:
        folder.mkdir()
        (folder / "config.json").write_text(document)
        self.tap = Tap(heard, folder / "shipper.sock", shipper)
        self.life = 0
        """Counts the processes there were here."""
        self.killed: set[tuple[Path, int]] = set()
        """Those that were."""
        self._ports = [procs.free_port() for _ in range(3)]
        self._folder = folder
        self._process: procs.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def who(self) -> tuple[Path, int]:
        """What names the process."""
        return self._folder, self.life

    def start(self) -> None:
        self.life += 1
        port, admin, peer = map(str, self._ports)
        files = ("--config", str(self._folder / "config.json"), "--run-dir", str(self._folder))
        flags = ("--host", "127.0.0.1", "--port", port, "--admin-host", "127.0.0.1", "--admin-port", admin)
        self._process = procs.started("llmproxy.gateway", *files, *flags, "--peer-port", peer)
        self._process.wait_for('"gateway_ready"')

    def kill(self) -> None:
        assert self._process is not None
        self.killed.add(self.who)
        self._process.popen.kill()
        self._process.end()

    def end(self) -> None:
        if self._process is not None:
            self._process.end()


@dataclass
class Callers:
    """Those that call, and what they saw."""

    rand: random.Random
    ended: asyncio.Event
    sent: int = 0
    answered: dict[bytes, tuple[Path, int]] = field(default_factory=dict)
    """Marks of the calls whose whole answer was read, and which process answered."""
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    async def run(self, gateway: GatewayProcess) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
            await asyncio.gather(*(self._calling(session, gateway) for _ in range(CALLERS)))

    async def _calling(self, session: aiohttp.ClientSession, gateway: GatewayProcess) -> None:
        while not self.ended.is_set():
            await self._call(session, gateway)
            await asyncio.sleep(self.rand.expovariate(1 / PAUSE_S))

    async def _call(self, session: aiohttp.ClientSession, gateway: GatewayProcess) -> None:
        rollout = UNKNOWN if self.rand.random() < 0.02 else f"ro-{self.rand.randrange(ROLLOUTS)}"
        mark = b"<call-%d>" % next(self.numbers)
        text = mark.decode() + "x" * self.rand.choice([0, 0, 0, 2_000, 50_000])
        body = {"model": "phi", "messages": [{"role": "user", "content": text}], "stream": self.rand.random() < 0.3}
        self.sent += 1
        who = gateway.who
        try:
            at = f"{gateway.url}/rollout/{rollout}/attempt/at-1/v1/chat/completions"
            async with session.post(at, json=body) as answer:
                data = await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError):
            await asyncio.sleep(0.2)  # its gateway was killed, or is not there yet
            return
        assert answer.status == 200, data[:300]
        if not body["stream"] or data.rstrip().endswith(b"[DONE]"):
            self.answered[mark] = who


async def run(folder: Path, seconds: float, seed: int) -> Ledger:
    """Break things for *seconds*, let them settle, and return the ledger."""
    rand = random.Random(seed)
    ledger, heard = Ledger(), Heard()
    with (
        procs.running("llmproxy.echo", "--port", "0", ready="ready on") as echo,
        spanrig.store_double(open_house=False) as store,
        spanrig.shipper(folder, store, flush_s=20.0) as shipper,
    ):
        store.post("/fake/start", [[f"ro-{i}", "at-1"] for i in range(ROLLOUTS)])
        told = (folder / "config.json").read_text().replace(spanrig.NOWHERE, f"http://127.0.0.1:{echo.port}/v1")
        at = folder / "shipper.sock"
        gateways = [GatewayProcess(folder / f"g{i}", heard, at, told) for i in range(GATEWAYS)]
        try:
            for gateway in gateways:
                await gateway.tap.listen()
                await asyncio.to_thread(gateway.start)
            callers = Callers(random.Random(seed + 1), asyncio.Event())
            tasks = [*(callers.run(gateway) for gateway in gateways), break_store(store, rand, callers.ended)]
            running = asyncio.gather(*tasks, say(callers, heard, ledger))
            await kill(shipper, gateways, rand, seconds, ledger)
            callers.ended.set()
            await running
            await asyncio.to_thread(store.faults, **_NO_FAULTS)
        finally:
            for gateway in gateways:
                await asyncio.to_thread(gateway.end)
                gateway.tap.close()
        await settle(store, heard)
        await asyncio.to_thread(shipper.end)
        killed = set().union(*(gateway.killed for gateway in gateways))
        balance(ledger, callers, heard, killed, await asyncio.to_thread(store.ledger))
        ledger.kept = await in_spool(folder)
    return ledger


async def break_store(store: spanrig.StoreDouble, rand: random.Random, ended: asyncio.Event) -> None:
    while not ended.is_set():
        await asyncio.to_thread(store.faults, **{**_NO_FAULTS, **rand.choice(FAULTS)})
        await asyncio.sleep(rand.uniform(0.3, 1.5))


async def say(callers: Callers, heard: Heard, ledger: Ledger) -> None:
    """Print how far it is, until callers have ended."""
    began_s = time.monotonic()
    while not callers.ended.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(callers.ended.wait(), SAY_S)
        kills = ledger.shipper_kills + ledger.gateway_kills + ledger.both_kills
        told = f"sent {callers.sent}, answered {len(callers.answered)}, durable {len(heard.durable)}, {kills} kills"
        print(f"  {time.monotonic() - began_s:.0f} s: {told}", flush=True)


async def kill(
    shipper: spanrig.ShipperProcess, gateways: list[GatewayProcess], rand: random.Random, seconds: float, ledger: Ledger
) -> None:
    """Kill one after the other and both together for *seconds*, and each at least once however slow the machine."""
    end_s = time.monotonic() + seconds
    for victims in itertools.cycle(("shipper", "gateway", "both")):
        await asyncio.sleep(rand.uniform(0.3, 2.0))
        if time.monotonic() >= end_s and ledger.both_kills:
            return
        chosen: list[spanrig.ShipperProcess | GatewayProcess] = []
        if victims != "gateway":
            chosen.append(shipper)
        if victims != "shipper":
            chosen.append(rand.choice(gateways))
        ledger.shipper_kills += victims == "shipper"
        ledger.gateway_kills += victims == "gateway"
        ledger.both_kills += victims == "both"
        await asyncio.gather(*(asyncio.to_thread(one.kill) for one in chosen))
        await asyncio.gather(*(asyncio.to_thread(one.start) for one in chosen))


async def settle(store: spanrig.StoreDouble, heard: Heard) -> None:
    """Wait until everything that will be stored is, at most SETTLE_S, and say what is missing meanwhile."""
    wanted = {name for name in heard.durable if heard.rollout.get(name) != UNKNOWN}
    began_s = said_s = time.monotonic()
    while missing := wanted - {call[0] for call in (await asyncio.to_thread(store.ledger))["calls"]}:
        now_s = time.monotonic()
        if now_s - said_s >= SAY_S:
            said_s = now_s
            print(f"  settling for {now_s - began_s:.0f} s: {len(missing)} of {len(wanted)} not stored yet", flush=True)
        if now_s - began_s >= SETTLE_S:
            print(f"  not stored after {SETTLE_S:g} s: {sorted(missing)[:10]} and so on", flush=True)
            return
        await asyncio.sleep(0.5)
    print(f"  settled in {time.monotonic() - began_s:.1f} s", flush=True)


def balance(ledger: Ledger, callers: Callers, heard: Heard, killed: set[tuple[Path, int]], found: spanrig.Json) -> None:
    """Compare what was sent, answered and acknowledged with what is stored."""
    unknown = {name for name, rollout in heard.rollout.items() if rollout == UNKNOWN}
    stored = Counter(call[0] for call in found["calls"])
    number = {call[0]: call[2] for call in found["calls"]}
    late = {call[0] for call in found["calls"] if call[4]}
    never = [who for mark, who in callers.answered.items() if heard.named.get(mark) not in heard.durable | set(stored)]
    ledger.sent = callers.sent
    ledger.answered = len(callers.answered)
    ledger.durable = len(heard.durable)
    ledger.unknown = len(heard.durable & unknown)
    ledger.stored = len(stored)
    ledger.never_durable = sum(who in killed for who in never)
    ledger.lost = len(heard.durable - unknown - set(stored)) + len(never) - ledger.never_durable + len(heard.refused)
    ledger.doubled = sum(count - 1 for count in stored.values())
    ledger.late = len(late)
    ledger.repeats = found["repeats"]
    for order in heard.order.values():
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
    print(f"seed {flags.seed}, {flags.seconds:g} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        ledger = asyncio.run(run(Path(folder), flags.seconds, flags.seed))
    print(ledger.line())
    print(ledger.more())
    return 1 if ledger.lost or ledger.doubled or ledger.out_of_order else 0


if __name__ == "__main__":
    sys.exit(main())
