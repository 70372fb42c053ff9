"""A pod's limits without the rest of it: a process under load that writes down every admission.

It admits as fast as it may, some calls at a time, until SIGTERM, then ends in order. Each line of the file is one call:
`begin end tokens model`, by the machine's monotonic clock, so that processes can be compared.
"""

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from pathlib import Path
from typing import TextIO

import uvloop

from llmproxy import contract
from llmproxy.gateway.limits import Grant, Limiter, Rejection
from llmproxy.gateway.limits.limiter import RemoteLimiter
from llmproxy.gateway.limits.peers import election
from llmproxy.gateway.limits.snapshot import Snapshot
from llmproxy.gateway.limits.store.lease_limiter import LeaseLimiter
from llmproxy.gateway.limits.store.protocol import SCRIPT
from llmproxy.gateway.limits.store.redis_client import RedisChannel, StoreAddress


class Watched(Limiter):
    """Prints every change of who decides, however short it lasts."""

    @property
    def remote(self) -> RemoteLimiter | None:
        return self._remote

    @remote.setter
    def remote(self, remote: RemoteLimiter | None) -> None:
        self._remote = remote
        print(f"{time.monotonic():.3f} switched to {'others' if remote is not None else 'itself'}", flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--document", required=True)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--peers", default="")
    parser.add_argument("--store", default="", help="count there, and meet no peers")
    parser.add_argument("--max-pods", type=int, default=8)
    parser.add_argument("--token", default="secret")
    parser.add_argument("--id", default="pod")
    parser.add_argument("--snapshot", type=Path)
    parser.add_argument("--load", type=float, default=0.0, help="requests a second")
    parser.add_argument("--tokens", type=int, default=0)
    parser.add_argument("--lasts", type=float, default=0.0, help="seconds a call lasts, about")
    args = parser.parse_args()
    limiter = Watched(contract.parse(args.document))
    if args.store:
        await share(limiter, args)
        return
    peers = await election.serve(limiter, "127.0.0.1", args.port, args.token, args.id)
    snapshot = Snapshot(limiter, args.snapshot) if args.snapshot else None
    if snapshot is not None:
        snapshot.restore()
    before = time.monotonic()
    await peers.take_over([address for address in args.peers.split(",") if address])
    if snapshot is not None:
        snapshot.start()
    print(f"ready on :{peers.port} {limiter.mode} after {time.monotonic() - before:.3f} s", flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    with args.record.open("w", buffering=1) as record:
        load = asyncio.create_task(drive(limiter, record, args))
        tell = asyncio.create_task(report(limiter, peers))
        await ended.wait()
        load.cancel()
        tell.cancel()
        await asyncio.wait([load, tell])
    if snapshot is not None:
        await snapshot.stop()
    await peers.close()
    print("ended", flush=True)


async def share(limiter: Limiter, args: argparse.Namespace) -> None:
    """Count in a store until SIGTERM."""
    shared = LeaseLimiter(
        limiter, RedisChannel(StoreAddress(args.store), SCRIPT), uid="uid", pod=args.id, max_pods=args.max_pods
    )
    await shared.start()
    print(f"ready on :0 {limiter.mode}", flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    with args.record.open("w", buffering=1) as record:
        tasks = [
            asyncio.create_task(drive(limiter, record, args)),
            asyncio.create_task(modes(limiter)),
            asyncio.create_task(stalls(record)),
        ]
        await ended.wait()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    await shared.close()
    print(f"ended calls {shared.stats.calls} cuts {shared.stats.disconnects}", flush=True)


async def modes(limiter: Limiter) -> None:
    """Print the mode whenever it changes."""
    last = ""
    while True:
        if limiter.mode != last:
            last = limiter.mode
            print(f"{time.monotonic():.3f} mode {last}", flush=True)
        await asyncio.sleep(0.005)


async def stalls(record: TextIO) -> None:
    """Write down when this process could not run: whoever waited then waited for the machine."""
    while True:
        before = time.monotonic()
        await asyncio.sleep(0.005)
        now = time.monotonic()
        if now - before > 0.007:
            record.write(json.dumps({"stalled": before, "until": now}) + "\n")


async def report(limiter: Limiter, peers: election.Peers) -> None:
    """Print who leads whenever that changes."""
    last = ""
    while True:
        now = f"leader {peers.leader} mode {limiter.mode} peers {len(peers.peers)}"
        if now != last:
            print(f"{time.monotonic():.3f} {now}", flush=True)
            last = now
        await asyncio.sleep(0.01)


async def drive(limiter: Limiter, record: TextIO, args: argparse.Namespace) -> None:
    """Ask at a steady rate, whatever the answers."""
    if not args.load:
        return
    models = list(limiter.counters.models)
    running: set[asyncio.Task[None]] = set()
    start, number = time.monotonic(), 0
    try:
        while True:
            while number < (time.monotonic() - start) * args.load:
                number += 1
                task = asyncio.create_task(call(limiter, record, models[number % len(models)], args))
                running.add(task)
                task.add_done_callback(running.discard)
            await asyncio.sleep(0.002)
    finally:
        if running:
            await asyncio.wait(running, timeout=5)


async def call(limiter: Limiter, record: TextIO, model: str, args: argparse.Namespace) -> None:
    asked = time.monotonic()
    decision = limiter.admit(model, args.tokens)
    if not isinstance(decision, Grant | Rejection):
        decision = await decision
    begin = time.monotonic()
    if isinstance(decision, Rejection):
        record.write(json.dumps({"asked": asked, "rejected": begin, "retry": decision.retry_after_s}) + "\n")
        return
    record.write(json.dumps({"asked": asked, "begin": begin, "model": model, "tokens": args.tokens}) + "\n")
    if args.lasts:
        await asyncio.sleep(random.uniform(0.5, 1.5) * args.lasts)
    decision.release()
    record.write(json.dumps({"end": time.monotonic(), "began": begin}) + "\n")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the gateway does
        sys.exit(runner.run(main()))
