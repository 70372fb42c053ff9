"""`make soak`: mixed traffic for minutes, and whether anything grows, leaks or hangs meanwhile.

Plain answers and streams, OpenAI's protocol and Anthropic's, errors of model servers and of callers, callers that leave
in the middle, rollouts whose spans go to a store's double. Each row of the table is a look at gateway and shipper; the
verdicts at the end are about the last three quarters of the time, for a process grows while it warms up.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
import procs
import spanrig

WORKERS = 12
PAUSE_S = 0.08
"""Between two calls of a worker, on average: it is about hours of use, not about speed."""
HUNG_S = 60.0
LOOK_S = 2.0
WARM = 0.25
"""Share of the time after which growth counts."""
GROWTH_BYTES = 4 << 20
"""What the fitted line may rise over the time that counts."""
WINDOWS = 15
SETTLE_S = 60.0
MODEL = "phi"


@dataclass
class Look:
    """One sample."""

    at_s: float
    gateway_bytes: int
    shipper_bytes: int
    gateway_fds: int
    shipper_fds: int


@dataclass
class Result:
    """What came of it."""

    seconds: float
    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Calls by kind and how they ended."""
    wrong: list[str] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    rollout_calls: int = 0
    stored: int = 0
    fds: tuple[int, int] = (0, 0)
    """Of the gateway before the first call, and after the last."""

    def growth(self, which: str) -> float:
        """Return how much the line through what *which* keeps rises over the time that counts, in bytes.

        Batches come and go with the load, so a look alone says little: what is kept is the least of each window.
        """
        looks = [look for look in self.looks if look.at_s >= WARM * self.seconds]
        size = max(1, len(looks) // WINDOWS)
        least = [min(looks[i : i + size], key=lambda o: memory(o, which)) for i in range(0, len(looks), size)]
        if len(least) < 3:
            return 0.0
        xs, ys = [look.at_s for look in least], [memory(look, which) for look in least]
        return slope(xs, ys) * (xs[-1] - xs[0])

    def peak(self, which: str) -> float:
        """Return the most memory that *which* was seen with, in bytes."""
        return max((memory(look, which) for look in self.looks), default=0.0)


def memory(look: Look, which: str) -> float:
    """Return the memory of gateway or shipper."""
    return float(look.gateway_bytes if which == "gateway" else look.shipper_bytes)


def slope(xs: list[float], ys: list[float]) -> float:
    """Return the slope of the line of least squares."""
    middle_x, middle_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - middle_x) ** 2 for x in xs)
    return sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys, strict=True)) / spread


