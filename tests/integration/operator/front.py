"""An HTTP proxy in front of the API server that does to an operator what networks and busy API servers do.

It cuts watches, delays, refuses, answers 409, and loses answers of requests that were carried out. Behind it is
`kubectl proxy`, which brings TLS and the account. It runs in a thread, so that a test may change `faults` at any time.
"""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import web

from e2e.kube import Kube

_OF_ONE_HOP = frozenset({"connection", "content-length", "host", "keep-alive", "transfer-encoding"})
_REASONS = {409: "Conflict", 429: "TooManyRequests", 503: "ServiceUnavailable"}


@dataclass(frozen=True)
class Fault:
    """Fault of a request."""

    status: int = 0
    """Answered so instead of by the API server; 0: it goes there."""
    again_s: int = 0
    """`Retry-After` of that answer."""
    delay_s: float = 0.0
    """Before anything else."""
    lose: bool = False
    """The API server gets it, and its answer does not come back."""
    until: threading.Event | None = None
    """It is held until this is set."""


Choose = Callable[[str, str], Fault | None]
"""What becomes of a request of this method to this path with its query; None: nothing happens to it."""


class Front:
    """The proxy. `faults` decides what becomes of each request."""

    def __init__(self, upstream: str) -> None:
        self.faults: Choose = lambda _method, _path: None
        self.done: Counter[str] = Counter()
        """How often which kind of fault came over a request."""
        self.held = 0
        """Requests that are held now."""
        self.port = 0
        self._upstream = upstream
        self._watches: set[asyncio.Transport] = set()
        self._stop = asyncio.Event()
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def start(self) -> None:
        """Listen on a port of loopback."""
        self._thread.start()
        assert self._up.wait(30)

    def end(self) -> None:
        """Stop listening."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    def cut(self) -> None:
        """End every open watch in the middle of whatever it says."""
        self._loop.call_soon_threadsafe(self._cut)

    def kubeconfig(self, path: Path) -> str:
        """Write a kubeconfig that leads here."""
        cluster = {"name": "front", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}
        context = {"name": "front", "context": {"cluster": "front", "user": "nobody"}}
        users = [{"name": "nobody", "user": {}}]
        text = {"apiVersion": "v1", "kind": "Config", "clusters": [cluster], "contexts": [context], "users": users}
        path.write_text(json.dumps({**text, "current-context": "front"}))
        return str(path)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as self._session:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.port = runner.addresses[0][1]
            self._up.set()
            await self._stop.wait()
            self._cut()
            await runner.cleanup()

    def _cut(self) -> None:
        for transport in self._watches:
            transport.abort()
            self.done["cut"] += 1
        self._watches.clear()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        fault = self.faults(request.method, request.path_qs) or Fault()
        if fault.delay_s:
            self.done["delay"] += 1
            await asyncio.sleep(fault.delay_s)
        if fault.until is not None:
            self.done["hold"] += 1
            self.held += 1
            await asyncio.to_thread(fault.until.wait)
            self.held -= 1
        if fault.status:
            self.done[str(fault.status)] += 1
            said = {"kind": "Status", "code": fault.status, "reason": _REASONS.get(fault.status, ""), "message": "so"}
            headers = {"Retry-After": str(fault.again_s)} if fault.again_s else {}
            return web.json_response(said, status=fault.status, headers=headers)
        return await self._forward(request, lose=fault.lose)

    async def _forward(self, request: web.Request, *, lose: bool) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OF_ONE_HOP}
        url = self._upstream + request.raw_path
        body = await request.read() or None  # an empty one would be given a type
        try:
            async with self._session.request(request.method, url, data=body, headers=headers) as answer:
                if lose:
                    self.done["lose"] += 1
                    await answer.read()
                    assert request.transport is not None
                    request.transport.abort()
                return await self._pass_on(request, answer)
        except aiohttp.ClientError as exc:
            return web.json_response({"kind": "Status", "code": 503, "message": str(exc)}, status=503)

    async def _pass_on(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        headers = {name: value for name, value in answer.headers.items() if name.lower() not in _OF_ONE_HOP}
        response = web.StreamResponse(status=answer.status, headers=headers)
        transport = request.transport
        with suppress(ConnectionError):  # who asked is gone, or was cut off
            await response.prepare(request)
            if "watch=true" in request.query_string and isinstance(transport, asyncio.Transport):
                self._watches.add(transport)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
        if isinstance(transport, asyncio.Transport):
            self._watches.discard(transport)
        return response


@contextmanager
def in_front(kube: Kube) -> Iterator[Front]:
    """Run a proxy in front of the API server until the block ends."""
    front = Front(kube.address)
    front.start()
    try:
        yield front
    finally:
        front.end()
