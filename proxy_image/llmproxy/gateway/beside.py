"""The metrics of the shipper, which has a socket and no port: a pod is asked at one place for all of its numbers."""

import asyncio
from pathlib import Path

SOCKET = "shipper-admin.sock"
TIMEOUT_S = 1.0


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