class Traffic:
    """Workers that call until the time is up."""

    def __init__(self, url: str, result: Result, seed: int) -> None:
        self._url = url
        self._result = result
        self._random = random.Random(seed)
        self._number = 0
        self._kinds: list[Callable[[aiohttp.ClientSession, str], Awaitable[str]]] = [
            self._plain, self._plain, self._stream, self._stream, self._anthropic, self._anthropic_stream,
            self._upstream_error, self._caller_error, self._leaves,
        ]  # fmt: skip

    async def run(self, until_s: float) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=HUNG_S)) as session:
            await asyncio.gather(*(self._work(session, until_s) for _ in range(WORKERS)))

    async def _work(self, session: aiohttp.ClientSession, until_s: float) -> None:
        while time.monotonic() < until_s:
            call = self._random.choice(self._kinds)
            name = call.__name__.lstrip("_")
            self._number += 1
            rollout = f"/rollout/ro-{self._number // 8}/attempt/at-1" if self._random.random() < 0.6 else ""
            try:
                outcome = await call(session, self._url + rollout)
            except TimeoutError:
                outcome = "hung"
            except aiohttp.ClientError as exc:
                outcome = f"failed: {exc!r}"
            self._result.ended[name, outcome] += 1
            if outcome != "as expected":
                self._result.wrong.append(f"{name}: {outcome}")
            elif rollout and call != self._caller_error:  # an unknown model's is no call
                self._result.rollout_calls += 1
            await asyncio.sleep(self._random.uniform(0, 2 * PAUSE_S))

    async def _plain(self, session: aiohttp.ClientSession, url: str) -> str:
        return await self._whole(
            session, f"{url}/v1/chat/completions", self._body("word " * self._random.randint(1, 400)), 200
        )

    async def _anthropic(self, session: aiohttp.ClientSession, url: str) -> str:
        return await self._whole(session, f"{url}/v1/messages", self._body("word " * self._random.randint(1, 400)), 200)

    async def _upstream_error(self, session: aiohttp.ClientSession, url: str) -> str:
        return await self._whole(session, f"{url}/v1/chat/completions", self._body(told(status=400)), 400)

    async def _caller_error(self, session: aiohttp.ClientSession, url: str) -> str:
        return await self._whole(session, f"{url}/v1/chat/completions", {**self._body("x"), "model": "none"}, 404)

    async def _stream(self, session: aiohttp.ClientSession, url: str) -> str:
        return await self._parts(session, f"{url}/v1/chat/completions", b"data: [DONE]\n\n")

    async def _anthropic_stream(self, session: aiohttp.ClientSession, url: str) -> str:
        return await self._parts(session, f"{url}/v1/messages", b'{"type":"message_stop"}\n\n')

    async def _leaves(self, session: aiohttp.ClientSession, url: str) -> str:
        """Hang up after the first part of a stream that would go on for ten seconds."""
        body = {**self._body(told(chunks=100, chunk_ms=100)), "stream": True}
        async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
            await answer.content.readany()
            answer.close()
        return "as expected" if answer.status == 200 else f"status {answer.status}"

    async def _whole(self, session: aiohttp.ClientSession, url: str, body: dict[str, object], status: int) -> str:
        async with session.post(url, json=body) as answer:
            await answer.read()
        return "as expected" if answer.status == status else f"status {answer.status}"

    async def _parts(self, session: aiohttp.ClientSession, url: str, end: bytes) -> str:
        body = {**self._body(told(chunks=self._random.randint(2, 40), chunk_ms=5)), "stream": True}
        async with session.post(url, json=body) as answer:
            text = await answer.read()
        return "as expected" if text.endswith(end) else f"a stream that ends with {text[-60:]!r}"

    @staticmethod
    def _body(text: str) -> dict[str, object]:
        return {"model": MODEL, "max_tokens": 500, "messages": [{"role": "user", "content": text}]}


def told(**directive: object) -> str:
    """Return what has the echo server behave in a certain way."""
    return json.dumps({"echo": directive})


def look(at_s: float, gateway: procs.Process, shipper: procs.Process) -> Look:
    return Look(at_s, gateway.rss_bytes, shipper.rss_bytes, fds(gateway), fds(shipper))


def fds(process: procs.Process) -> int:
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


def metric(port: int, name: str) -> float:
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30).read().decode()
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))
    )


def write_document(file: Path, echo_port: int, store_url: str) -> None:
    there = {
        "id": "phi/0",
        "model": "hosted_vllm/phi-2",
        "api_base": f"http://127.0.0.1:{echo_port}/v1",
        "token_ids": True,
    }
    document = {
        "version": 1,
        "proxy": {"name": "soak", "namespace": "test"},
        "models": [{"name": MODEL, "deployments": [there]}],
        "rate_limits": {"rpm": 1_000_000, "tpm": 1_000_000_000, "max_parallel": 1000},
        "spans": {"store": store_url},
    }
    file.write_text(json.dumps(document))


async def run(folder: Path, seconds: float, seed: int, say: Callable[[str], None]) -> Result:
    """Run it in *folder*; return what came of it."""
    result = Result(seconds)
    flags = ("--run-dir", str(folder), "--host", "127.0.0.1", "--port", "0", "--admin-host", "127.0.0.1")
    with (
        procs.running("llmproxy.echo", "--port", "0", ready="ready on") as echo,
        spanrig.store_double() as store,
        spanrig.shipper(folder, store) as shipper,
    ):
        write_document(folder / "gateway.json", echo.port, store.url)
        line = ("llmproxy.gateway", "--config", str(folder / "gateway.json"), *flags, "--admin-port", "0")
        with procs.running(*line, ready='"gateway_ready"') as gateway:
            assert shipper.process is not None
            ready = json.loads(gateway.ready_line)
            traffic = Traffic(f"http://127.0.0.1:{ready['port']}", result, seed)
            before = fds(gateway)
            await _watched(traffic, result, gateway, shipper.process, say)
            await _settled(result, ready["admin_port"], store)
            result.fds = (before, fds(gateway))
            for process in (gateway, shipper.process):
                lines = [json.loads(text) for text in process.output.splitlines() if text.startswith("{")]
                result.problems += [str(event) for event in lines if event["level"] in {"error", "critical"}]
    return result


