"""What the kernel is told of a connection to a model server, so that one that has died is noticed."""

import asyncio
import socket


def notice_dead_peers(transport: asyncio.BaseTransport) -> None:
    """Have the kernel ask a silent peer whether it lives: one that is gone ends its call within a minute.

    Unless a deployment says one, no time limit holds between two parts: models may think longer than any.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 60_000)):
        if hasattr(socket, name):  # Linux has all of them
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
