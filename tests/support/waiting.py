"""Waiting for a condition with a deadline, in place of a sleep that hopes."""

import asyncio
import time
from collections.abc import Callable

POLL_S = 0.02


def until(holds: Callable[[], object], what: str = "", *, timeout_s: float = 30.0) -> None:
    """Return as soon as *holds*; AssertionError with *what* if it does not within *timeout_s*."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, what or f"not within {timeout_s:g} s"
        time.sleep(POLL_S)


async def until_async(holds: Callable[[], object], what: str = "", *, timeout_s: float = 30.0) -> None:
    """Do the same on an event loop; *holds* runs on it and must not block."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, what or f"not within {timeout_s:g} s"
        await asyncio.sleep(POLL_S)
