"""The caller's end of one call: reads the body, writes the answer, notices when the caller has left."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from llmproxy.gateway.errors import CallError, Header, SlowBodyError, TooLargeError
from llmproxy.gateway.exchange import OPENAI, Dialect

WATCH_AFTER_S = 0.2
"""Calls that are done by then pay nothing for being watched; a caller who leaves is noticed well within a second."""
BODY_S = 120.0
"""A body that does not come in one piece may take so long."""
JSON: Header = (b"content-type", b"application/json")


class CallerGoneError(Exception):
    """The caller closed its connection before the answer's end."""


class Watch:
    """Looks now and then at all calls in flight: one that has not ended is listened to from then on."""

    def __init__(self) -> None:
        self._callers: set[Caller] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, caller: "Caller") -> None:
        """Look at *caller* in a moment, unless it is removed before."""
        self._callers.add(caller)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._look)

    def remove(self, caller: "Caller") -> None:
        """Forget *caller*."""
        self._callers.discard(caller)

    def _look(self) -> None:
        self._timer = None
        for caller in self._callers:
            caller.listen()
        self._callers.clear()


class Caller:
    """ASGI's receive and send for one request."""

    __slots__ = ("_call", "_closing", "_listener", "_receive", "_send", "_watch", "dialect", "gone", "started")

    def __init__(
        self,
        receive: Callable[[], Any],
        send: Callable[[dict[str, Any]], Any],
        closing: Sequence[Header] = (),
        dialect: Dialect = OPENAI,
    ) -> None:
        """*closing* are headers that go with every answer; they may come and go. Errors are told in *dialect*."""
        self._receive = receive
        self._send = send
        self._closing = closing
        self._watch: Watch | None = None
        self._listener: asyncio.Task[None] | None = None
        self._call: asyncio.Task[Any] | None = None
        self.dialect = dialect
        self.gone = False
        self.started = False
        """Whether the answer's head has been sent: after it there is no other answer."""

    async def body(self, limit: int) -> bytes:
        """Return the request's body; raise TooLargeError above *limit* bytes, CallerGoneError when it breaks off."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise CallerGoneError
        data: bytes = message.get("body", b"")
        if message.get("more_body"):
            try:
                async with asyncio.timeout(BODY_S):
                    data = await self._rest(data, limit)
            except TimeoutError as exc:
                raise SlowBodyError(f"the body did not come within {BODY_S:g} s") from exc
        if len(data) > limit:
            raise TooLargeError(f"the body has more than {limit} bytes, the most this gateway reads")
        return data

    async def _rest(self, data: bytes, limit: int) -> bytes:
        parts, size, more = [data], len(data), True
        while more and size <= limit:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise CallerGoneError
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
        return b"".join(parts)

    def watch(self, watch: Watch) -> None:
        """Cancel the running task from now on when the caller leaves; `gone` says that this is why."""
        self._call = asyncio.current_task()
        self._watch = watch
        watch.add(self)

    def unwatch(self) -> None:
        """Stop noticing."""
        self._call = None
        if self._watch is not None:
            self._watch.remove(self)
        if self._listener is not None:
            self._listener.cancel()

    def listen(self) -> None:
        """Wait for the caller to leave; for Watch."""
        self._listener = asyncio.ensure_future(self._listen())

    async def _listen(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                break
        if self._call is not None:
            self.gone = True
            self._call.cancel()

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
        self._call = None  # from here on the connection may end as it likes
        await self._send({"type": "http.response.body", "body": data})

    async def answer(self, status: int, body: bytes, headers: list[Header]) -> None:
        """Send a whole answer."""
        headers.append((b"content-length", b"%d" % len(body)))
        headers.extend(self._closing)
        self.started = True
        self._call = None  # as in `end`
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def refuse(self, error: CallError, headers: Sequence[Header] = ()) -> None:
        """Send an error."""
        await self.answer(error.status, self.dialect.error(error), [JSON, *error.headers, *headers])
