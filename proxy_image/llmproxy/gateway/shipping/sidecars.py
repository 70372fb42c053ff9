"""What the gateway asks of the containers beside it, other than calls.

Of the translator, whether it is there; of the shipper its metrics, since it has a socket and no port, and a pod is
asked at one place for all of its numbers.
"""

import asyncio
import logging
from pathlib import Path

SOCKET = "shipper-admin.sock"
TIMEOUT_S = 1.0
TRANSLATOR_S = 30.0
"""Longest wait for the translator, which imports LiteLLM for some 5 s; then models that do not need it are served."""
LOOK_S = 0.1
log = logging.getLogger("llmproxy.gateway")


async def wait_for_translator(path: Path, stop: asyncio.Event) -> None:
    """Return when the translator takes connections at *path*, or *stop* is set, or it has taken too long."""
    try:
        async with asyncio.timeout(TRANSLATOR_S):
            while not stop.is_set() and not await _listens(path):  # noqa: ASYNC110 - another process
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        log.warning("translator_not_there", extra={"waited_s": TRANSLATOR_S})


async def _listens(path: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(str(path))
    except OSError:
        return False
    writer.close()
    return True


async def shipper_metrics(run_dir: Path) -> bytes:
    """Return what the shipper tells Prometheus; nothing while it is away."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await _ask(run_dir / SOCKET)
    except OSError:  # a timeout is one
        return b""


async def _ask(path: Path) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(b"GET /metrics HTTP/1.0\r\nHost: shipper\r\n\r\n")
        head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")  # to its end: HTTP/1.0 closes
        return body if head.split(b" ")[1:2] == [b"200"] else b""
    finally:
        writer.close()
