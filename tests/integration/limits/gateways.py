"""Whole gateways under load, each admission bracketed from outside: it lies between the sending of a request and the
arrival at the upstream of what the gateway made of it. Both are read off one clock, that of this process.

Open loop: requests go out at a steady rate, whatever becomes of those before.
"""

import asyncio
import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

import uvloop

from integration.gateway.conftest import Gateway, command, deployment, document
from procs import Process, started

KEPT = 64
"""Connections of the load to one gateway, at most: as many calls run at one time."""
_ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "there",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
).encode()


class Traffic:
    """The upstream and all load, in a thread of its own."""

    def __init__(self) -> None:
        self.port = 0
        self.sent: dict[str, float] = {}
        """When each call was sent, by its id, which begins with its gateway's."""
        self.arrived: dict[str, float] = {}
        self.statuses: dict[str, dict[int, int]] = {}
        """Answers of each gateway by status; 0 for none."""
        self._writers: list[asyncio.StreamWriter] = []
        self._loop: asyncio.AbstractEventLoop
        self._ended: asyncio.Event
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @contextmanager
    def running(self) -> Iterator["Traffic"]:
        """Serve for a block."""
        self._thread.start()
        assert self._ready.wait(10)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join()

    def load(self, name: str, port: int, rate: float, lasts_s: float) -> Callable[[], object]:
        """Send to a gateway until what is returned is called."""
        return asyncio.run_coroutine_threadsafe(self._send_all(name, port, rate, lasts_s), self._loop).cancel

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._ended.wait()
        server.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                body = json.loads(await _message(reader))
                ident, lasts_s = body["user"].split(" ")
                self.arrived[ident] = time.monotonic()
                await asyncio.sleep(float(lasts_s))
                head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
                writer.write(head % len(_ANSWER) + _ANSWER)
        writer.close()

    async def _connect(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        self._writers.append(writer)
        return reader, writer

    async def _send_all(self, name: str, port: int, rate: float, lasts_s: float) -> None:
        idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        gate = asyncio.Semaphore(KEPT)
        statuses = self.statuses.setdefault(name, {})
        began_s, number = time.monotonic(), 0
        running: set[asyncio.Task[None]] = set()

        async def one(ident: str) -> None:
            asked = {"model": "echo", "user": f"{ident} {lasts_s}", "messages": [{"role": "user", "content": "hi"}]}
            body = json.dumps(asked).encode()
            async with gate:
                status = 0
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    ways = idle.pop() if idle else await self._connect(port)
                    self.sent[ident] = time.monotonic()
                    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-length: %d\r\n\r\n"
                    ways[1].write(head % len(body) + body)
                    status = int((await _message(ways[0], keep_head=True))[9:12])
                    idle.append(ways)
                statuses[status] = statuses.get(status, 0) + 1

        while True:
            while number < (time.monotonic() - began_s) * rate:
                number += 1
                task = asyncio.create_task(one(f"{name}-{number}"))
                running.add(task)
                task.add_done_callback(running.discard)
            await asyncio.sleep(0.002)


async def _message(reader: asyncio.StreamReader, *, keep_head: bool = False) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    body = await reader.readexactly(int(found[1]) if found else 0)
    return head if keep_head else body


class Whole:
    """One gateway, with the interface of `pods.Pod` that the checks of windows need."""

    def __init__(self, name: str, process: Process, traffic: Traffic, rate: float, lasts_s: float) -> None:
        self.name = name
        self.process = process
        self._traffic = traffic
        self._told = (rate, lasts_s)
        self._stop: Callable[[], object] | None = None

    def wait_ready(self) -> None:
        """Wait until it serves, then send."""
        self._stop = self._traffic.load(self.name, Gateway(self.process).port, *self._told)

    def end(self) -> int:
        """Send no more, and end it in order."""
        if self._stop is not None:
            self._stop()
        return self.process.end()

    def modes(self) -> list[tuple[float, str]]:
        """When it began to count how, by the machine's monotonic clock."""
        ahead_s = time.time() - time.monotonic()
        found = [(0.0, "")]
        for line in self.process.output.splitlines():
            if '"limits_store_connected"' in line or '"limits_store_disconnected"' in line:
                said = json.loads(line)
                at_s = datetime.fromisoformat(said["time"]).timestamp() - ahead_s
                found.append((at_s, "shared" if said["event"] == "limits_store_connected" else "offline_quota"))
        return found

    def admitted_between(self) -> list[tuple[float, float]]:
        """From when to when each admission can have been."""
        mine = [(ident, at) for ident, at in list(self._traffic.arrived.items()) if ident.startswith(f"{self.name}-")]
        return [(self._traffic.sent[ident], at) for ident, at in mine]


class Gateways:
    """The gateways of one test, with the interface of `pods.Pods`."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._traffic = stack.enter_context(Traffic().running())
        self.all: list[Whole] = []

    def start(self, *, limits: dict[str, int], store: str, load: float, lasts: float) -> Whole:
        """Start one."""
        name = f"gateway{len(self.all)}"
        folder = self._folder / name
        folder.mkdir()
        told = document(
            deployment(self._traffic.port),
            rate_limits=limits,
            shared_limits={"url_env": "STORE", "scope": "uid", "max_pods": 8},
        )
        process = started(*command(folder, told), env={"STORE": store, "POD_UID": name})
        self._stack.callback(process.end)
        whole = Whole(name, process, self._traffic, load, lasts)
        self.all.append(whole)
        return whole

    def statuses(self, without: Whole) -> dict[int, int]:
        """Return the answers by status, of all but one."""
        made: dict[int, int] = {}
        for name, found in self._traffic.statuses.items():
            for status, count in found.items() if name != without.name else ():
                made[status] = made.get(status, 0) + count
        return made