async def _watched(
    traffic: Traffic, result: Result, gateway: procs.Process, shipper: procs.Process, say: Callable[[str], None]
) -> None:
    began_s = time.monotonic()
    calling = asyncio.ensure_future(traffic.run(began_s + result.seconds))
    say(f"{'s':>6} {'calls':>8} {'wrong':>6} {'gateway':>10} {'shipper':>10} {'files':>7}")
    told_s = 0.0
    while not calling.done():
        await asyncio.wait({calling}, timeout=LOOK_S)
        at_s = time.monotonic() - began_s
        if at_s > result.seconds:
            break
        now = look(at_s, gateway, shipper)
        result.looks.append(now)
        if at_s >= told_s:
            told_s += max(LOOK_S, result.seconds / 20)
            memory = f"{now.gateway_bytes / 2**20:>7.1f} MB {now.shipper_bytes / 2**20:>7.1f} MB"
            calls = sum(result.ended.values())
            say(f"{at_s:>6.0f} {calls:>8} {len(result.wrong):>6} {memory} {now.gateway_fds:>3}/{now.shipper_fds}")
    await calling


async def _settled(result: Result, admin_port: int, store: spanrig.StoreDouble) -> None:
    """Wait until nothing is in flight and every rollout's call is stored."""
    deadline_s = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline_s:
        await asyncio.sleep(1)
        in_flight = await asyncio.to_thread(metric, admin_port, "llmproxy_requests_in_flight")
        backlog = await asyncio.to_thread(metric, admin_port, "llmproxy_records_pending")
        result.stored = len({call[0] for call in (await asyncio.to_thread(store.ledger))["calls"]})
        if not in_flight and not backlog and result.stored >= result.rollout_calls:
            return
    result.problems.append(f"not settled: {in_flight:g} in flight, {backlog:g} not durable, {result.stored} stored")


def verdicts(result: Result, growth_bytes: float) -> list[tuple[bool, str]]:
    """Return what held and what did not."""
    hung = sum(1 for what in result.wrong if what.endswith("hung"))
    before, after = result.fds
    made = [
        (not result.wrong, f"{sum(result.ended.values())} calls, {len(result.wrong)} not as expected, {hung} hung"),
        (not result.problems, f"{len(result.problems)} errors in logs or at the end"),
        (
            after <= before + WORKERS,
            f"gateway's open files: {before} before, {after} after; at most {WORKERS} kept upstreams",
        ),
        (
            result.stored >= result.rollout_calls,
            f"{result.stored} calls of rollouts in the store, of {result.rollout_calls}",
        ),
    ]
    for which in ("gateway", "shipper"):
        grown = result.growth(which)
        text = (
            f"{which}'s memory: {grown / 2**20:+.2f} MB over the last three quarters, "
            f"at most {growth_bytes / 2**20:g}; peak {result.peak(which) / 2**20:.1f} MB"
        )
        made.append((grown <= growth_bytes, text))
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description="Mixed traffic for minutes: does anything grow, leak or hang?")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args()
    print(f"seed {given.seed}, {given.seconds:g} s, {WORKERS} callers", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        result = asyncio.run(run(Path(folder), given.seconds, given.seed, lambda text: print(text, flush=True)))
    for (name, outcome), count in sorted(result.ended.items()):
        print(f"  {name:<18} {outcome:<14} {count:>7}")
    found = verdicts(result, GROWTH_BYTES)
    for held, text in found:
        print(f"{'PASS' if held else 'FAIL'}  {text}")
    for text in [*result.wrong[:5], *result.problems[:5]]:
        print(f"      {text}")
    return 0 if all(held for held, _ in found) else 1


if __name__ == "__main__":
    sys.exit(main())
