"""One HTTP request of a client and the response to it.

A client that disconnects before the end of the response cancels the task that makes it, wherever that waits.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Final, Protocol

from llmproxy.gateway.errors import Header


class ByteBudget:
    """Budget of memory for requests, responses and records of the process."""

    __slots__ = ("limit", "rejected", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.rejected = 0

    def take(self, size: int) -> bool:
        """Take *size* bytes; return False when so many are not left."""
        if self.used + size > self.limit:
            self.rejected += 1
            return False
        self.used += size
        return True

    def give(self, size: int) -> None:
        """Give *size* bytes back."""
        self.used -= size


JSON: Final[Header] = (b"content-type", b"application/json")


class HttpRequest:
    """One whole request."""

    __slots__ = ("body", "coding", "headers", "method", "path", "target")

    def __init__(
        self, method: str, target: bytes, path: str, headers: list[Header], body: bytes, coding: bytes
    ) -> None:
        """*target* and *coding*, of the content, are as they came; *path* is decoded and without a query.

        Names of *headers* are in lower case.
        """
        self.method = method
        self.target = target
        self.path = path
        self.headers = headers
        self.body = body
        self.coding = coding


class ResponseWriter(Protocol):
    """The connection that a response is written to."""

    def respond(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """Write a whole response."""

    def begin(self, status: int, headers: Sequence[Header]) -> None:
        """Write the head of a response that comes in parts."""

    def part(self, data: bytes) -> Awaitable[None] | None:
        """Write a part; return what to wait for before the next one, if the client is slow."""

    def end(self, data: bytes) -> None:
        """Write the last part."""

    def abort(self) -> None:
        """Close the connection, so that what was written does not look whole."""


class HttpExchange:
    """One request and its response. Nothing is written for a client that has disconnected."""

    __slots__ = ("_cancels", "_writer", "disconnected", "request", "started", "task")

    def __init__(self, request: HttpRequest, writer: ResponseWriter) -> None:
        self.request = request
        self._writer = writer
        self._cancels = False
        self.task: asyncio.Task[None] | None = None
        """The one that makes the response; the connection sets it."""
        self.disconnected = False
        self.started = False
        """The head of the response has been sent: after it there is no other response."""

    def cancel_on_disconnect(self) -> None:
        """Cancel the task from now on when the client disconnects; `disconnected` is the reason then."""
        self._cancels = True
        if self.disconnected and self.task is not None:
            self.task.cancel()

    def ignore_disconnect(self) -> None:
        """Let the task run from now on when the client disconnects."""
        self._cancels = False

    def on_disconnect(self) -> None:
        """Take note that the client has closed its connection; for the connection."""
        self.disconnected = True
        if self._cancels and self.task is not None:
            self.task.cancel()

    def start(self, status: int, headers: Sequence[Header]) -> None:
        """Send status and headers."""
        self.started = True
        if not self.disconnected:
            self._writer.begin(status, headers)

    def part(self, data: bytes) -> Awaitable[None] | None:
        """Send a part of the body; return what to wait for before the next one, if the client is slow."""
        return None if self.disconnected else self._writer.part(data)

    def end(self, data: bytes = b"") -> None:
        """Send the last part."""
        self._cancels = False  # from here on the connection may end as it likes
        if not self.disconnected:
            self._writer.end(data)

    def respond(self, status: int, body: bytes, headers: Sequence[Header]) -> None:
        """Send a whole response."""
        self.started = True
        self._cancels = False
        if not self.disconnected:
            self._writer.respond(status, headers, body)

    def abort(self) -> None:
        """Close the connection in the middle of a response."""
        self._cancels = False
        if not self.disconnected:
            self._writer.abort()
