"""The caller's end of one call: reads the body, writes the answer, notices when the caller has left."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from llmproxy.gateway.errors import CallError, Header, TooLargeError

WATCH_AFTER_S = 0.2
"""Calls that are done by then pay nothing for being watched; a caller who leaves is noticed well within a second."""


class CallerGoneError(Exception):
    """The caller closed its connection before the answer's end."""


class Caller:
    """ASGI's receive and send for one request."""

    __slots__ = ("_closing", "_receive", "_send", "_task", "_timer", "gone", "on_gone", "started")

    def __init__(
        self, receive: Callable[[], Any], send: Callable[[dict[str, Any]], Any], closing: Sequence[Header] = ()
    ) -> None:
        """*closing* are headers that go with every answer; they may come and go."""
        self._closing = closing
        self._receive = receive
        self._send = send
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self.gone = False
        self.started = False
        """Whether the answer's head has been sent: after it there is no other answer."""
        self.on_gone: Callable[[], None] | None = None
        """Called once when the caller leaves: gives the upstream call up."""

    async def body(self, limit: int) -> bytes:
        """Return the request's body; raise TooLargeError above *limit* bytes, CallerGoneError when it breaks off."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise CallerGoneError
        data: bytes = message.get("body", b"")
        if message.get("more_body"):
            parts, size = [data], len(data)
            while message.get("more_body") and size <= limit:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    raise CallerGoneError
                parts.append(message.get("body", b""))
                size += len(parts[-1])
            data = b"".join(parts)
        if len(data) > limit:
            raise TooLargeError(f"the body has more than {limit} bytes, the most this gateway reads")
        return data

    def watch(self) -> None:
        """Notice from now on when the caller leaves."""
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._begin)

    def unwatch(self) -> None:
        """Stop noticing."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        self._task = asyncio.ensure_future(self._listen())

    async def _listen(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                break
        self.gone = True
        if self.on_gone is not None:
            self.on_gone()

    async def start(self, status: int, headers: list[Header]) -> None:
        """Send status and headers."""
        self.started = True
        if self._closing:
            headers = [*headers, *self._closing]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def part(self, data: bytes) -> None:
        """Send a part of the body; returns when the caller is ready for more."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """Send the last part."""
        await self._send({"type": "http.response.body", "body": data})

    async def answer(self, status: int, body: bytes, headers: list[Header]) -> None:
        """Send a whole answer."""
        headers.append((b"content-length", b"%d" % len(body)))
        await self.start(status, headers)
        await self.end(body)

    async def refuse(self, error: CallError, headers: list[Header]) -> None:
        """Send an error."""
        await self.answer(error.status, error.body(), [(b"content-type", b"application/json"), *error.headers, *headers])
