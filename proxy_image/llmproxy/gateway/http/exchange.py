"""The caller's end of one call: what it has sent, and the answer on its way to it.

Whoever leaves before the answer's end cancels the call's task, wherever that waits.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Final, Protocol

from llmproxy.gateway.adapters.base import OPENAI, Dialect
from llmproxy.gateway.errors import CallError, Header

JSON: Final[Header] = (b"content-type", b"application/json")


class Request:
    """One whole request."""

    __slots__ = ("body", "headers", "method", "path")

    def __init__(self, method: str, path: str, headers: list[Header], body: bytes) -> None:
        """*path* is decoded and without a query; names of *headers* are in lower case."""
        self.method = method
        self.path = path
        self.headers = headers
        self.body = body


class Line(Protocol):
    """The connection that an answer goes to."""

    def answer(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """Write a whole answer."""

    def begin(self, status: int, headers: Sequence[Header]) -> None:
        """Write the head of an answer that comes in parts."""

    def part(self, data: bytes) -> Awaitable[None] | None:
        """Write a part; return what to wait for before the next one, if the caller is slow."""

    def end(self, data: bytes) -> None:
        """Write the last part."""

    def abort(self) -> None:
        """Hang up, so that what was written does not look whole."""


class Caller:
    """One request and its answer. Nothing is written for a caller that has left."""

    __slots__ = ("_line", "_watched", "dialect", "gone", "request", "started", "task")

    def __init__(self, request: Request, line: Line) -> None:
        self.request = request
        self._line = line
        self._watched = False
        self.task: asyncio.Task[None] | None = None
        """The one that makes the answer; the line sets it."""
        self.dialect: Dialect = OPENAI
        """In which errors are told."""
        self.gone = False
        self.started = False
        """Whether the answer's head has been sent: after it there is no other answer."""

    def watch(self) -> None:
        """Cancel its task from now on when the caller leaves; `gone` says that this is why."""
        self._watched = True
        if self.gone and self.task is not None:
            self.task.cancel()

    def unwatch(self) -> None:
        """Stop that."""
        self._watched = False

    def left(self) -> None:
        """The caller has closed its connection; for the line."""
        self.gone = True
        if self._watched and self.task is not None:
            self.task.cancel()

    def start(self, status: int, headers: Sequence[Header]) -> None:
        """Send status and headers."""
        self.started = True
        if not self.gone:
            self._line.begin(status, headers)

    def part(self, data: bytes) -> Awaitable[None] | None:
        """Send a part of the body; return what to wait for before the next one, if the caller is slow."""
        return None if self.gone else self._line.part(data)

    def end(self, data: bytes = b"") -> None:
        """Send the last part."""
        self._watched = False  # from here on the connection may end as it likes
        if not self.gone:
            self._line.end(data)

    def answer(self, status: int, body: bytes, headers: Sequence[Header]) -> None:
        """Send a whole answer."""
        self.started = True
        self._watched = False
        if not self.gone:
            self._line.answer(status, headers, body)

    def refuse(self, error: CallError, headers: Sequence[Header] = ()) -> None:
        """Send an error."""
        self.answer(error.status, self.dialect.error(error), (JSON, *error.headers, *headers))

    def abort(self) -> None:
        """Hang up in the middle of an answer."""
        self._watched = False
        if not self.gone:
            self._line.abort()
