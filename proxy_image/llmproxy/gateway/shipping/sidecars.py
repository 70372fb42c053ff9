"""Probes of the other containers of the pod.

The translator is probed for its start. The shipper has a socket and no port: its metrics are served with the gateway's,
so that Prometheus scrapes a pod at one address.
"""

import asyncio
import logging
from pathlib import Path

SOCKET = "shipper-admin.sock"
TIMEOUT_S = 1.0
TRANSLATOR_S = 30.0
"""Longest wait for the translator, which imports LiteLLM for some 5 s; then models that do not need it are served."""
PROBE_S = 0.1
log = logging.getLogger("llmproxy.gateway")


async def wait_for_translator(path: Path, stop: asyncio.Event) -> None:
    """Wait until the translator accepts connections at *path*, *stop* is set, or TRANSLATOR_S is over."""
    try:
        async with asyncio.timeout(TRANSLATOR_S):
            while not stop.is_set() and not await _listens(path):  # noqa: ASYNC110 - another process
                await asyncio.sleep(PROBE_S)
    except TimeoutError:
        log.warning("translator_unreachable", extra={"waited_s": TRANSLATOR_S})


async def _listens(path: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(str(path))
    except OSError:
        return False
    writer.close()
    return True


async def shipper_metrics(run_dir: Path) -> bytes:
    """Return the shipper's metrics as text; nothing while it is unreachable."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await _scrape(run_dir / SOCKET)
    except OSError:  # a timeout is one
        return b""


async def _scrape(path: Path) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(b"GET /metrics HTTP/1.0\r\nHost: shipper\r\n\r\n")
        head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")  # to its end: HTTP/1.0 closes
        return body if head.split(b" ")[1:2] == [b"200"] else b""
    finally:
        writer.close()
