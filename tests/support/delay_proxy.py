"""A TCP proxy that delays: every piece takes `delay_s` more, in both directions."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class DelayProxy:
    """Listens at `port`, connects to *target* for each that comes."""

    def __init__(self, target: int) -> None:
        self.delay_s = 0.0
        self._target = target
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for end in (self._listener, *self._sockets):
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                self._sockets.append(here)
                try:
                    there = socket.create_connection(("127.0.0.1", self._target), timeout=5)
                except OSError:
                    here.close()
                    continue
                self._sockets.append(there)
                there.settimeout(None)
                for one, other in ((here, there), (there, here)):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                if self.delay_s:
                    time.sleep(self.delay_s)
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def delay_proxy(target: int) -> Iterator[DelayProxy]:
    way = DelayProxy(target)
    try:
        yield way
    finally:
        way.close()
